"""`vitruvius data explain`: everything that happened to one document."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.data_account import data_argument, inputs_option
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "vitruvius.data-explain/1"


@click.command(
    "explain",
    cls=ExampleCommand,
    help="""Tell everything that happened to one document of DATA.

    Where it lies (file, line, byte), what every step measured, with limit and source, what rewriting changed, which
    document it is a duplicate of and how alike they are, and where it ended: split, shard and number, or dropped
    and why. The document is read again from its file and taken through the recipe that the data was made with;
    where the file is gone or has changed, that is said.

    DOC_ID is what quarantine.jsonl, `data sample` and `data stats` call it: FILE, FILE@BYTE for a line or a piece,
    FILE#ROW for a row of a table.""",
    examples=[
        "vitruvius data explain data pages.jsonl@73912",
        "vitruvius data explain data /usr/lib/python3.11/abc.py",
        "vitruvius data explain data crawl/part-0.parquet#117 --inputs-in /mnt/crawl --json",
    ],
)
@data_argument()
@click.argument("document_id", metavar="DOC_ID")
@inputs_option()
@json_option
def command(*, data: Path, document_id: str, root: Path, as_json: bool) -> None:
    """Find the document, take it through the steps again, and tell."""
    from vitruvius.data.account.explaining import explain

    document: dict[str, Any] = {"schema": SCHEMA, **explain(data, document_id, root=root)}
    if as_json:
        emit_json(document)
        return
    from vitruvius.report.data_document import explanation_text

    emit(clean(explanation_text(document)))
    folder = shlex.quote(clean_line(str(data)))
    reason = document["end"].get("reason")
    next_step(f"vitruvius data sample {folder}" + (f" --dropped-by {shlex.quote(reason)}" if reason else ""))
