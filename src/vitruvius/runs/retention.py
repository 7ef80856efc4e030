"""Which checkpoints of a run stay, and why. Files only, standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import UsageError
from vitruvius.runs.shapes import COUNT, NUMBER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vitruvius.runs.folder import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What a run keeps. A checkpoint that no rule names may go, once a newer one was verified."""

    keep: int
    """So many, the newest."""
    every: int | None = None
    """Those whose step it divides stay for good."""
    best: int = 0
    """So many of those with the lowest `val_loss` at their step."""
    regular: int | None = None
    """The newest whose step it divides stays: it is where the guard goes back to."""

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that leave a run without a checkpoint, or mean nothing."""
        for name, value, least in (("keep", self.keep, 1), ("keep_every", self.every, 1), ("keep_best", self.best, 0)):
            if value is not None and value < least:
                raise UsageError(f"{name}: {value} is below {least}", fix="keep at least the newest checkpoint")


def retention_of(train: Mapping[str, Any], *, keep: int | None = None, finished: bool = False) -> Retention:
    """The rules in a run's settings (`config.train` of its record); what an older version did not have is off.

    keep: instead of the run's own number. A finished run is not gone back in.
    """
    recovery, guard = _mapping(train.get("recovery")), _mapping(train.get("guard"))
    rewinds = not finished and any(isinstance(what, str) and what.startswith("rewind") for what in guard.values())
    return Retention(
        keep=keep if keep is not None else _count(train.get("keep")) or 1,
        every=_count(recovery.get("keep_every")),
        best=_count(recovery.get("keep_best")) or 0,
        regular=_count(train.get("checkpoint_every")) if rewinds else None,
    )


def reasons(
    checkpoints: Sequence[Checkpoint], retention: Retention, losses: Mapping[int, float]
) -> dict[int, tuple[str, ...]]:
    """Step -> why that checkpoint stays, for all of them; those that may go have no reason.

    losses: step -> its validation loss, where there was one. The earlier of equally good ones counts as better.
    """
    steps = sorted(checkpoint.step for checkpoint in checkpoints)
    found: dict[int, list[str]] = {step: [] for step in steps}
    for step in steps[-retention.keep :]:
        found[step].append("newest")
    if retention.every is not None:
        for step in steps:
            if step % retention.every == 0:
                found[step].append(f"every {retention.every:,}")
    scored = sorted((losses[step], step) for step in steps if step in losses)
    for loss, step in scored[: retention.best]:
        found[step].append(f"best (val_loss {loss:.4g})")
    if retention.regular is not None:
        regular = [step for step in steps if step % retention.regular == 0]
        for step in regular[-1:]:
            found[step].append("the guard goes back to it")
    return {step: tuple(why) for step, why in found.items()}


def validation_losses(run: Path) -> dict[int, float]:
    """Step -> `val_loss` of its row in `metrics.jsonl`; lines that are none are passed over."""
    file = run / "metrics.jsonl"
    found: dict[int, float] = {}
    if not file.is_file():
        return found
    with file.open("rb") as lines:
        for line in lines:
            # Most rows have none, and a run has many rows.
            if b'"val_loss"' not in line or not line.endswith(b"\n"):
                continue
            try:
                row: object = json.loads(line)
            except (ValueError, RecursionError):
                continue
            row = _mapping(row)
            step, loss = row.get("step"), row.get("val_loss")
            if COUNT.fits(step) and NUMBER.fits(loss):
                found[cast("int", step)] = float(cast("float", loss))
    return found


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
