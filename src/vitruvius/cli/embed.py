"""`vitruvius embed`: a vector for each text from a trained run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import emit, emit_json, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "vitruvius.embed/1"
_DIGITS = 7
"""Significant digits of fp32."""


@click.command(
    cls=ExampleCommand,
    help="Turn each TEXT into a vector of length 1 with the newest checkpoint of RUN: one JSON list a line. How near "
    "two texts are is the product of their vectors.",
    examples=[
        "vitruvius embed runs/first 'def main():' 'import sys'",
        "vitruvius embed runs/bert 'a text' --pooling first --json",
        "vitruvius embed runs/first 'open a file' 'read a file' 'sort a list' > vectors.jsonl",
    ],
)
@click.argument("run")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option(
    "--pooling",
    type=click.Choice(["mean", "first", "last"]),
    default="mean",
    show_default=True,
    help="Which tokens make the vector: their mean, the first, or the last.",
)
@json_option
def command(*, run: str, texts: tuple[str, ...], pooling: Literal["mean", "first", "last"], as_json: bool) -> None:
    """Load the run, embed the texts, say on stderr how near they are."""
    from pathlib import Path

    from vitruvius.data.tokenization.of_run import tokenizer_of_run
    from vitruvius.errors import UsageError
    from vitruvius.inference import embed
    from vitruvius.nn.weights import load_model

    for number, text in enumerate(texts, 1):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"text {number} is not UTF-8 (character {error.start + 1})", fix="send UTF-8") from None
    model = load_model(Path(run), dtype="fp32")
    tokenizer = tokenizer_of_run(run)
    vectors = embed(model, [tokenizer.encode(text) for text in texts], pooling=pooling)
    rows = [[float(f"{number:.{_DIGITS}g}") for number in row] for row in _lists(vectors)]
    if as_json:
        emit_json({"schema": SCHEMA, "run": run, "pooling": pooling, "width": len(rows[0]), "vectors": rows})
        return
    for row in rows:
        emit(json.dumps(row))
    for line in _nearness(vectors):
        say(line)


def _nearness(vectors: Tensor) -> list[str]:
    """The products of all pairs, a line for each text, where there are few."""
    if not 2 <= len(vectors) <= 12:
        return []
    products = vectors @ vectors.T
    return ["nearness, from -1 to 1:"] + ["  " + " ".join(f"{value:6.3f}" for value in row) for row in _lists(products)]


def _lists(matrix: Tensor) -> list[list[float]]:
    rows: list[list[float]] = cast("Any", matrix).tolist()
    return rows
