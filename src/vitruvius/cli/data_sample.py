"""`vitruvius data sample`: documents to look at."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.data_account import data_argument, inputs_option
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "vitruvius.data-sample/1"


@click.command(
    "sample",
    cls=ExampleCommand,
    help="""Show documents of DATA, drawn without preference.

    Of what was kept, as the shards have it; with --dropped-by of what was dropped, read again from the input files,
    with what the rule measured and its limit. Control characters, escapes and what has no width are made visible.""",
    examples=[
        "vitruvius data sample data",
        "vitruvius data sample data --dropped-by near_duplicate -n 3",
        "vitruvius data sample data --dropped-by any --source web --characters 200",
        "vitruvius data sample data --split validation --seed 7 --json",
    ],
)
@data_argument()
@click.option("-n", "count", type=click.IntRange(1, 10_000), default=5, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Another draws others.")
@click.option("--dropped-by", metavar="REASON", help="Of what was dropped for this reason; `any` for every reason.")
@click.option("--split", type=click.Choice(("train", "validation")), help="Of what was kept for this.")
@click.option("--source", metavar="NAME", help="Of this part of the corpus.")
@click.option(
    "--characters", type=click.IntRange(1, 2**30), default=600, show_default=True, help="How much of each text."
)
@inputs_option()
@json_option
def command(
    *,
    data: Path,
    count: int,
    seed: int,
    dropped_by: str | None,
    split: str | None,
    source: str | None,
    characters: int,
    root: Path,
    as_json: bool,
) -> None:
    """Draw and show."""
    from vitruvius.data.account.sampling import sample

    drawn = sample(
        data,
        count=count,
        seed=seed,
        dropped_by=dropped_by,
        split=split,
        source=source,
        characters=characters,
        root=root,
    )
    document = {"schema": SCHEMA, **drawn}
    if as_json:
        emit_json(document)
        return
    from vitruvius.report.data_document import sample_text

    emit(clean(sample_text(document)))
    named = next((one["id"] for one in drawn["documents"] if one["id"]), None)
    if named is not None and named.isprintable():
        next_step(f"vitruvius data explain {shlex.quote(clean_line(str(data)))} {shlex.quote(named)}")
