"""`vitruvius find-batch`: sizes measured in processes of their own, a table, and the settings that keep the batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

QUICK = ["--seconds", 0.1, "--rounds", 1, "--context", 16, "--set", "train.threads=1"]
SMALL = [*QUICK, "--set", "vocab_size=300", "--set", "width=32", "--set", "layers=layer"]


@pytest.mark.slow
def test_sizes_of_a_batch_that_is_named_divide_it_and_keep_it(said, prepared, here):
    data = ["--data", prepared / "data"]
    code, out, err = said("find-batch", "tiny-llama", *data, "--batch", 4, *SMALL, "--min", 2, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["schema"] == "vitruvius.find-batch/1"
    assert (told["whole_batch"], told["data"], told["device"]) == (4, str(prepared / "data"), "cpu")
    assert [size["batch"] for size in told["sizes"]] == [2, 4]
    assert [size["accumulate"] for size in told["sizes"]] == [2, 1]
    for size in told["sizes"]:
        assert size["status"] == "measured"
        assert size["fits"] is True
        assert size["updates"] >= 3
        assert size["tokens_per_second"] > 0
        assert 0 < size["share_of_best"] <= 1
        # Masks of packed documents depend on where those end, so the prediction is what they take at most.
        assert 0.8 * size["predicted_bytes"] < size["peak_bytes"] < 1.03 * size["predicted_bytes"]
    chosen = told["chosen"]
    assert told["settings"] == {"train.batch": 4, "train.accumulate": 4 // chosen}
    assert told["arguments"] == ["train.batch=4", f"train.accumulate={4 // chosen}"]
    assert f"next: vitruvius train tiny-llama --set train.batch=4 --set train.accumulate={4 // chosen}" in err
    assert "no batch was named" not in err


@pytest.mark.slow
def test_without_data_tokens_are_drawn_and_the_size_becomes_the_batch(said, here):
    code, out, err = said("find-batch", "tiny-llama", *SMALL, "--max", 1)
    assert code == 0, err
    assert "the batch is open, random tokens" in out
    assert "--set train.batch=1 --set train.accumulate=1" in out
    assert "<- sweet spot" in out
    assert "note: no batch was named" in err
    assert "batch 1: about" in err
    assert "\x1b" not in out + err


@pytest.mark.slow
def test_a_run_file_is_read_as_train_reads_it(said, prepared, here):
    (here / "run.yaml").write_text(
        f"spec: tiny-llama\ndata: {prepared / 'data'}\nout: nowhere\n"
        "train: {batch: 1, threads: 1, optimizer: adamw-8bit, ema: 0.9}\n"
    )
    code, out, _ = said("find-batch", "run.yaml", "--context", 16, "--seconds", 0.1, "--json", "--set", "width=32")
    told = json.loads(out)
    assert code == 0
    assert told["whole_batch"] == 1
    (size,) = told["sizes"]
    assert size["peak_bytes"] < 1.03 * size["predicted_bytes"]
    assert not (here / "nowhere").exists()


@pytest.mark.slow
def test_a_second_round_adds_updates_and_says_how_much_is_left(said, here):
    code, out, err = said("find-batch", "tiny-llama", *SMALL, "--max", 1, "--rounds", 2, "--json")
    assert code == 0
    assert json.loads(out)["sizes"][0]["updates"] >= 6
    assert "batch 1, round 2 of 2: about " in err


def test_what_cannot_fit_is_not_run_and_the_exit_code_says_so(said, here):
    code, out, err = said("find-batch", "llama-3-8b", "--memory", "1GB")
    assert code == 1
    assert "no size that was tried fits with 10% of 1.000 GB (--memory) left free" in out
    assert out.count("not run") == 4
    assert "next: vitruvius train llama-3-8b --set train.checkpointing=layers" in err


@pytest.mark.slow
def test_what_leaves_no_margin_is_measured_and_not_chosen(said, here):
    code, out, _ = said("find-batch", "tiny-llama", *SMALL, "--max", 1, "--memory", "20MB", "--margin", 99, "--json")
    told = json.loads(out)
    assert code == 1
    assert (told["sizes"][0]["status"], told["sizes"][0]["fits"]) == ("measured", False)
    assert (told["chosen"], told["settings"], told["arguments"]) == (None, None, None)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--batch", 0], "--batch"),
        (["--min", 0], "--min"),
        (["--min", 9, "--max", 4], "--max 4 is below --min 9"),
        (["--batch", 7, "--min", 2, "--max", 6], "divides the batch of 7"),
        (["--batch", 2147483647, "--min", 2, "--max", 6], "divides the batch of 2,147,483,647"),
        (["--data", "nowhere"], "nowhere"),
        (["--memory", "banana"], "banana"),
        (["--memory", "0"], "--memory"),
        (["--within", "nan"], "--within"),
        (["--margin", 100], "--margin"),
        (["--rounds", 0], "--rounds"),
        (["--seconds", 0], "--seconds"),
        (["--set", "train.engine.kind=ddp"], "one process is measured"),
        (["--set", "train.nope=1"], "there is no setting 'nope'"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_before_anything_is_started(words, named, said, here):
    code, out, err = said("find-batch", "tiny-llama", *words)
    assert code == 2
    assert named in err
    assert not out
    assert "about" not in err


def test_data_that_does_not_fit_the_architecture_is_refused_as_train_does(said, prepared, here):
    code, _, err = said("find-batch", "tiny-llama", "--data", prepared / "data", "--set", "vocab_size=10")
    assert code == 2
    assert "the architecture's vocab_size is 10" in err


def test_asking_loads_no_torch(here):
    words = ["find-batch", "llama-3-8b", "--memory", "1GB"]
    code = f"import sys; from vitruvius.cli.main import run; sys.exit(run({words!r}) + 10 * ('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 1


@pytest.mark.slow
def test_ctrl_c_prints_what_was_measured_so_far_and_leaves_nothing_running(here):
    words = ["find-batch", "tiny-llama", *SMALL, "--rounds", 1000]
    command = [sys.executable, "-m", "vitruvius", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = []
    for line in process.stderr:  # pyright: ignore[reportOptionalIterable]
        said.append(line)
        if "tokens/s" in line:
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted: this is what was measured so far" in out
    assert "<- sweet spot" in out
    time.sleep(0.2)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    assert not children.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited on Linux")
def test_a_size_that_really_runs_out_of_memory_takes_nobody_down(here):
    words = ["find-batch", "tiny-llama", "--context", 256, "--seconds", 0.1, "--rounds", 1, "--min", 32, "--json"]
    words += ["--set", "train.threads=1", "--max", 128]
    # What does not fit is to be large tensors, and nothing small: four of 134 MB at a batch of 64.
    words += ["--set", "blocks.layer.ffn.hidden=4096", "--set", "layers=layer*1", "--set", "width=32"]
    words += ["--set", "blocks.layer.mixer.heads=2", "--set", "blocks.layer.mixer.kv_heads=1"]
    limited = "ulimit -v 2400000; exec " + " ".join([sys.executable, "-m", "vitruvius", *map(str, words)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", "-c", limited], capture_output=True, text=True, check=False, env=environment)
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    states = {size["batch"]: size["status"] for size in told["sizes"]}
    assert states[32] == "measured"
    assert "out-of-memory" in states.values()
    assert states[told["chosen"]] == "measured"
