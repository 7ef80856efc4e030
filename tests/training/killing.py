"""Kills a training run at chosen moments and resumes it, in children of one process; prints what came out as JSON.

python killing.py DATA FOLDER events [EVERY]     before every (EVERY-th) file operation under checkpoints/
python killing.py DATA FOLDER bytes              at 8 byte offsets of each file of a checkpoint
python killing.py DATA FOLDER twice              in the run, and again in the run that resumes it
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vitruvius.runs import RunReader, manifest
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, checkpoint, resume, train

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS, EVERY, KEEP = 6, 2, 1
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
SPEC = ["width=16", "context=16", "vocab_size=320", "layers=dense moe", "blocks.dense.mixer.heads=2"]
SPEC += ["blocks.dense.mixer.kv_heads=1", "blocks.dense.ffn.hidden=16", "blocks.moe.ffn.experts=2"]
SPEC += ["blocks.moe.ffn.expert.hidden=16", "blocks.moe.ffn.top_k=1", "blocks.dense.mixer.sees=causal & sliding(4)"]


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


def start(data: Path, run: Path) -> None:
    config = TrainConfig(
        steps=STEPS, batch=2, threads=1, checkpoint_every=EVERY, keep=KEEP, eval_every=0, final_eval_batches=1
    )
    train(preset("tiny-llama-moe", overrides=SPEC), data=data, out=run, config=config)


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
    writes = {"n": 0}

    def limited(write: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, content: object) -> None:
            if path.name != name or "step-4" not in str(path):
                return write(path, content)
            probe = path.with_name("probe")
            write(probe, content)
            size = probe.stat().st_size
            probe.unlink()
            writes["n"] += 1
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


def main(data: Path, folder: Path, mode: str, every: int = 1) -> None:
    torch.set_num_threads(1)
    # Here and not in a child: children then find every import done, and start in a moment.
    start(data, folder / "straight")
    expected = outcome(folder / "straight")
    counter = folder / "count"
    in_child(lambda: (kill_before_event(-1, count_into=counter), start(data, folder / "counted")))
    events = int(counter.read_text())
    cases: list[tuple[Callable[[], None], Callable[[], None] | None]] = []
    if mode == "events":
        cases = [(lambda k=k: kill_before_event(k), None) for k in range(0, events, every)]
    elif mode == "bytes":
        files = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
        cases = [(lambda f=f, i=i: kill_at_byte(f, i / 7), None) for f in files for i in range(8)]
    else:
        pairs = [(events * i // 9, events * j // 18) for i in range(2, 9, 2) for j in range(1, 9, 3)]
        cases = [(lambda k=k: kill_before_event(k), lambda k=j: kill_before_event(k)) for k, j in pairs]
    killed, unequal = 0, []
    for number, (first, second) in enumerate(cases):
        run = folder / f"run-{number}"
        killed += in_child(lambda arm=first, run=run: (arm(), start(data, run))) != 0
        if second is not None:
            in_child(lambda arm=second, run=run: (arm(), resume(run)))
        assert in_child(lambda run=run: resume(run)) == 0
        if outcome(run) != expected:
            unequal.append(number)
    print(json.dumps({"cases": len(cases), "killed": killed, "unequal": unequal}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
