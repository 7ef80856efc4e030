"""What a sweep will cost, as text. From its plain data alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.report.durations import duration
from vitruvius.report.tables import columns
from vitruvius.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def bill_text(bill: Mapping[str, Any]) -> str:
    """A row for each arm, then where each value was written, then the total. Schema `vitruvius.sweep-plan/1`."""
    head = ("arm", "runs", "parameters", "tokens", "epochs", "FLOPs", "memory", "time")
    rows: list[tuple[str, ...]] = [
        (
            arm["name"],
            f"{len(arm['runs']):,}",
            format_count(arm["parameters"]["total"]),
            format_count(arm["tokens"]),
            f"{arm['epochs']:.2f}",
            format_count(arm["flops"]),
            format_bytes(arm["peak_bytes"]),
            _time(arm["time"]),
        )
        for arm in bill["arms"]
    ]
    total, jobs = bill["total"], bill["jobs"]
    origins = dict.fromkeys(
        (path, str(value), arm["origins"][path]) for arm in bill["arms"] for path, value in arm["values"].items()
    )
    lines = [f"sweep over {', '.join(bill['swept']) or 'seeds alone'} into {bill['out']}", ""]
    lines += columns([head, *rows], align="<>>>>>>>")
    if origins:
        lines += ["", *columns([("value", "", "from"), *origins], align="<<<")]
    where = "in the largest arm" if jobs == 1 else "when the largest arms meet"
    at_once = f"{jobs} at a time" + ("" if bill["threads"] is None else f", {bill['threads']} threads each")
    lines += [
        "",
        (
            f"total    {total['runs']:,} runs (seeds {', '.join(map(str, bill['seeds']))}; {at_once}), "
            f"{format_count(total['tokens'])} tokens, {format_count(total['flops'])}FLOP"
        ),
        f"memory   {format_bytes(total['peak_bytes'])} {where}",
    ]
    if total["seconds_over_jobs"] is None:
        lines.append("time     not known: --measure does a few updates of each arm, --on HARDWARE gives a bound")
    else:
        bound = any(arm["time"]["source"] == "bound" for arm in bill["arms"])
        how = "at least " if bound else ""
        lines.append(f"time     {how}{duration(total['seconds_over_jobs'])}, {duration(total['run_seconds'])} of runs")
        if jobs > 1:
            lines.append("         jobs share cores and memory: each may take longer than it does alone")
        lines += [f"         {note}" for note in _common([arm["time"]["notes"] for arm in bill["arms"]])]
    return "\n".join(lines)


def _common(notes: Sequence[Sequence[str]]) -> list[str]:
    """What is said of every arm."""
    return [note for note in notes[0] if all(note in others for others in notes)]


def _time(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["seconds_high"] is None:
        return f"at least {duration(found['seconds'])}"
    return f"{duration(found['seconds'])} ({duration(found['seconds_low'])}-{duration(found['seconds_high'])})"
