"""A prototype for reading: what it is, what it changed, what it cannot catch, and the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.prototype import Deviation, Prototype

_LONGEST = 44
"""Characters of a value in the table of deviations."""


def prototype_text(prototype: Prototype) -> str:
    """Four parts: the counts, the deviations with their ratios, the blind spots, the run."""
    parts = [list(_head(prototype)), list(_deviations(prototype)), list(_blind(prototype)), list(_run(prototype))]
    return "\n\n".join("\n".join(part) for part in parts)


def _head(prototype: Prototype) -> Iterator[str]:
    made, counts = prototype.architecture, prototype.parameters
    active = "" if counts.active == counts.total else f", {format_count(counts.active)} active"
    yield f"{made.name}, a prototype of {prototype.original.name}"
    yield (
        f"  {counts.total:,} parameters{active}: {prototype.missed_by:+.2%} of the {format_count(prototype.wanted)} "
        "that were asked for"
    )
    yield f"  width {made.width:,}, layers {made.layers}, vocabulary {made.vocab_size:,}, context {made.context:,}"


def _deviations(prototype: Prototype) -> Iterator[str]:
    yield "what it changes, and the ratio that each field stands for (kept within 5 %, near within 25 %)"
    order = {"lost": 0, "near": 1, "kept": 2}
    for row in sorted(prototype.deviations, key=lambda row: order[row.kept]):
        yield f"  {row.kept}  {row.field}: {_cut(row.before)} -> {_cut(row.after)}{_ratio(row)}"


def _ratio(row: Deviation) -> str:
    if not row.ratio:
        return ""
    return f" ({row.ratio})" if row.field == "layers" else f" ({row.ratio}: {row.ratio_before} -> {row.ratio_after})"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _blind(prototype: Prototype) -> Iterator[str]:
    yield "what it can no longer catch"
    for spot in prototype.blind_spots:
        yield f"  - {spot.what}"
        yield f"    {spot.because}"


def _run(prototype: Prototype) -> Iterator[str]:
    run = prototype.run
    yield f"the run: {run.steps:,} steps of {run.tokens_per_step:,} tokens, {run.tokens_per_parameter:.3g} a parameter"
    yield from (f"  {rule}" for rule in run.rules)
