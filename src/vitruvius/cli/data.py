"""`vitruvius data`: turn documents into token shards."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.output import clean_line, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleGroup

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.progress import TaskID

    from vitruvius.data.prepare import Prepared, PrepareOptions, Progress

SCHEMA = "vitruvius.data-prepare/1"
KINDS = ("auto", "text", "jsonl", "html", "source")


@click.group(
    "data",
    cls=ExampleGroup,
    help="Turn documents into token shards.",
    examples=[
        "vitruvius data prepare python-stdlib --out data --vocab 1024",
        "vitruvius data prepare books/*.txt --out books --vocab 8192",
        "vitruvius data prepare src/ --kind source --out code --tokenizer tokenizer.json",
    ],
)
def command() -> None:
    """Hold the verbs about data."""


@command.command(
    "prepare",
    help="""Read text, JSONL, HTML or source files, train or load a tokenizer, and pack token shards.

    IN is a file, a folder, or python-stdlib: the source of Python's standard library, which is on every
    machine. Documents that cannot be used are listed in OUT/quarantine.jsonl with their place and the
    reason; OUT/counts.json accounts for every document.""",
    examples=[
        "vitruvius data prepare python-stdlib --out data --vocab 1024",
        "vitruvius data prepare articles/*.jsonl.gz --field body --out data --held-out 0.01",
        "vitruvius data prepare src/ --kind source --ext .py --ext .c --tokenizer tokenizer.json --out data",
    ],
)
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for the result; replaces earlier data."
)
@click.option("--vocab", default=8192, show_default=True, help="Largest vocabulary of the tokenizer to train.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A byte-level tokenizer.json to use instead.")
@click.option("--eos", help="The document separator of --tokenizer, if its name is unusual.")
@click.option("--max-bad-rate", default=0.001, show_default=True, help="Stop, exit 3, when more documents are bad.")
@click.option("--held-out", default=0.05, show_default=True, help="Share of documents for validation.")
@click.option("--kind", type=click.Choice(KINDS), default="auto", show_default=True, help="How to read files.")
@click.option("--field", default="text", show_default=True, help="Key of the text in a JSON line.")
@click.option("--ext", "extensions", multiple=True, default=(".py",), show_default=True, help="Suffix of source files.")
@click.option(
    "--document-bytes",
    default=16 * 2**20,
    show_default=True,
    help="Cut longer text files, at line ends, into documents of this size.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed holds out other documents.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, without progress.")
def prepare_command(
    inputs: tuple[str, ...],
    *,
    out: Path,
    vocab: int,
    tokenizer: Path | None,
    eos: str | None,
    max_bad_rate: float,
    held_out: float,
    kind: str,
    field: str,
    extensions: tuple[str, ...],
    document_bytes: int,
    seed: int,
    as_json: bool,
) -> None:
    """Read, split, tokenize and pack."""
    from vitruvius.data.prepare import PrepareOptions, prepare
    from vitruvius.data.reading.inputs import INPUT_KINDS

    context = click.get_current_context()
    vocab_given = context.get_parameter_source("vocab") is not click.core.ParameterSource.DEFAULT
    if tokenizer is not None and vocab_given:
        raise click.UsageError("--vocab and --tokenizer exclude each other: a tokenizer brings its vocabulary")
    if eos is not None and tokenizer is None:
        raise click.UsageError("--eos belongs to --tokenizer")
    options = PrepareOptions(
        vocab=vocab,
        tokenizer=tokenizer,
        eos=eos,
        max_bad_rate=max_bad_rate,
        held_out=held_out,
        kind=next(known for known in INPUT_KINDS if known == kind),
        field=field,
        extensions=extensions,
        document_bytes=document_bytes,
        seed=seed,
    )
    with _progress("none" if as_json else "bar") as progress:
        prepared = prepare(inputs, out, options, progress=progress)
    if as_json:
        emit_json(_json(prepared))
        return
    _tell(prepared, options)
    next_step(f"vitruvius train SPEC --data {shlex.quote(clean_line(str(out)))} --out RUN")


def _json(prepared: Prepared) -> dict[str, object]:
    index = prepared.index
    return {
        "schema": SCHEMA,
        "out": str(prepared.directory),
        "files": prepared.files,
        "files_passed_over": prepared.passed_over,
        "documents_in": prepared.counts["documents_in"],
        "documents_out": prepared.counts["documents_out"],
        "dropped": prepared.counts["dropped"],
        "bad_rate": prepared.counts["bad_rate"],
        "splits": prepared.counts["splits"],
        "vocab_size": index["vocab_size"],
        "eos": index["eos"],
        "eos_id": index["eos_id"],
        "fingerprint": index["fingerprint"],
    }


def _tell(prepared: Prepared, options: PrepareOptions) -> None:
    """The counts as a table, and what may surprise, on stderr."""
    from vitruvius.data.ledger import BAD_REASONS

    counts, index = prepared.counts, prepared.index
    splits = counts["splits"]
    say(f"{'':12}{'documents':>14}{'tokens':>16}{'text bytes':>18}")
    for name, split in splits.items():
        say(f"{name:12}{split['documents']:>14,}{split['tokens']:>16,}{split['text_bytes']:>18,}")
    for reason, count in counts["dropped"].items():
        say(f"{'dropped':12}{count:>14,}  {reason}{'' if reason in BAD_REASONS else ' (no sign of damage)'}")
    say(f"{'in':12}{counts['documents_in']:>14,}  = out + dropped, from {prepared.files:,} files")
    if prepared.passed_over:
        most = sorted(prepared.passed_over.items(), key=lambda item: -item[1])[:5]
        say("passed over: " + ", ".join(f"{count:,} {clean_line(suffix)}" for suffix, count in most))
    asked = f" (asked for {options.vocab:,}: the text has no more pairs to merge)"
    short = options.tokenizer is None and index["vocab_size"] < options.vocab
    say(f"vocabulary {index['vocab_size']:,}{asked if short else ''}, fingerprint {index['fingerprint'][:16]}")
    if options.held_out > 0 and splits["validation"]["documents"] == 0:
        say("note: one document leaves nothing to hold out; --document-bytes 65536 cuts a text file into many")


@contextlib.contextmanager
def _progress(style: str) -> Generator[Progress]:
    """A listener that shows stages with the time left on a terminal, and a line per stage elsewhere."""
    if style == "none":
        yield lambda stage, done, total: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description:24}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
                if not console.is_terminal:
                    say(f"{stage} ...")
            bars.update(tasks[stage], completed=done, total=total)

        yield show
