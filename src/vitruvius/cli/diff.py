"""`vitruvius diff`: what differs between two architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import Tokens, json_option, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.report.changes import Comparison

SCHEMA = "vitruvius.diff/1"


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius diff llama-3-8b llama-moe",
        "vitruvius diff my-arch.yaml my-arch-2.yaml --context 32k",
        "vitruvius diff longcontext longcontext-7b --json",
    ],
)
@spec_argument("a")
@spec_argument("b")
@click.option("--context", type=Tokens(), help="Tokens for both bills; the shorter context when not given.")
@json_option
def command(*, a: str, b: str, context: int | None, as_json: bool) -> None:
    """Say what differs between the architectures A and B: their bills, their fields, and their layers side by side.

    Layers are compared as they are resolved, so that two ways of writing the same thing do not differ.
    """
    from vitruvius.report.changes import compare
    from vitruvius.report.changes_text import comparison_text
    from vitruvius.spec import read

    comparison = compare(read(a), read(b), context=context)
    if as_json:
        emit_json(_data(comparison))
        return
    emit(clean(comparison_text(comparison)))
    next_step(f"vitruvius show {clean(b)}")


def _data(comparison: Comparison) -> dict[str, Any]:
    from dataclasses import asdict

    data = asdict(comparison)
    for row, figure in zip(data["figures"], comparison.figures, strict=True):
        row["ratio"] = figure.ratio
    return {"schema": SCHEMA, "same": comparison.is_empty, **data}
