"""`vitruvius bench` as a user meets it, and everything that can be wrong with what it is given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ET

import pytest

from vitruvius.cli.main import run
from vitruvius.evals import machine as machines
from vitruvius.sizing.hardware import device_named
from vitruvius.spec import preset

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = """\
name: small
vocab_size: 320
width: 32
context: 64
head: {kind: lm, tied: true}
blocks:
  a:
    mixer: {kind: attention, heads: 2, sees: causal & sliding(8), position: {kind: rope}}
    ffn: {kind: swiglu, hidden: 48}
layers: a
"""
FEW = ("--lengths", "8,16", "--warmups", "1", "--runs", "3", "--minutes", "60")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with one spec, on a machine that is quickly measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("BRIEF", "FULL"):
        monkeypatch.setattr(machines, name, machines.QUICK)
    monkeypatch.setattr(machines, "preset", lambda _name: preset("tiny-simple-transformer"))
    (tmp_path / "small.yaml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def said(here, said):
    """Run the verb in this process: exit code, stdout, stderr."""
    return lambda *argv: said("bench", *argv)


@pytest.fixture
def refused(here, said):
    """Run a command that must be refused, with no effect; what it said on stderr."""

    def call(*argv):
        before = sorted(map(str, here.rglob("*")))
        code, out, err = said(*argv)
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ") and "  fix: " in err
        assert sorted(map(str, here.rglob("*"))) == before
        return err

    return call


# ----------------------------------------------------------------------------------------------------------------------
# What it does


def test_a_spec_is_timed_and_the_table_says_what_was_measured(said):
    code, out, err = said("small.yaml", *FEW)
    assert code == 0, err
    assert out.startswith("small: 19.04 K parameters, bf16, batch 1, 1 thread\n")
    for phase in ("prefill", "decode", "train"):
        assert sum(line.startswith(phase) and "1 + 3" in line for line in out.splitlines()) == 2
        assert f"where {phase} at 16 spends its time" in out
    assert "mixer attention" in out
    assert err.splitlines()[-1] == "next: vitruvius bench small.yaml --html bench.html"


def test_json_page_and_flame_graph_say_the_same(said, here):
    code, out, err = said("small.yaml", *FEW, "--json", "--html", "b.html", "--flame", "f.svg", "--phases", "decode")
    assert code == 0, err
    document = json.loads(out)
    assert document["schema"] == "vitruvius.bench/1"
    assert document["tokens_per_second"]["median"] > 0 and document["peak_memory_bytes"] > 0
    assert (document["warmups"], document["runs"]) == (1, 3)
    assert {row["phase"] for row in document["rows"]} == {"decode"}
    page = (here / "b.html").read_text(encoding="utf-8")
    assert f"{document['rows'][0]['tokens_per_second']['median']:,.4g}"[:3] in page
    drawing = ET.parse(here / "f.svg").getroot()
    names = "".join(drawing.itertext())
    assert "decode at 16" in names and "mixer attention" in names


def test_folded_stacks_are_written_where_the_name_is_not_a_drawing(said, here):
    code, _, err = said("small.yaml", *FEW, "--phases", "prefill", "--flame", "stacks.txt")
    assert code == 0, err
    lines = (here / "stacks.txt").read_text(encoding="utf-8").splitlines()
    assert lines and all(line.rpartition(" ")[2].isdigit() for line in lines)
    assert any(line.startswith("prefill at 16;a;mixer attention;") for line in lines)


@pytest.mark.parametrize("other", ["tiny-llama", "reference", "small.yaml"])
def test_against_something_there_is_a_verdict_for_every_row(said, other):
    few = ("--lengths", "8", "--warmups", "1", "--runs", "9", "--minutes", "60", "--phases", "prefill")
    code, out, err = said("small.yaml", *few, "--against", other, "--json")
    assert code == 0, err
    document = json.loads(out)
    (versus,) = document["comparisons"]
    assert versus["verdict"] in {"faster", "slower", "inconclusive"}
    assert versus["rounds"] == 9 and versus["ci_low"] <= versus["times_as_fast"] <= versus["ci_high"]
    assert versus["a"] != versus["b"] and len(document["contenders"]) == 2


def test_fields_of_the_spec_can_be_set(said):
    code, out, err = said("small.yaml", *FEW, "--phases", "decode", "--set", "width=64", "--json")
    assert code == 0, err
    assert json.loads(out)["contenders"][0]["parameters"] > 30_000


def test_a_trained_run_is_timed_with_its_own_weights(said, here, data_of_words):
    data_of_words(8, 200, here)
    quick = ["--steps", "1", "--batch", "2", "--set", "train.threads=1", "--set", "train.final_eval_batches=1"]
    assert run(["train", "small.yaml", "--data", "data", "--out", "runs/first", *quick]) == 0
    code, out, err = said("runs/first", *FEW, "--phases", "prefill,decode", "--json")
    assert code == 0, err
    assert json.loads(out)["name"] == "first"
    assert err.splitlines()[-1] == "next: vitruvius generate runs/first --prompt TEXT"
    code, _, err = said("runs/first", "--set", "width=64")
    assert code == 2 and "cannot be changed" in err


def test_the_machine_is_measured_and_sizing_reads_it(said, here):
    code, out, err = said("--machine")
    assert code == 0, err
    assert "bf16 products" in out and "GB/s" in out
    path = here / "cache" / "vitruvius" / "machine.toml"
    assert f"wrote {path}" in err
    assert tomllib.loads(path.read_text(encoding="utf-8"))["this-machine"]["tier"] == "cpu"
    assert device_named("this-machine").usable_bytes > 0
    code, out, err = said("--machine", "--json", "--out", "other.toml")
    document = json.loads(out)
    assert (code, document["schema"], document["written_to"]) == (0, "vitruvius.machine/1", "other.toml")
    assert document["efficiency"]["compute"] > 0


def test_when_nothing_is_run_there_is_no_flame_graph_and_a_page_all_the_same(said, here):
    code, _, err = said("small.yaml", "--lengths", "64", "--minutes", "1e-9", "--html", "b.html", "--flame", "f.svg")
    assert code == 0, err
    assert "no flame graph" in err or (here / "f.svg").exists()
    assert "predicted" in (here / "b.html").read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------------------
# What is wrong


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "name a SPEC"),
        (["no-such-preset"], "no-such-preset"),
        (["small.yaml", "--lengths", "0"], "at least one token"),
        (["small.yaml", "--lengths", "-5"], "-5"),
        (["small.yaml", "--lengths", "65"], "65 tokens are beyond small, which takes 64 at most"),
        (["small.yaml", "--lengths", "8,,9"], "cannot read"),
        (["small.yaml", "--lengths", "many"], "many"),
        (["small.yaml", "--lengths", "1e30"], "beyond small"),
        (["small.yaml", "--phases", "prefil"], "did you mean 'prefill'"),
        (["small.yaml", "--phases", ","], "no phase was named"),
        (["small.yaml", "--batch", "0"], "batch=0"),
        (["small.yaml", "--batch", "1e9"], "batch=1000000000"),
        (["small.yaml", "--dtype", "int3"], "int3"),
        (["small.yaml", "--dtype", "fp64"], "fp64"),
        (["small.yaml", "--against", "tiny-lama"], "tiny-llama"),
        (["small.yaml", "--threads", "0"], "threads"),
        (["small.yaml", "--runs", "0"], "runs"),
        (["small.yaml", "--warmups", "-1"], "warmups"),
        (["small.yaml", "--minutes", "0"], "minutes"),
        (["small.yaml", "--minutes", "nan"], "minutes"),
        (["small.yaml", "--minutes", "inf"], "minutes"),
        (["small.yaml", "--set", "width=0"], "width"),
        (["small.yaml", "--html", "no/such/folder/x.html"], "no/such/folder"),
        (["small.yaml", "--html", "."], "folder"),
        (["small.yaml", "--html", "/dev/full"], "no plain file"),
        (["small.yaml", "--flame", "small.yaml/x.svg"], "small.yaml"),
        (["small.yaml", "--machine"], "measures the machine alone"),
        (["small.yaml", "--out", "x.toml"], "--out goes with --machine"),
        (["--machine", "--out", "."], "folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_refused_with_a_reason_and_a_way_out(refused, argv, says):
    assert says in refused(*argv)


def test_a_folder_that_is_no_run_is_refused(refused, here):
    (here / "empty").mkdir()
    assert "no run.json" in refused("empty")


def test_a_damaged_run_is_refused(refused, here):
    (here / "bad").mkdir()
    (here / "bad" / "run.json").write_text("{")
    assert "bad" in refused("bad")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(refused, here):
    (here / "locked").mkdir(mode=0o500)
    assert "cannot be written" in refused("small.yaml", "--html", "locked/x.html")


@pytest.mark.slow
def test_an_interrupt_leaves_no_file_behind(here):
    asked = ["bench", "small.yaml", "--html", "b.html", "--flame", "f.svg", "--minutes", "60", "--runs", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vitruvius", *asked],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "measuring" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert sorted(path.name for path in here.iterdir()) == ["small.yaml"]


@pytest.mark.slow
def test_the_profiler_says_nothing_of_its_own(vitruvius, tmp_path):
    (tmp_path / "small.yaml").write_text(SPEC)
    asked = ("--lengths", "8", "--phases", "decode", "--runs", "3", "--warmups", "1", "--minutes", "0.9")
    done = vitruvius("bench", "small.yaml", *asked, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "profiler" not in done.stderr.lower() and "warn" not in done.stderr.lower()
