"""Kills a training run at chosen moments and resumes it, in children of one process; prints what came out as JSON.

python killing.py DATA FOLDER SAVE events [EVERY]     before every (EVERY-th) file operation under checkpoints/
python killing.py DATA FOLDER SAVE bytes [MOMENTS]    at so many byte offsets of each file of a checkpoint
python killing.py DATA FOLDER SAVE twice              in the run, and again in the run that resumes it

SAVE is `wait`, or `behind`: then the thread that writes pauses before each file until an update was done meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.runs import RunFolder, RunReader, manifest
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, checkpoint, parts, resume, train
from vitruvius.training.companions import Companion
from vitruvius.training.settings import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from vitruvius.training.loop import Trainer

STEPS, EVERY, KEEP = 5, 2, 1
FILES = ("model.safetensors", "optimizer.safetensors", "memory.safetensors", "state.json", "manifest.json")
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
SPEC = ["width=16", "context=16", "vocab_size=320", "layers=dense moe", "blocks.dense.mixer.heads=2"]
SPEC += ["blocks.dense.mixer.kv_heads=1", "blocks.dense.ffn.hidden=16", "blocks.moe.ffn.experts=2"]
SPEC += ["blocks.moe.ffn.expert.hidden=16", "blocks.moe.ffn.top_k=1", "blocks.dense.mixer.sees=causal & sliding(4)"]


class Memory(Companion):
    """Draws a random number after each update and steers the next one by the sum: wrong state shows in the weights."""

    name = "memory"

    def __init__(self) -> None:
        self.sum, self.updates = torch.zeros(2), 0

    def started(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def before(self, step: int) -> None:
        self.trainer.state.lr_factor = 1 + 0.1 * math.tanh(float(self.sum[0])) + 0.01 * self.updates

    def after(self, step: int, row: Mapping[str, Any]) -> Mapping[str, float]:
        self.sum += torch.rand(2) + row["loss"]
        self.updates += 1
        return {}

    def state(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]

    def tensors(self) -> dict[str, Tensor]:
        return {"sum": self.sum}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.sum.copy_(tensors["sum"])


def in_child(work: Callable[[], None]) -> int:
    """Do `work` in a child; 0, or the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            work()
            code = 0
        except BaseException:  # noqa: BLE001 (the child ends here either way)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0, "a child failed; its traceback is on stderr"
    return 0


def start(data: Path, run: Path, save: str) -> None:
    config = TrainConfig(
        steps=STEPS,
        batch=2,
        threads=1,
        checkpoint_every=EVERY,
        keep=KEEP,
        eval_every=0,
        final_eval_batches=1,
        recovery=Recovery(save=save),
    )
    train(preset("tiny-llama-moe", overrides=SPEC), data=data, out=run, config=config)


def pause_while_writing() -> None:
    """Let an update be done, where there is one left, before each file that the thread writes."""
    done = threading.Event()
    write_tensors, metric = checkpoint.write_tensors, RunFolder.metric

    def paused(path: Path, tensors: Mapping[str, Tensor]) -> None:
        if threading.current_thread() is not threading.main_thread():
            done.clear()
            done.wait(0.02)
        write_tensors(path, tensors)

    def told(self: RunFolder, **row: Any) -> None:
        metric(self, **row)
        done.set()

    checkpoint.write_tensors, RunFolder.metric = paused, told


def kill_before_event(number: int, *, count_into: Path | None = None) -> None:
    """End this process before its `number`-th file operation under a folder called checkpoints."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in FILE_EVENTS and "checkpoints" in str(arguments[0]):
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            if count_into is not None:
                os.pwrite(counter, str(seen).encode(), 0)

    counter = -1 if count_into is None else os.open(count_into, os.O_WRONLY | os.O_CREAT)
    sys.addaudithook(hook)


def kill_at_byte(name: str, fraction: float) -> None:
    """End this process by SIGXFSZ while it writes file `name` of its second checkpoint."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

    def limited(write: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, content: object) -> None:
            if path.name != name or "step-4" not in str(path):
                return write(path, content)
            probe = path.with_name("probe")
            write(probe, content)
            size = probe.stat().st_size
            probe.unlink()
            resource.setrlimit(resource.RLIMIT_FSIZE, (min(size - 1, int(size * fraction)), resource.RLIM_INFINITY))
            return write(path, content)

        return call

    checkpoint.write_tensors = limited(checkpoint.write_tensors)
    checkpoint.write_json = limited(checkpoint.write_json)
    manifest.write_atomically = limited(manifest.write_atomically)


def outcome(run: Path) -> str:
    """The hashes of the last checkpoint, and the steps that metrics and sample digests say were done."""
    last = RunReader(run).checkpoints()[-1]
    last.verify()
    rows = [(row["step"], row["samples"], row["loss"]) for row in RunReader(run).metrics()]
    leftovers = sorted(p.name for p in (run / "checkpoints").iterdir())
    return json.dumps([(last.path / "manifest.json").read_text(), rows, leftovers])


def main(data: Path, folder: Path, save: str, mode: str, number: int = 1) -> None:
    torch.set_num_threads(1)
    parts.companions_of = lambda *_arguments, **_named: (Memory(),)
    # Here and not in a child: children then find every import done, and start in a moment.
    start(data, folder / "straight", "wait")
    expected = outcome(folder / "straight")
    if save == "behind":
        pause_while_writing()
    counter = folder / "count"
    in_child(lambda: (kill_before_event(-1, count_into=counter), start(data, folder / "counted", save)))
    assert outcome(folder / "counted") == expected
    events = int(counter.read_text())
    cases: list[tuple[Callable[[], None], Callable[[], None] | None]] = []
    if mode == "events":
        cases = [(lambda k=k: kill_before_event(k), None) for k in range(0, events, number)]
    elif mode == "bytes":
        cases = [(lambda f=f, i=i: kill_at_byte(f, i / (number - 1)), None) for f in FILES for i in range(number)]
    else:
        pairs = [(events * i // 9, events * j // 18) for i in range(2, 9, 2) for j in range(1, 9, 3)]
        cases = [(lambda k=k: kill_before_event(k), lambda k=j: kill_before_event(k)) for k, j in pairs]
    killed, unequal = 0, []
    for index, (first, second) in enumerate(cases):
        run = folder / f"run-{index}"
        killed += in_child(lambda arm=first, run=run: (arm(), start(data, run, save))) != 0
        if second is not None:
            in_child(lambda arm=second, run=run: (arm(), resume(run)))
        assert in_child(lambda run=run: resume(run)) == 0
        if outcome(run) != expected:
            unequal.append(index)
    print(json.dumps({"cases": len(cases), "killed": killed, "unequal": unequal}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], *map(int, sys.argv[5:]))
