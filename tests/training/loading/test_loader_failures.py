"""Workers that die, hang or raise end the run with an error that says where, and none of them outlives it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from halves import final_manifest  # pyright: ignore[reportMissingImports]

from vitruvius.data import TokenShards
from vitruvius.errors import DataError, RunError, VitruviusError
from vitruvius.runs import RunReader
from vitruvius.training import TrainConfig, resume
from vitruvius.training.config import batches_of
from vitruvius.training.loading import BatchLoader, memory
from vitruvius.training.settings import Loader
from vitruvius.training.settings.preprocess import HookUse

WAYS = {
    "alone": Loader(),
    "threads": Loader(workers=2, by="threads"),
    "processes": Loader(workers=2, by="processes"),
}


def read(loader, numbers):
    return [loader.at(number) for number in numbers]


def loader_of(data, **changed):
    config = TrainConfig(**{"steps": 100, "batch": 4, "context": 32, "objective": "causal-lm", **changed})
    return BatchLoader(batches_of(TokenShards.open(data, verify="sizes"), config), config, vocab_size=320)


def gone(pid, seconds=10.0):
    """Whether a process ends by itself; a zombie has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def hook(tmp_path):
    """Write a hook file and name its function: `hook("...body...")`."""

    def write(body, name="hooks.py"):
        path = tmp_path / name
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        text = "import os, re, signal, time\nimport numpy as np\n\n\ndef change(sample, draw):\n"
        path.write_text(f"{text}{lines}\n", encoding="utf-8")
        return (HookUse(hook=f"{path}:change"),)

    return write


def test_a_killed_worker_is_named_with_step_sample_file_and_offset(data):
    with closing(loader_of(data, loader=Loader(workers=1, by="processes", ahead=2, timeout=30))) as loader:
        loader.step = lambda: 3
        loader.at(0)
        loader.at(1)
        (pid,) = loader._workers.pids
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RunError) as caught:
            read(loader, range(2, 6))
    message = str(caught.value)
    assert "step 3, batch " in message
    assert f"worker 0 (process {pid}) has died (SIGKILL) at sample " in message
    assert "shard-00000.bin from byte " in message
    assert "memory is short" in message
    assert gone(pid)


def test_a_worker_that_stands_still_is_named_after_the_timeout(data):
    with closing(loader_of(data, loader=Loader(workers=1, by="processes", ahead=1, timeout=0.5))) as loader:
        loader.at(0)
        (pid,) = loader._workers.pids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(RunError, match=r"worker 0 \(process \d+\) has not gone on for 0.5 seconds at sample"):
            read(loader, range(1, 4))
    assert gone(pid), "a stopped process is ended too"


def test_a_thread_that_stands_still_is_named_after_the_timeout(data, hook):
    hooks = hook("if sample.sample_id % 7 == 0: time.sleep(3600)\nreturn {}")
    with (
        closing(loader_of(data, preprocess=hooks, loader=Loader(workers=1, by="threads", timeout=0.3))) as loader,
        pytest.raises(RunError, match=r"worker 0 \(a thread\) has not gone on for 0.3 seconds at sample \d+ of source"),
    ):
        read(loader, range(20))


