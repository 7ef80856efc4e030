"""A reproduction as a table: ours beside the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.report.tables import markdown

if TYPE_CHECKING:
    from vitruvius.lab.arms import Report
    from vitruvius.lab.intervals import Interval
    from vitruvius.lab.reproductions import Measure

_DIGITS = {"error %": 2, "accuracy": 4}


def to_text(report: Report) -> str:
    """Title, table and claims, in markdown."""
    reproduction = report.reproduction
    heads = ["", "steps"]
    for measure in reproduction.measures:
        heads += [f"{measure.name}, {measure.kind}", "target"]
    rows: list[tuple[str, ...]] = []
    for found in report.arms:
        row = [found.arm.label, f"{found.steps:,}"]
        for index, measure in enumerate(reproduction.measures):
            target = f"{found.arm.targets[index]:g}" if report.whole else "-"
            row += [shown(found.interval(index), measure), target]
        rows.append(tuple(row))
    spread = f"mean of {report.seeds} seeds [95 % interval, Student t]" if report.seeds > 1 else "one seed, no interval"
    lines = [reproduction.title, f"({spread})", "", markdown(tuple(heads), rows), ""]
    if report.whole:
        lines += [f"{'holds' if held else 'FAILS'}: {text}" for text, held in report.claims()]
    else:
        lines.append("trained for other steps than the targets say, so neither they nor the claims apply")
    return "\n".join(lines)


def shown(interval: Interval, measure: Measure) -> str:
    """A mean with its interval."""
    digits = _DIGITS[measure.kind]
    mean = f"{interval.mean:.{digits}f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
