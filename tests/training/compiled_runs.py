"""Plain runs and compiled ones of the same settings; prints JSON.

python compiled_runs.py DATA FOLDER alone|ranks

With the backend `eager` nothing is generated, and all that is traced, kept and traced anew is as it is with the real
one, which `tests/e2e/test_train_compiled.py` runs. Checks of shapes are off: a tracer would trace them too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["VITRUVIUS_SHAPES"] = "off"

import torch
from torch import _dynamo

from halves import StopAfter  # isort: skip
from ranks import DDP, architecture_of, config_of, in_ranks, rows, start  # isort: skip
from test_out_of_memory import room_for  # isort: skip

from vitruvius.nn import Signals, build
from vitruvius.nn.ops.compiling import compiled
from vitruvius.runs import RunReader
from vitruvius.runs.samples import samples_of
from vitruvius.spec import preset, read_text, shrink
from vitruvius.training import parts, resume, train
from vitruvius.training.config import CurriculumStage
from vitruvius.training.loop import Trainer
from vitruvius.training.settings import Guard, Samples, Watch
from vitruvius.training.settings.shape import ShapeSchedule, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

MIXED = """
name: mixed
vocab_size: 320
width: 32
context: 16
head: {kind: lm, tied: true, softcap: 30.0}
embedding: {position: {kind: gated-additive}}
blocks:
  dense:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: causal & sliding(8), position: rope}
    ffn: {kind: swiglu, hidden: 48}
  mixture:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: "causal & dilated(4, every=3)", position: alibi}
    ffn: {kind: moe, experts: 4, top_k: 2, router: {kind: softmax, noise: 1.0}, expert: {kind: swiglu, hidden: 24}}
