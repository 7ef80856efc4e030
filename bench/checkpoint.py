"""What a checkpoint costs the training loop: written while it waits, behind it, and by torch.distributed.checkpoint.

    python bench/checkpoint.py                              a Llama of 47 M parameters, one compute thread
    python bench/checkpoint.py --rounds 8 --updates 12
    python bench/checkpoint.py --set width=256 --json
    python bench/checkpoint.py --write docs/benchmarks/checkpoints.md

A turn is a checkpoint and so many updates after it; a turn without a checkpoint is the measure of the others. Arms take
turns within a round and their order rotates, so that the machine's drift falls on all alike; only ratios within a run
mean anything. A turn behind ends when its checkpoint is on the disk and verified, so nothing is left for the next one.

Ours writes, waits for the disk (fsync), hashes, reads back and compares; torch.distributed.checkpoint (DCP) writes, and
with `sync_files` waits for the disk. Nobody else is timed with what ours does beyond that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.runs import RunFolder
from vitruvius.runs.environment import environment
from vitruvius.runs.retention import Retention
from vitruvius.spec import preset
from vitruvius.training import TrainConfig
from vitruvius.training.checkpoint import TrainState, contents_of, size_of
from vitruvius.training.engines.local import LocalEngine
from vitruvius.training.optim import make_optimizer
from vitruvius.training.saving import Saver

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = ["width=512", "layers=layer*12", "vocab_size=16384", "blocks.layer.mixer.heads=8"]
SPEC += ["blocks.layer.mixer.kv_heads=8", "blocks.layer.ffn.hidden=1408", "context=256"]
NOISE = 1.5
"""Turns of one arm that differ by more than this factor within a run decide nothing about others."""
NAMES = {
    "none": "no checkpoint",
    "wait": "ours, `save: wait`",
    "behind": "ours, `save: behind`",
    "dcp": "DCP `save`",
    "dcp-async": "DCP `async_save`",
}


class Loop:
    """A model, its optimizer and updates on random tokens."""

    def __init__(self, overrides: list[str], tokens: int) -> None:
        from vitruvius.nn import build

        self.architecture = preset("tiny-llama", overrides=[*SPEC, *overrides])
        self.config = TrainConfig(steps=1000, context=min(tokens, self.architecture.context))
        self.model = build(self.architecture, dtype="bf16", seed=0).train()
        self.optimizer = make_optimizer(self.model, self.config)
        self.tokens = tokens
        self.state = TrainState()

    def update(self) -> None:
        """Forward, backward, step."""
        ids = torch.randint(self.architecture.vocab_size, (1, self.tokens + 1))
        found: Any = self.model(ids[:, :-1])
        logits = found if isinstance(found, torch.Tensor) else found.logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[0, 1:]).backward()
        self.optimizer.step(lr=1e-4, clip=1.0)
        self.optimizer.zero_grad()

    def contents(self) -> Any:
        return contents_of(self.state, self.model, self.optimizer, belongs_to="bench")


def ours(loop: Loop, folder: Path, how: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """Begin a checkpoint, and wait for it; one is kept, as a run keeps the newest."""
    run = RunFolder.create(folder)
    saver = Saver(run, engine=LocalEngine(), retention=Retention(keep=1), how=how)

    def begin() -> None:
        loop.state.step += 1
        saver.start(loop.contents)

    return begin, saver.wait


def theirs(loop: Loop, folder: Path, how: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """The same with torch.distributed.checkpoint; the last one is deleted when the next is there."""
    import torch.distributed.checkpoint as dcp

    under_way: list[Any] = []
    number = 0

    def state() -> dict[str, Any]:
        contents = loop.contents()
        files = contents.files.items()
        return {f"{file}/{name}": tensor for file, tensors in files for name, tensor in tensors.items()}

    def begin() -> None:
        nonlocal number
        number += 1
        writer = dcp.FileSystemWriter(folder / str(number), sync_files=True)
        if how == "dcp":
            dcp.save(state(), storage_writer=writer)
        else:
            under_way.append(dcp.async_save(state(), storage_writer=writer))

    def end() -> None:
        while under_way:
            found = under_way.pop()
            getattr(found, "upload_completion", found).result()
        shutil.rmtree(folder / str(number - 1), ignore_errors=True)

    return begin, end


def turn(loop: Loop, begin: Callable[[], None], end: Callable[[], None], updates: int) -> tuple[float, float]:
    """Seconds that the loop stood still for the checkpoint, and seconds of the whole turn."""
    started = time.perf_counter()
    begin()
    stood = time.perf_counter() - started
    for _ in range(updates):
        loop.update()
    waited = time.perf_counter()
    end()
    done = time.perf_counter()
    return stood + done - waited, done - started


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    loop = Loop(arguments.set, arguments.tokens)
    place = Path(tempfile.mkdtemp(prefix="checkpoint-bench-", dir=arguments.folder))
    try:
        arms = {"none": (lambda: None, lambda: None)}
        arms |= {how: ours(loop, place / how, how) for how in ("wait", "behind")}
        if not arguments.ours_only:
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
            os.environ.setdefault("MASTER_PORT", "29517")
            torch.distributed.init_process_group("gloo", rank=0, world_size=1)
            arms |= {how: theirs(loop, place / how, how) for how in ("dcp", "dcp-async")}
        for begin, end in arms.values():  # each once for nothing: memory is taken, code is loaded
            turn(loop, begin, end, 1)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        names = list(arms)
        for number in range(arguments.rounds):
            for name in (*names[number % len(names) :], *names[: number % len(names)]):
                found[name].append(turn(loop, *arms[name], arguments.updates))
                print(f"round {number + 1}, {name}: {found[name][-1][1]:.2f} s", file=sys.stderr)
        parameters = sum(each.numel() for each in loop.model.parameters())
        return {
            "schema": "vitruvius.bench-checkpoint/1",
            "parameters": parameters,
            "bytes": size_of(loop.contents()),
            "updates": arguments.updates,
            "tokens": arguments.tokens,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "arms": {name: summary(found[name], found["none"]) for name in names},
            "environment": environment(),
        }
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def summary(turns: list[tuple[float, float]], alone: list[tuple[float, float]]) -> dict[str, float]:
    """Medians over rounds, each turn against the turn without a checkpoint of the same round."""
    extra = [whole - base for (_, whole), (_, base) in zip(turns, alone, strict=True)]
    ratio = [whole / base for (_, whole), (_, base) in zip(turns, alone, strict=True)]
    low, high = (min(ratio), max(ratio))
    return {
        "stood_seconds": statistics.median(stood for stood, _ in turns),
        "turn_seconds": statistics.median(whole for _, whole in turns),
        "cost_seconds": statistics.median(extra),
        "ratio": statistics.median(ratio),
        "ratio_lowest": low,
        "ratio_highest": high,
    }


def page(found: dict[str, Any]) -> str:
    machine = found["environment"]
    arms: dict[str, dict[str, float]] = found["arms"]
    where = (
        f"Written by `bench/checkpoint.py` on {datetime.now(UTC):%Y-%m-%d}; {machine['cores_usable']} cores "
        f"({machine['cpu']}), {machine['memory_bytes'] / 1e9:.0f} GB; python {platform.python_version()}, "
        f"torch {torch.__version__}; {found['threads']} compute thread(s)."
    )
    what = (
        f"{found['parameters']:,} parameters in bf16 with fp32 masters and AdamW's moments: {found['bytes']:,} bytes a "
        f"checkpoint. A turn is a checkpoint and {found['updates']} updates of {found['tokens']} tokens; medians of "
        f"{found['rounds']} rounds in which the arms took turns. `x` is the turn against one without a checkpoint."
    )
    lines = [
        "# Checkpoints: what saving costs the loop",
        "",
        where,
        "",
        what,
        "",
        "| | The loop stands still | A turn | Cost of a checkpoint | x | lowest to highest |",
        "|---|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        seconds = " | ".join(f"{arm[f'{key}_seconds']:.2f} s" for key in ("stood", "turn", "cost"))
        span = f"{arm['ratio_lowest']:.2f} to {arm['ratio_highest']:.2f}"
        lines.append(f"| {NAMES[name]} | {seconds} | {arm['ratio']:.2f} | {span} |")
    stood = {name: arm["stood_seconds"] for name, arm in arms.items()}
    facts = [f"- Standing still, behind over waiting: {stood['behind'] / stood['wait']:.2f}."]
    if "dcp" in stood:
        facts.append(f"- Ours behind over `async_save`: {stood['behind'] / stood['dcp-async']:.2f}; ")
        facts[-1] += f"waiting over `save`: {stood['wait'] / stood['dcp']:.2f}."
    if max(arm["ratio_highest"] / arm["ratio_lowest"] for arm in arms.values()) > NOISE:
        facts.append(
            "- Other work shared the machine: turns of one arm differ by more than the arms do, so the turns "
            "decide nothing in this run, and what the loop stands still for differs by far more than that."
        )
    facts.append(
        "- Ours also hashes, reads back and compares every byte; DCP does not. Behind, that work takes CPU time from "
        "the updates where no core is free."
    )
    return "\n".join([*lines, "", *facts]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--updates", type=int, default=12, help="updates after each checkpoint")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of an update")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="a field of the spec: width=256")
    parser.add_argument("--folder", type=Path, help="where to write; the file system matters")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="the page of docs")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    found = measure(arguments)
    print(json.dumps(found, indent=2) if arguments.json else page(found))
    if arguments.write:
        arguments.write.write_text(page(found))


if __name__ == "__main__":
    main()
