"""Running a known result again: each arm with each seed, a run folder for each, ours beside the target."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from vitruvius.errors import RunError
from vitruvius.lab.intervals import Interval, mean_interval
from vitruvius.lab.tasks import IGNORED, draw
from vitruvius.nn import build
from vitruvius.nn.ops import keep_freed_memory
from vitruvius.runs import RunFolder, RunReader, reproducibility_record
from vitruvius.spec import read_text, to_data
from vitruvius.training import TrainConfig
from vitruvius.training.config import resolved, to_plain
from vitruvius.training.determinism import deterministic
from vitruvius.training.optim import make_optimizer
from vitruvius.training.schedules import learning_rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.lab.reproductions import Arm, Measure, Reproduction
    from vitruvius.nn import Model
    from vitruvius.spec import Architecture

SCHEMA = "vitruvius.reproduce/1"
SEEDS = 3
"""Unless told otherwise; fewer give no interval worth the name."""
_TEST_SEED = 2**32
"""Test sequences are drawn with this seed whatever the model, training sequences with the model's own."""
_TESTED_TOGETHER = 250
_ROW_EVERY = 10
RECORD = "record.md"


class Listener(Protocol):
    """Told how the work goes."""

    def began(self, arm: Arm, seed: int) -> None:
        """Training of one model starts."""
        ...

    def stepped(self, step: int, steps: int, loss: float) -> None:
        """So many updates are done."""
        ...

    def measured(self, arm: Arm, seed: int, values: Sequence[float], seconds: float | None) -> None:
        """One model is done; without seconds it was found done in the folder."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    """What one arm came to."""

    arm: Arm
    steps: int
    values: tuple[tuple[float, ...], ...]
    """For each seed, one number for each measure."""

    def interval(self, measure: int) -> Interval:
        """Mean and interval of a measure over the seeds."""
        return mean_interval([values[measure] for values in self.values])


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A known result as it came out here."""

    reproduction: Reproduction
    seeds: int
    arms: tuple[ArmReport, ...]
    whole: bool
    """Whether every arm was trained as long as the targets say; only then do they and the claims apply."""

    def claims(self) -> list[tuple[str, bool]]:
        """Each claim, and whether the means bear it out; none where training was cut short."""
        if not self.whole:
            return []
        measures = range(len(self.reproduction.measures))
        means = {r.arm.name: tuple(r.interval(m).mean for m in measures) for r in self.arms}
        return [(claim.text, claim.holds(means)) for claim in self.reproduction.claims]

    @property
    def holds(self) -> bool:
        """Whether no claim fails."""
        return all(held for _, held in self.claims())

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable report, schema `vitruvius.reproduce/1`."""
        return {
            "schema": SCHEMA,
            "name": self.reproduction.name,
            "title": self.reproduction.title,
            "source": self.reproduction.source,
            "seeds": self.seeds,
            "arms": [self._arm(report) for report in self.arms],
            "claims": [{"text": text, "holds": held} for text, held in self.claims()],
            "holds": self.holds if self.whole else None,
        }

    def _arm(self, report: ArmReport) -> dict[str, Any]:
        measures = []
        for index, measure in enumerate(self.reproduction.measures):
            interval = report.interval(index)
            measures.append(
                {
                    "name": measure.name,
                    "kind": measure.kind,
                    "mean": interval.mean,
                    "ci_low": interval.low,
                    "ci_high": interval.high,
                    "values": [values[index] for values in report.values],
                    "target": report.arm.targets[index] if self.whole else None,
                }
            )
        return {"name": report.arm.name, "label": report.arm.label, "steps": report.steps, "measures": measures}


def reproduce(
    reproduction: Reproduction,
    *,
    out: Path | str,
    seeds: int = SEEDS,
    steps: int | None = None,
    listener: Listener | None = None,
) -> Report:
    """Train every arm with every seed and hold what comes out against the targets.

    `out/ARM/seed-N` is the run folder of one model, with its losses, its result and `record.md`; models that are done
    there already, in the same way, are not trained again. `steps` trains all arms for as long, and is for trying out.
    Raises RunError when a folder holds another run, RunLockedError while another process writes to it.
    """
    found: list[ArmReport] = []
    for arm in reproduction.arms:
        values = tuple(_one(reproduction, arm, seed, steps, Path(out), listener) for seed in range(seeds))
        found.append(ArmReport(arm=arm, steps=steps or arm.steps, values=values))
    whole = all(report.steps == report.arm.steps for report in found)
    return Report(reproduction=reproduction, seeds=seeds, arms=tuple(found), whole=whole)


def _one(
    reproduction: Reproduction, arm: Arm, seed: int, steps: int | None, out: Path, listener: Listener | None
) -> tuple[float, ...]:
    architecture = read_text(reproduction.spec_of(arm), file=f"{reproduction.name}/{arm.name}").architecture
    config = TrainConfig(steps=steps or arm.steps, seed=seed, batch=reproduction.batch, threads=1, **reproduction.train)
    config = resolved(config, architecture)
    plan = {"reproduce": _plan(reproduction), "train": to_plain(config)}
    folder = out / arm.name / f"seed-{seed}"
    known = _done(folder, plan, architecture)
    if known is not None:
        values = tuple(float(known[measure.name]) for measure in reproduction.measures)
        if listener is not None:
            listener.measured(arm, seed, values, None)
        return values
    if listener is not None:
        listener.began(arm, seed)
    began = time.perf_counter()
    task = {"path": f"drawn by task {reproduction.train_on.task}", **plan["reproduce"]["train_on"]}
    text, spec = reproduction.spec_of(arm), to_data(architecture)
    command = ("vitruvius", *sys.argv[1:])
    with (
        deterministic(seed=seed, threads=1),
        RunFolder.create(folder, command=command, config=plan, spec_text=text, spec=spec, data=task) as run,
    ):
        model = _trained(architecture, reproduction, config, run, listener)
        values = tuple(_measured(model, measure) for measure in reproduction.measures)
        seconds = time.perf_counter() - began
        observed = {measure.name: value for measure, value in zip(reproduction.measures, values, strict=True)}
        run.finish("finished", **observed, seconds=seconds)
        _write_record(run, reproduction, arm, seed, command, observed | {"seconds": seconds}, task)
    if listener is not None:
        listener.measured(arm, seed, values, seconds)
    return values


def _plan(reproduction: Reproduction) -> dict[str, Any]:
    """What decides the numbers besides architecture and training config, as plain data."""
    return {
        "name": reproduction.name,
        "train_on": {"task": reproduction.train_on.task, **reproduction.train_on.settings},
        "measures": [
            {"name": m.name, "kind": m.kind, "sequences": m.sequences, "task": m.of.task, **m.of.settings}
            for m in reproduction.measures
        ],
    }


def _done(folder: Path, plan: Mapping[str, Any], architecture: Architecture) -> Mapping[str, Any] | None:
    """The result of a finished run of the same plan; None where there is none, or half of one, which is removed."""
    if not (folder / "run.json").is_file():
        return None
    record = RunReader(folder).record()
    if record["config"] != plan or record["spec"]["data"] != to_data(architecture):
        what = "this folder holds a run with other settings"
        raise RunError(what, where=str(folder), fix="choose another --out, or delete the folder")
    if record["status"] == "finished":
        return record["result"]
    # Begun by a command that was interrupted. Holding it makes sure that nobody is at work on it now.
    with RunFolder.open(folder):
        shutil.rmtree(folder)
    return None


def _trained(
    architecture: Architecture,
    reproduction: Reproduction,
    config: TrainConfig,
    run: RunFolder,
    listener: Listener | None,
) -> Model:
    """The model after all updates; every tenth is a row of metrics."""
    keep_freed_memory()
    model = build(architecture, dtype=config.dtype, seed=config.seed)
    model.train()
    optimizer = make_optimizer(model, config)
    generator = torch.Generator().manual_seed(config.seed)
    began, tokens = time.perf_counter(), 0
    for step in range(config.steps):
        batch = draw(reproduction.train_on, config.batch, generator)
        loss = model.loss(batch.inputs, batch.targets)
        loss.backward()
        lr = learning_rate(config, step)
        norm = optimizer.step(lr=lr, clip=config.clip)
        optimizer.zero_grad()
        tokens += batch.inputs.numel()
        if (step + 1) % _ROW_EVERY == 0 or step + 1 == config.steps:
            value, rate = float(loss.detach()), tokens / (time.perf_counter() - began)
            run.metric(step=step + 1, loss=value, grad_norm=norm, lr=lr, tokens=tokens, tokens_per_second=rate)
            if listener is not None:
                listener.stepped(step + 1, config.steps, value)
    return model.eval()


@torch.no_grad()
def _measured(model: Model, measure: Measure) -> float:
    """The share of what is asked for that the model's likeliest token gets right, or wrong in percent."""
    generator = torch.Generator().manual_seed(_TEST_SEED)
    right = asked = 0
    for start in range(0, measure.sequences, _TESTED_TOGETHER):
        batch = draw(measure.of, min(_TESTED_TOGETHER, measure.sequences - start), generator)
        counts = batch.targets != IGNORED
        right += int(((model(batch.inputs).argmax(-1) == batch.targets) & counts).sum())
        asked += int(counts.sum())
    accuracy = right / asked
    return 100 * (1 - accuracy) if measure.kind == "error %" else accuracy


def _write_record(
    run: RunFolder,
    reproduction: Reproduction,
    arm: Arm,
    seed: int,
    command: Sequence[str],
    observed: Mapping[str, Any],
    task: Mapping[str, Any],
) -> None:
    record = reproducibility_record(
        f"{reproduction.title}: {arm.label}, seed {seed}",
        command=command,
        data={name: value for name, value in task.items() if name != "path"},
        observed=observed,
        seeds={"weights and training sequences": seed, "test sequences": _TEST_SEED},
        constraints=(
            "Equal bits need the same machine, versions and one thread; elsewhere rounding takes training another way.",
        ),
        environment=run.reader.record()["environment"],
    )
    (run.path / RECORD).write_text(record.to_markdown(), encoding="utf-8")
