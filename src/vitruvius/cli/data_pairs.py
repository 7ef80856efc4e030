"""`vitruvius data pairs`: sources and targets for sequence-to-sequence training."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean_line, emit, emit_json, next_step
from vitruvius.cli.progress import progress_of
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.data.pairs.preparing import PreparedPairs

SCHEMA = "vitruvius.data-pairs/1"


@click.command(
    "pairs",
    cls=ExampleCommand,
    help="""Make prepared data of pairs: what an encoder reads, and what a decoder is to write.

    IN is a file of JSON lines, compressed or not, or a folder of them; --source and --target name two keys of a
    record. Pairs with the same text under --group (a module, a page, an author) are all trained on or all held out,
    and a held-out pair whose source stands in training is dropped. Of equal pairs one stays. Every pair that does not
    come out is listed in OUT/quarantine.jsonl.""",
    examples=[
        "vitruvius data pairs docstrings --source text --target words --group module --out pairs",
        "vitruvius data pairs questions.jsonl.gz --source question --target answer --vocab 4096 --out qa",
        "vitruvius data pairs en-de/ --source en --target de --group document --held-out 0.05 --out en-de-pairs",
        "vitruvius data pairs tasks.jsonl --source input --target output --tokenizer tokenizer.json --out tasks",
    ],
)
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for the result; replaces earlier data."
)
@click.option("--source", default="source", show_default=True, help="Key of the text that is read.")
@click.option("--target", default="target", show_default=True, help="Key of the text that is to be written.")
@click.option("--group", help="Key of what keeps pairs on one side; equal sources stay together without.")
@click.option("--vocab", default=8192, show_default=True, help="Largest vocabulary of the tokenizer to train.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A tokenizer.json or GGUF file to use instead.")
@click.option("--eos", help="The separator of --tokenizer, if its name is unusual.")
@click.option("--held-out", default=0.1, show_default=True, help="Share of the pairs for validation.")
@click.option("--max-bad-rate", default=0.001, show_default=True, help="Stop, exit 3, when more records are bad.")
@click.option("--seed", default=0, show_default=True, help="Another seed holds out other groups.")
@json_option
def command(inputs: tuple[str, ...], *, out: Path, as_json: bool, **given: Any) -> None:
    """Prepare the pairs and say what came."""
    from vitruvius.data.pairs.options import PairOptions
    from vitruvius.data.pairs.preparing import prepare_pairs

    with progress_of("quiet" if as_json else "bars") as progress:
        made = prepare_pairs(inputs, out, PairOptions(**given), progress=progress)
    document = _document(made)
    if as_json:
        emit_json(document)
        return
    emit("\n".join(_lines(document)))
    setting = "--set train.objective=seq2seq"
    vocabulary = f"--set vocab_size={document['vocab_size']}"
    next_step(
        f"vitruvius train seq2seq-small --data {shlex.quote(clean_line(str(out)))} --out run {setting} {vocabulary}"
    )


def _document(made: PreparedPairs) -> dict[str, Any]:
    counts, index = made.counts, made.index
    return {
        "schema": SCHEMA,
        "out": str(made.directory),
        "pairs_in": counts["documents_in"],
        "pairs_out": counts["documents_out"],
        "dropped": counts["dropped"],
        "vocab_size": index["vocab_size"],
        "fingerprint": index["fingerprint"],
        "splits": {
            name: {
                "pairs": split["documents"] // 2,
                "tokens": split["tokens"],
                "text_bytes": split["text_bytes"],
            }
            for name, split in index["splits"].items()
        },
    }


def _lines(document: dict[str, Any]) -> list[str]:
    lines = [
        (
            f"{clean_line(document['out'])}: {document['pairs_out']:,} of {document['pairs_in']:,} pairs, "
            f"vocabulary {document['vocab_size']:,}"
        )
    ]
    lines += [
        f"{name:12} {split['pairs']:>9,} pairs {split['tokens']:>12,} tokens"
        for name, split in document["splits"].items()
    ]
    return lines + [f"dropped: {count:,} {reason}" for reason, count in document["dropped"].items()]
