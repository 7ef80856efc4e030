"""`vitruvius data card`: what people should know of prepared data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.data_account import data_argument, refuse_folders, write_pages
from vitruvius.cli.output import clean_line, emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand

SCHEMA = "vitruvius.data-card/1"


@click.command(
    "card",
    cls=ExampleCommand,
    help="""Write the dataset card of DATA: Markdown with the front matter that hubs read.

    It answers the questions of "Datasheets for Datasets" and "Data Statements" as far as the data knows: what is in
    it, what it was made of, every step with every limit and where that is from, what was dropped, personal data,
    duplicates, splits, tokenizer, hashes, and the command that makes it again. What only people know is read from
    --about, or said to be not stated.""",
    epilog="""--about is a YAML file with any of: title, license, languages, motivation, creators, collection,
    time_span, speakers, consent, sensitive, uses, not_for, distribution, maintenance, citation, homepage.""",
    examples=[
        "vitruvius data card data",
        "vitruvius data card data --license cc-by-4.0 --about about.yaml --out README.md",
        "vitruvius data card data --html card.html",
    ],
)
@data_argument()
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the Markdown to a file.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write it as a page too.")
@click.option("--license", "license_name", metavar="NAME", help="The licence of the data: an SPDX name.")
@click.option("--about", type=click.Path(path_type=Path), metavar="FILE", help="YAML with what people state.")
@json_option
def command(
    *, data: Path, out: Path | None, html: Path | None, license_name: str | None, about: Path | None, as_json: bool
) -> None:
    """Gather the facts and write the card."""
    from vitruvius.data.account.about import check_license, read_about
    from vitruvius.data.account.card import card_facts
    from vitruvius.report.data_card import card_markdown, card_page

    refuse_folders({"--out": out, "--html": html})
    stated: dict[str, Any] = {} if about is None else read_about(about)
    given = license_name if license_name is not None else stated.get("license")
    if given is not None:
        stated["license"] = check_license(given)
    document = {"schema": SCHEMA, **card_facts(data, about=stated)}
    pages: dict[Path, str] = {}
    if out is not None:
        pages[out] = card_markdown(document)
    if html is not None:
        pages[html] = card_page(document)
    write_pages(pages)
    if as_json:
        emit_json(document)
    elif out is None:
        emit(card_markdown(document).rstrip("\n"))
    next_step(f"vitruvius data sample {shlex.quote(clean_line(str(data)))}")
