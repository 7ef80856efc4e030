"""`vitruvius data stats`: what is in prepared data."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.data_account import data_argument, refuse_folders, write_pages
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step
from vitruvius.cli.progress import progress_of
from vitruvius.cli.verbs import ExampleCommand

SCHEMA = "vitruvius.data-stats/1"
PARTS = ("tokens", "overlap", "hosts", "duplicates")


@click.command(
    "stats",
    cls=ExampleCommand,
    help="""Count what is in DATA, a folder that `data prepare` made.

    Documents, tokens and bytes by split and source; in = out + dropped by reason; how long documents are, and
    what a context cuts off or leaves empty; how often tokens occur; what validation shares with training; clusters
    of duplicates; hosts. Every number is exact unless it says how far off it can be, and memory does not grow with
    the data.""",
    examples=[
        "vitruvius data stats data",
        "vitruvius data stats data --html stats.html --svg stats.svg",
        "vitruvius data stats data --skip overlap --skip tokens",
        "vitruvius data stats data --json > stats.json",
    ],
)
@data_argument()
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with pictures.")
@click.option(
    "--svg", type=click.Path(path_type=Path), metavar="FILE", help="Write one picture of it all, for a paper."
)
@click.option("--title", help="What page and picture are called. [default: the folder's name]")
@click.option(
    "--skip", multiple=True, type=click.Choice(PARTS), help="Leave out a part that takes long; may be given again."
)
@click.option(
    "--ngram",
    type=click.IntRange(1, 1024),
    help="Tokens of the n-grams that validation and training are compared by. [default: what spans about 65 bytes]",
)
@json_option
def command(
    *,
    data: Path,
    html: Path | None,
    svg: Path | None,
    title: str | None,
    skip: tuple[str, ...],
    ngram: int | None,
    as_json: bool,
) -> None:
    """Count, print and draw."""
    from vitruvius.data.account.statistics import statistics

    refuse_folders({"--html": html, "--svg": svg})
    with progress_of("quiet" if as_json else "bars") as progress:
        found = statistics(data, skip=skip, ngram=ngram, progress=progress)
    document = {"schema": SCHEMA, **found}
    name = title or data.resolve().name or str(data)
    pages: dict[Path, str] = {}
    if html is not None:
        from vitruvius.report.data_page import statistics_page

        pages[html] = statistics_page(document, title=name)
    if svg is not None:
        from vitruvius.report.data_page import statistics_svg

        pages[svg] = statistics_svg(document, title=name)
    write_pages(pages)
    if as_json:
        emit_json(document)
        return
    from vitruvius.report.data_text import statistics_text

    emit(clean(statistics_text(document)))
    next_step(f"vitruvius data card {shlex.quote(clean_line(str(data)))} --out card.md")
