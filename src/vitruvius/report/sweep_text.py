"""A sweep as text: what it will cost, and what came out. From its plain data alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.report.runs_text import number
from vitruvius.report.tables import columns
from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Mapping


def sweep_text(document: Mapping[str, Any]) -> str:
    """A row for each arm, then the verdict. `document` has the schema `vitruvius.sweep/1`."""
    head = ("arm", "runs", "val loss", "bits/byte", "tokens/s", "parameters", "tokens", "FLOPs")
    rows: list[tuple[str, ...]] = [
        (
            arm["name"],
            done_of(arm),
            with_interval(arm["val_loss"]),
            with_interval(arm["val_bits_per_byte"]),
            number(arm["tokens_per_second"]),
            format_count(arm["parameters"]["total"]),
            format_count(arm["tokens"]),
            format_count(arm["flops"]),
        )
        for arm in document["arms"]
    ]
    lines = columns([head, *rows], align="<<>>>>>>")
    failed = [
        f"failed: {arm['name']}, seed {run['seed']}: {run['error']}"
        for arm in document["arms"]
        for run in arm["runs"]
        if run["status"] == "failed"
    ]
    spread = "means over seeds [95 % interval, Student t]" if len(document["seeds"]) > 1 else "one seed, no interval"
    return "\n".join([*lines, "", f"({spread})", *failed, verdict_text(document["verdict"])])


def done_of(arm: Mapping[str, Any]) -> str:
    """How many of an arm's runs are finished."""
    done = sum(run["status"] == "finished" for run in arm["runs"])
    return f"{done} of {len(arm['runs'])}"


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """The verdict in a sentence."""
    if verdict["winner"] is not None:
        return f"winner: {verdict['winner']}: {verdict['why']}"
    if verdict["best"] is None:
        return f"no winner: {verdict['why']}"
    return f"no winner; {verdict['best']} has the least loss, but {verdict['why']}"


def with_interval(found: Mapping[str, float | None]) -> str:
    """A mean and its interval."""
    mean, low, high = found["mean"], found["ci_low"], found["ci_high"]
    if mean is None:
        return "-"
    if low is None or high is None:
        return f"{mean:.4f}"
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"