layers: dense mixture
"""
FIELDS = {
    "blocks.dense.mixer.sees.sliding": {0: 2, 2: 8},
    "blocks.mixture.mixer.sees": {2: "causal & dilated(4, every=5)", 4: "causal"},
    "embedding.position.strength": {0: 0.0, 2: 1.0, 4: 3.0},
    "blocks.mixture.ffn.router.noise": {2: 0.1},
    "blocks.mixture.ffn.router.balance_loss": {0: 0.0, 4: 1.0},
    "head.softcap": {2: 4.0},
}
SHAPE = (
    *(ShapeSchedule(field=field, steps=steps) for field, steps in FIELDS.items()),
    ShapeSchedule(field="blocks.mixture.ffn.top_k", when=Signal(signal="loss", below=100.0, over=4), then=(1,)),
)
LOOKS = {
    "accumulate": 2,
    "checkpointing": "layers",
    "ema": 0.9,
    "z_loss": 1e-2,
    "eval_every": 2,
    "watch": Watch(every=2),
    "guard": Guard(every=3),
    "samples": Samples(every=3, max_tokens=8),
}
LENGTHS = {
    "packing": "one-document",
    "curriculum": (CurriculumStage(until=1, context=4), CurriculumStage(until=2, context=8)),
}


def both(data: Path, folder: Path, kind: str, *, short: bool = False, **settings: Any) -> dict[str, Any]:
    """A plain run and a compiled one: rows, events, texts, and how many graphs were traced.

    short: from the fifth pass on memory runs out for more than two rows.
    """
    architecture = read_text(MIXED).architecture if kind == "mixed" else architecture_of(kind)
    found: dict[str, Any] = {}
    for name in ("none", "default"):
        _dynamo.reset()
        _dynamo.utils.counters.clear()
        run = folder / name
        config = config_of(**{"eval_every": 0, "final_eval_batches": 1, "checkpoint_every": 3, **settings})
        with room_for(2, since=5) if short else contextlib.nullcontext():
            train(architecture, data=data, out=run, config=dataclasses.replace(config, compile=name))
        found[name] = {
            "rows": rows(run),
            "events": [event for event in RunReader(run).events() if event["kind"] != "watch-cost"],
            "texts": [[each["step"], each["text"]] for each in samples_of(run)] if "samples" in settings else [],
            "graphs": _dynamo.utils.counters["stats"]["unique_graphs"],
        }
    return found


@contextlib.contextmanager
def poisoned(step: int) -> Iterator[None]:
    """A gradient that is no number, once in each run."""
    update, done = Trainer._update, set[Path]()

    def poisoning(trainer: Trainer, *arguments: Any) -> Any:
        if trainer.state.step == step and trainer.run.path not in done:
            done.add(trainer.run.path)
            first = next(iter(trainer.model.parameters()))
            handle = first.register_hook(lambda grad: (handle.remove(), grad * float("nan"))[1])
        return update(trainer, *arguments)

    Trainer._update = poisoning
    try:
        yield
    finally:
        Trainer._update = update


def goes_on(data: Path, folder: Path) -> dict[str, Any]:
    """Stopped after three updates and resumed, the one compiled and the other not."""
    found: dict[str, Any] = {"straight": []}
    settings = {"eval_every": 0, "final_eval_batches": 1}
    start("dense", data, folder / "straight", **settings)
    found["straight"] = rows(folder / "straight")
    for first, then in (("none", "default"), ("default", "none")):
        _dynamo.reset()
        listener, run = StopAfter(3), folder / then
        config = config_of(compile=first, **settings)
        train(architecture_of("dense"), data=data, out=run, config=config, listener=listener, stop=listener.stop)
        _dynamo.utils.counters.clear()
        resume(run, changes={"compile": then})
        found[then] = {"rows": rows(run), "graphs": _dynamo.utils.counters["stats"]["unique_graphs"]}
    return found


def breaks(*names: str) -> dict[str, list[str]]:
    """Why the tracer broke off in a preset's twin in bf16, trained at two lengths and validated."""
    found: dict[str, list[str]] = {}
    for name in names:
        _dynamo.reset()
        _dynamo.utils.counters.clear()
        model, ids = build(shrink(preset(name)), dtype="bf16").train(), torch.arange(41).view(1, 41)
        loss = compiled(model.loss, backend="eager")
        for length in (24, 40):
            signals = Signals()
            mean = loss(ids[:, :length], ids[:, 1 : length + 1], signals=signals)
            (mean + sum(signals.losses)).backward()
        model.eval()
        with torch.no_grad():
            loss(ids[:, :24], ids[:, 1:25], per_token=True)
        found[name] = list(_dynamo.utils.counters["graph_break"])
    return found


def alone(data: Path, folder: Path) -> dict[str, Any]:
    """One process by itself."""
    found = {
        "schedules": both(data, folder / "schedules", "mixed", shape=SHAPE),
        "looks": both(data, folder / "looks", "mixed", **LOOKS),
        "resumed": goes_on(data, folder / "resumed"),
        "breaks": breaks("tiny-llama-moe", "tiny-gpt2"),
    }
    found["lengths"] = both(data, folder / "lengths", "dense", short=True, **LENGTHS)
    with poisoned(3):
        found["rewound"] = both(data, folder / "rewound", "dense", guard=Guard(not_finite="rewind"))
    return found


def ranks(data: Path, folder: Path) -> dict[str, Any]:
    """Two processes, of which each compiles for itself."""
    found: dict[str, Any] = {}
    settings = {"accumulate": 2, "checkpointing": "layers", "steps": 3, "eval_every": 0, "final_eval_batches": 1}
    for name in ("none", "default"):
        run = folder / name

        def work(_: int, run: Path = run, name: str = name) -> Any:
            return start("biased", data, run, engine=DDP, compile=name, **settings)

        found[name] = {"ends": in_ranks(work, folder / f"{name}-ends"), "rows": rows(run)}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts.compiled = lambda loss: compiled(loss, backend="eager")
    _dynamo.config.fail_on_recompile_limit_hit = True  # torch would go on uncompiled
    told = {"alone": alone, "ranks": ranks}[sys.argv[3]](Path(sys.argv[1]), Path(sys.argv[2]))
    json.dump(told, sys.stdout)
