"""A comparison of two architectures, for reading."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from vitruvius.report.changes import ABSENT, Comparison
from vitruvius.report.tables import columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.report.changes import Change, LayerChange


def comparison_text(comparison: Comparison) -> str:
    """The bills with their ratio, the fields that differ, and the layers side by side."""
    before, after = comparison.names
    parts = [[f"{before} -> {after}"], list(_figures(comparison)), list(_fields(comparison)), list(_layers(comparison))]
    if comparison.is_empty:
        parts = [parts[0], ["nothing differs but what they are called"]]
    return "\n\n".join("\n".join(part) for part in parts if part)


def places(indices: Sequence[int]) -> str:
    """`0-15`, `1, 3 ... 31` (in steps of two), `0, 5, 7`."""
    runs: list[str] = []
    start = 0
    while start < len(indices):
        end, step = start, indices[start + 1] - indices[start] if start + 1 < len(indices) else 1
        while end + 1 < len(indices) and indices[end + 1] - indices[end] == step:
            end += 1
        if end - start >= 2:
            runs.append(
                f"{indices[start]}-{indices[end]}"
                if step == 1
                else f"{indices[start]}, {indices[start + 1]} ... {indices[end]}"
            )
            start = end + 1
        else:
            runs.append(str(indices[start]))
            start += 1
    return ", ".join(runs)


def _figures(comparison: Comparison) -> Iterator[str]:
    rows = [
        (
            figure.name,
            f"{figure.before:,.0f}",
            f"{figure.after:,.0f}",
            "" if figure.ratio is None else "=" if figure.ratio == 1 else f"x {figure.ratio:.4g}",
        )
        for figure in comparison.figures
    ]
    yield from columns([(f"at {comparison.context:,} tokens", *comparison.names, ""), *rows], align="<>>>")


def _fields(comparison: Comparison) -> Iterator[str]:
    if comparison.fields:
        yield from columns([_row(change) for change in comparison.fields], align="<<<<")


def _layers(comparison: Comparison) -> Iterator[str]:
    for layer in comparison.layers:
        yield _heading(layer)
        yield from ("  " + line for line in columns([_row(change) for change in layer.changes], align="<<<<"))


def _heading(layer: LayerChange) -> str:
    old, new = layer.names
    if not layer.before:
        return f"+ layers {places(layer.after)}: {new}, added"
    if not layer.after:
        return f"- layers {places(layer.before)}: {old}, removed"
    where = places(layer.before)
    if layer.before != layer.after:
        where += f" -> {places(layer.after)}"
    name = old if old == new else f"{old} -> {new}"
    return f"{'~' if layer.changes else '='} layers {where}: {name}{'' if layer.changes else ', the same'}"


def _row(change: Change) -> tuple[str, str, str, str]:
    return (change.path, _shown(change.before), "->", _shown(change.after))


def _shown(value: Any) -> str:
    """A value as a spec file would have it, without what a mapping leaves at null."""
    if value == ABSENT or isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        inside = ", ".join(f"{key}: {_shown(item)}" for key, item in items if item is not None)
        return "{" + inside + "}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else json.dumps(value)
