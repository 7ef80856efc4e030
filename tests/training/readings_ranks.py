"""What is watched and guarded in one process, and in several that share the weights; prints JSON.

python readings_ranks.py DATA FOLDER SCENARIO [CASE ...]
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sharded_ranks
import torch
from ranks import before_update, in_ranks, rows, start

from vitruvius.runs import RunReader
from vitruvius.training.guarding.guardian import Guardian
from vitruvius.training.settings import EngineSettings, Guard, Watch
from vitruvius.training.settings.alarms import Rule
from vitruvius.training.watching import blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.training.loop import Trainer

FSDP = sharded_ranks.FSDP
ZERO = EngineSettings(kind="deepspeed", timeout=60)
BATCH = 12
CASES: dict[str, tuple[str, int, EngineSettings]] = {
    "dense": ("odd-vocabulary", 2, FSDP),
    "grid": ("even-mixture", 4, sharded_ranks.of_two(2)),
    "experts": ("even-mixture", 2, EngineSettings(kind="ddp", expert_parallel=2, timeout=60)),
    "zero-2": ("odd-vocabulary", 2, replace(ZERO, zero=2)),
    "zero-3": ("odd-vocabulary", 2, replace(ZERO, zero=3)),
}
"""Name -> architecture, processes, engine."""


def _both(name: str, folder: Path, work: Callable[[int, Path, EngineSettings, str], Any]) -> dict[str, Any]:
    """One process, and several."""
    kind, count, engine = CASES[name]
    one, many = folder / f"{name}-one", folder / f"{name}-many"
    alone = in_ranks(lambda rank: work(rank, one, EngineSettings(), kind), folder / f"{name}-a", 1)
    ends = in_ranks(lambda rank: work(rank, many, engine, kind), folder / f"{name}-b", count)
    found = [_seen(run) for run in (one, many)]
    return {"one": found[0], "many": found[1], "ends": [alone, ends]}


def _seen(run: Path) -> Any:
    if not run.exists():
        return {"rows": [], "events": []}
    return {"rows": rows(run), "events": list(RunReader(run).events())}


def readings(data: Path, folder: Path, *names: str) -> Any:
    """Every number of the rows, read from the whole batch; of each tensor fewer weights than it has."""
    blocks.MOST_WEIGHTS = 100
    # Raised at once, so that events name places.
    alarms = {"attention-logit": Rule(above=1e-9), "embedding-norm": Rule(above=1e-9)}
    looked: dict[str, Any] = {"guard": Guard(every=1, rows=BATCH, alarms=alarms), "watch": Watch(every=1, rows=BATCH)}

    def work(_: int, run: Path, engine: EngineSettings, kind: str) -> Any:
        return start(kind, data, run, engine=engine, steps=3, batch=BATCH, eval_every=0, accumulate=1, **looked)

    return {name: _both(name, folder, work) for name in names}


def bad(data: Path, folder: Path, name: str, *places: str) -> Any:
    """Where a number that is none came from: a weight, a module's output or a gradient, of one sample."""
    found = {}
    for place in places:

        def work(_: int, run: Path, engine: EngineSettings, kind: str, place: str = place) -> Any:
            before_update(2, POISONS[place])
            guard = Guard(not_finite="skip", every=None)
            shared: dict[str, Any] = {"guard": guard, "eval_every": 0, "accumulate": 2, "watch": Watch(every=None)}
            return start(kind, data, run, engine=engine, steps=3, batch=BATCH, **shared)

        found[place] = _both(name, folder / place, work)
    return found


def _a_weight(trainer: Trainer) -> None:
    """Of the last row of a map of the second layer, which the last process has alone, or every one has."""
    name = "layers.1.mixer.out.weight"
    slot = dict(trainer.optimizer.named_slots())[name]
    part = trainer.engine.part_of(name, slot.parameter).reshape(-1)
    if trainer.engine.rank == trainer.engine.ranks - 1 or trainer.engine.gathers == "always":
        part[-1] = torch.nan


