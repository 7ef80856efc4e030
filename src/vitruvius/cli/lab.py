"""`vitruvius lab`: many runs that answer one question."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean, emit, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleGroup
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.lab.reproductions import Arm, Reproduction

FAILED = 1
NAMES = ("flip-flop", "parity")
"""The reproductions; a test holds them against `vitruvius.lab.REPRODUCTIONS`."""
EXAMPLES = (
    "vitruvius lab reproduce flip-flop",
    "vitruvius lab reproduce parity --seeds 5 --json",
    "vitruvius lab reproduce flip-flop --steps 20 --seeds 1 --out /tmp/try",
)


@click.group("lab", cls=ExampleGroup, help="Many runs that answer one question.", examples=EXAMPLES)
def command() -> None:
    """Hold the verbs of the lab."""


@command.command(
    "reproduce",
    help="""Train a known result again and hold it against its target, with seeds and intervals.

    NAME is flip-flop (PaTH remembers a bit where RoPE, FoX and CoPE do not) or parity (Gated DeltaNet counts modulo
    two when its eigenvalues may be negative). Minutes per seed on one core. Models that are done in the output folder
    are kept, so an interrupted command goes on. Leaves with 1 when a claim of the result fails.""",
    examples=EXAMPLES,
)
@click.argument("name", type=click.Choice(NAMES), metavar="NAME")
@click.option("--seeds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Models of each arm.")
@click.option("--steps", type=click.IntRange(1, 10**6), help="Train all arms for as many updates, to try out.")
@click.option("--out", metavar="DIR", help="Folder for a run folder of each model; reproduce-NAME when not given.")
@click.option("--dry-run", is_flag=True, help="Print what would be trained, and train nothing.")
@json_option
def reproduce_command(
    name: str,
    *,
    seeds: int,
    steps: int | None,
    out: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Run the reproduction, print the table, and return 0 or 1."""
    from vitruvius.lab.reproductions import REPRODUCTIONS

    reproduction = REPRODUCTIONS[name]
    folder = Path(out or f"reproduce-{name}")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", where="--out", fix="name a folder")
    if dry_run:
        return _dry(reproduction, seeds=seeds, steps=steps, as_json=as_json)
    from vitruvius.lab.arms import reproduce
    from vitruvius.lab.table import to_text

    report = reproduce(reproduction, out=folder, seeds=seeds, steps=steps, listener=_Talk())
    if as_json:
        emit_json(report.to_dict())
    else:
        emit(clean(to_text(report)))
    next_step(f"ls {shlex.quote(str(folder))}: a run folder for each model, with its losses and record.md")
    return 0 if report.holds else FAILED


def _dry(reproduction: Reproduction, *, seeds: int, steps: int | None, as_json: bool) -> int:
    """What would be trained."""
    arms = [(arm, steps or arm.steps) for arm in reproduction.arms]
    if as_json:
        planned = [{"name": a.name, "label": a.label, "steps": n, "spec": reproduction.spec_of(a)} for a, n in arms]
        emit_json({"schema": "vitruvius.reproduce-plan/1", "name": reproduction.name, "seeds": seeds, "arms": planned})
    else:
        lines = [f"{reproduction.title}, {seeds} seeds, batches of {reproduction.batch}"]
        lines += [f"\n# {arm.label}, {count:,} steps\n{reproduction.spec_of(arm)}" for arm, count in arms]
        emit(clean("\n".join(lines).rstrip()))
    next_step("the same command without --dry-run")
    return 0


class _Talk:
    """Says how the work goes, a line per model and now and then a step."""

    def __init__(self) -> None:
        self._said = 0

    def began(self, arm: Arm, seed: int) -> None:
        """Training of one model starts."""
        self._said = 0
        say(f"{arm.label}, seed {seed}: training")

    def stepped(self, step: int, steps: int, loss: float) -> None:
        """Four lines per model are enough."""
        if step * 4 // steps > self._said:
            self._said = step * 4 // steps
            say(f"  step {step:,} of {steps:,}, loss {loss:.4f}")

    def measured(self, arm: Arm, seed: int, values: Sequence[float], seconds: float | None) -> None:
        """One model is done."""
        how = "kept" if seconds is None else f"{seconds:.0f} s"
        say(f"{arm.label}, seed {seed}: {', '.join(f'{value:.4g}' for value in values)} ({how})")