@pytest.mark.parametrize("way", WAYS)
def test_an_error_comes_at_its_batch_and_says_the_same_whoever_reads(way, data, hook):
    wanted = loader_of(data).batches.drawn(3).sample_ids.tolist()[2]
    hooks = hook(f"if sample.sample_id == {wanted}: raise KeyError('digits')\nreturn {{}}")
    with closing(loader_of(data, preprocess=hooks, loader=WAYS[way])) as loader:
        for number in range(3):
            loader.at(number)
        with pytest.raises(RunError) as caught:
            loader.at(3)
    assert caught.value.where == f"batch 3: hook change, sample {wanted} of source all, epoch 0"
    assert caught.value.what.startswith("it raised KeyError: 'digits' (")
    assert caught.value.what.endswith("hooks.py, line 6)")


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_shard_is_named_with_file_and_byte(way, data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    shard = next(folder.glob("train/*.bin"))
    content = bytearray(shard.read_bytes())
    content[4000:4002] = b"\xff\xff"
    shard.write_bytes(content)
    with closing(loader_of(folder, loader=WAYS[way])) as loader, pytest.raises(DataError) as caught:
        read(loader, range(200))
    assert caught.value.what.startswith("token 65535 at byte 4,000 is not below the vocabulary size")
    assert caught.value.where.endswith(str(shard))


def test_a_file_that_is_cut_short_while_it_is_read_ends_the_worker_and_not_the_run(data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    shard = next(folder.glob("train/*.bin"))
    with closing(loader_of(folder, loader=Loader(workers=1, by="processes", ahead=1))) as loader:
        loader.at(0)
        os.truncate(shard, 0)
        with pytest.raises(RunError, match=r"has died \(SIGBUS\) at sample \d+ .*shard-00000.bin from byte"):
            read(loader, range(1, 10))


@pytest.mark.parametrize("what", ["index.json", "train/shard-00000.bin"])
def test_data_that_is_gone_when_workers_open_it_is_named(what, data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    with closing(loader_of(folder, loader=Loader(workers=2, by="processes"))) as loader:
        (folder / what).unlink()
        with pytest.raises(DataError, match="index"):
            loader.at(0)


def test_data_that_was_prepared_anew_is_refused_by_workers(data, other_data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    with closing(loader_of(folder, loader=Loader(workers=1, by="processes"))) as loader:
        shutil.rmtree(folder)
        shutil.copytree(other_data, folder)
        with pytest.raises(DataError, match="prepared anew"):
            loader.at(0)


def test_more_than_there_is_memory_for_is_refused_before_any_is_taken(monkeypatch):
    monkeypatch.setattr(memory, "_without_name", lambda: pytest.fail("memory was asked for"))
    with pytest.raises(RunError, match=r"no room for 1,024 batches read ahead, \d+\.\d+ TB: there are .*B \("):
        memory.SharedMemory.made(memory.Layout(workers=1, slots=1024, samples=1 << 20, context=1 << 12))


@pytest.mark.slow
def test_a_run_whose_worker_dies_goes_on_to_the_bits_of_the_straight_one(dense, run_of, hook, tmp_path):
    deadly = tmp_path / "deadly"
    hooks = hook(f"if os.path.exists({str(deadly)!r}) and draw.random() < 0.2: os.kill(os.getpid(), 9)\nreturn {{}}")
    straight = run_of(dense, "straight", preprocess=hooks)
    way = Loader(workers=2, ahead=2)

    class Arming:
        def __getattr__(self, name):
            return lambda *a, **k: name == "row" and a[0]["step"] == 3 and deadly.touch()

    with pytest.raises(RunError, match=r"step \d, batch \d: train.loader\n  worker \d .* has died \(SIGKILL\)"):
        run_of(dense, "killed", preprocess=hooks, loader=way, listener=Arming())
    deadly.unlink()
    run = straight.run.parent / "killed"
    assert RunReader(run).record()["status"] == "failed"
    resumed = resume(run)
    assert final_manifest(resumed.run) == final_manifest(straight.run)
    assert not children()


def children():
    """This process's children that are loaders."""
    pids = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in pids if b"loading.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


OWNER = """
import sys, time
from vitruvius.data import TokenShards
from vitruvius.training import TrainConfig
from vitruvius.training.config import batches_of
from vitruvius.training.loading import BatchLoader
from vitruvius.training.settings import Loader
from vitruvius.training.settings.preprocess import HookUse

config = TrainConfig(steps=99, batch=2, context=32, objective="causal-lm",
    preprocess=(HookUse(hook=sys.argv[2] + ":change"),), loader=Loader(workers=2, by="processes", timeout=600))
loader = BatchLoader(batches_of(TokenShards.open(sys.argv[1]), config), config, vocab_size=320)
loader._workers = loader._started()
print(*loader._workers.pids, flush=True)
loader.at(0)
"""
STUCK = {
    "waiting": "time.sleep(3600)",
    "in C code that holds Python's lock": "re.match('(a+)+$', 'a' * 60 + 'b')",
}


@pytest.mark.slow
@pytest.mark.parametrize("stuck", STUCK)
def test_workers_end_with_a_run_that_is_killed_whatever_they_are_at(stuck, data, hook):
    (use,) = hook(STUCK[stuck])
    file = use.hook.rpartition(":")[0]
    with subprocess.Popen([sys.executable, "-c", OWNER, str(data), file], stdout=subprocess.PIPE, text=True) as owner:
        pids = list(map(int, owner.stdout.readline().split()))
        assert len(pids) == 2
        time.sleep(1.5)  # until they are at it
        owner.kill()
    assert all(gone(pid) for pid in pids)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_to_all_processes_stops_the_run_quietly_with_a_checkpoint(number, code, data, tmp_path):
    command = [sys.executable, "-m", "vitruvius", "train", "tiny-llama", "--data", str(data), "--out", "run"]
    command += ["--steps", "100000", "--context", "32", "--batch", "2", "--set", "train.loader.workers=2"]
    command += ["--set", "train.loader.by=processes", "--set", "train.threads=1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert "Interrupt" not in said
    assert RunReader(tmp_path / "run").checkpoints()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_workers_load_no_torch_and_are_small(data):
    with closing(loader_of(data, loader=Loader(workers=1, by="processes"))) as loader:
        loader.at(0)
        (pid,) = loader._workers.pids
        assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        assert kilobytes < 128 * 1024
    assert not children()


def test_a_program_without_a_main_guard_may_use_workers(data, tmp_path):
    """Processes are started as programs of our own: the user's script is not run again in each."""
    (tmp_path / "script.py").write_text(
        OWNER.replace('HookUse(hook=sys.argv[2] + ":change"),', "")
        .replace("loader._workers =", "#")
        .replace("print(*loader", "#")
        + 'print("once")\nloader.close()\n'
    )
    done = subprocess.run(
        [sys.executable, "script.py", str(data)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "once\n"), done.stderr


def test_what_a_hook_prints_is_no_data(data, hook, capfd):
    hooks = hook("print('{}')\nreturn {}")
    with closing(loader_of(data, preprocess=hooks, loader=Loader(workers=1, by="processes"))) as loader:
        loader.at(0)
    assert capfd.readouterr().out == ""


def test_every_error_of_a_worker_is_one_of_ours(data, hook):
    hooks = hook("if sample.sample_id % 3 == 0: raise MemoryError\nreturn {}")
    with closing(loader_of(data, preprocess=hooks, loader=WAYS["processes"])) as loader, pytest.raises(VitruviusError):
        read(loader, range(10))