def _an_output(trainer: Trainer) -> None:
    _sick(trainer, lambda output, row: output[row].fill_(torch.nan))


def _a_gradient(trainer: Trainer) -> None:
    def poison(output: torch.Tensor, row: int) -> None:
        if output.requires_grad:
            output.register_hook(lambda grad: grad.index_fill(0, torch.tensor([row]), torch.nan))

    _sick(trainer, poison)


def _sick(trainer: Trainer, act: Callable[[torch.Tensor, int], object]) -> None:
    """Of one sample of the third batch, in whatever process and piece it comes."""
    wanted = torch.as_tensor(trainer.batches.at(2).inputs[BATCH - 2])
    seen: list[torch.Tensor] = []

    def heard(_module: Any, inputs: Any) -> None:
        seen[:] = [inputs[0]]

    def spoilt(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        made = output.clone()
        for row, tokens in enumerate(seen[0]):
            if torch.equal(tokens, wanted.to(tokens)):
                act(made, row)
        return made

    trainer.model.embedding.register_forward_pre_hook(heard)
    trainer.model.layers[1].ffn.register_forward_hook(spoilt)


POISONS = {"weights": _a_weight, "output": _an_output, "gradient": _a_gradient}


def decisions(data: Path, folder: Path, name: str, *ways: str) -> Any:
    """What each process decides at each update when detectors of whole weights raise an alarm."""
    found = {}
    for way in ways:
        detector, alarm = way.split(":")

        def work(_: int, run: Path, engine: EngineSettings, kind: str, d: Any = detector, a: Any = alarm) -> Any:
            verdicts: list[Any] = []
            judge = Guardian.judge

            def judged(guardian: Guardian, step: int, *arguments: Any) -> Any:
                judgement = judge(guardian, step, *arguments)
                verdicts.append([step, guardian.trainer.state.batches, judgement.verdict])
                return judgement

            Guardian.judge = judged
            before_update(3, _grow)
            rule = {d: Rule(growth=4.0), **dict.fromkeys(OTHERS - {d})}
            guard = Guard(every=1, baseline=2, alarm=a, alarms=rule, retries=3)
            shared: dict[str, Any] = {"guard": guard, "eval_every": 0, "checkpoint_every": 1, "keep": 9}
            try:
                start(kind, data, run, engine=engine, steps=6, batch=BATCH, watch=Watch(every=None), **shared)
            finally:
                run.parent.mkdir(exist_ok=True)
                (run.parent / f"{run.name}-verdicts-{_}.json").write_text(json.dumps(verdicts))

        found[way] = _both(name, folder / way.replace(":", "-"), work)
        written = sorted((folder / way.replace(":", "-")).glob("*-verdicts-*.json"))
        found[way]["verdicts"] = {file.stem: json.loads(file.read_text()) for file in written}
    return found


OTHERS = {"attention-logit", "output-lse", "update-ratio", "embedding-norm", "stream-rms", "router-logit"}
OTHERS |= {"router-entropy", "expert-load", "dead-experts"}


def _grow(trainer: Trainer) -> None:
    """The table of embeddings is 30 times as large at once, and the next update too."""
    if trainer.state.batches != 3:
        return
    name = "embedding.tokens.weight"
    slot = dict(trainer.optimizer.named_slots())[name]
    for tensor in (trainer.engine.part_of(name, slot.parameter), slot.master):
        if tensor.data_ptr() != slot.master.data_ptr() or tensor is slot.master:
            tensor.mul_(30.0)
    apply = trainer.updater.apply

    def once(*arguments: Any, lr: float, **options: Any) -> Any:
        trainer.updater.apply = apply
        return apply(*arguments, lr=30 * lr, **options)

    trainer.updater.apply = once


SCENARIOS: dict[str, Callable[..., Any]] = {each.__name__: each for each in (readings, bad, decisions)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(SCENARIOS[sys.argv[3]](Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[4:])))
