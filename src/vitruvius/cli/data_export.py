"""`vitruvius data export`: prepared documents for other tools."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.data_account import data_argument
from vitruvius.cli.output import clean_line, emit, emit_json, next_step, say
from vitruvius.cli.progress import progress_of
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data.progress import Progress
    from vitruvius.data.reading.export import Exported

SCHEMA = "vitruvius.data-export/1"
_SPLITS = ("all", "train", "validation")
_EVERY = 100


@click.command(
    "export",
    cls=ExampleCommand,
    help="""Write the documents of DATA to OUT, for `datasets.load_dataset` and other tools.

    OUT ends in .jsonl, .jsonl.gz, .jsonl.zst or .parquet. A row has id, text, url, source, split and tokens (the
    separator not counted). The text is what the tokens say: a tokenizer that does not keep all of it is told.""",
    examples=[
        "vitruvius data export data corpus.parquet",
        "vitruvius data export data train.jsonl.zst --split train",
        "vitruvius data export data validation.jsonl --split validation --json",
    ],
)
@data_argument()
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(_SPLITS), default="all", show_default=True, help="Which documents.")
@json_option
def command(data: Path, out: Path, *, split: str, as_json: bool) -> None:
    """Decode and write."""
    from vitruvius.data.packing.index import SPLITS, read_index
    from vitruvius.data.reading.export import export, form_of, prepared_documents

    form = form_of(out)
    splits = SPLITS if split == "all" else (split,)
    index = read_index(data)
    total = sum(shard["documents"] for name in splits for shard in index["splits"][name]["shards"])
    with progress_of("quiet" if as_json else "bars") as progress:
        written = export(_watched(prepared_documents(data, splits), total, progress), out)
    if as_json:
        emit_json(
            {
                "schema": SCHEMA,
                "data": str(data),
                "out": str(out),
                "form": form,
                "split": split,
                "documents": written.documents,
                "documents_inexact": written.inexact,
                "text_bytes": written.text_bytes,
                "file_bytes": written.file_bytes,
                "fingerprint": index["fingerprint"],
            }
        )
        return
    emit(clean_line(str(out)))
    say(f"{written.documents:,} documents, {written.text_bytes:,} bytes of text, {written.file_bytes:,} in the file")
    if written.inexact:
        say(f"note: the tokenizer gives {written.inexact:,} of them back with another length than they had")
    builder = "parquet" if form == "parquet" else "json"
    # Double quotes, which the shell's single ones may hold.
    call = f'load_dataset("{builder}", data_files={json.dumps(clean_line(str(out)))})'
    next_step(f"python -c {shlex.quote(f'from datasets import load_dataset; print({call})')}")


def _watched(documents: Iterator[Exported], total: int, progress: Progress) -> Iterator[Exported]:
    """The documents, with progress told from time to time."""
    for number, document in enumerate(documents):
        if number % _EVERY == 0:
            progress("writing documents", number, total)
        yield document
    progress("writing documents", total, total)
