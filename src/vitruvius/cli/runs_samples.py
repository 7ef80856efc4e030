"""`vitruvius runs samples`: what an update of a run has read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step, path_argument, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST_SHOWN = 6
"""Documents of a sample that are named; --json names all."""


@click.command(
    "samples",
    cls=ExampleCommand,
    help="Show which samples update --step of RUN has read: ids, epochs, sources and documents. They are computed "
    "again from the run's record and data, and proved by the digests in metrics.jsonl.",
    examples=[
        "vitruvius runs samples runs/first --step 120",
        "vitruvius runs samples runs/first --step 120 --text",
        "vitruvius runs samples runs/first --step 120 --text --characters 2000 --data /mnt/books",
        "vitruvius runs samples runs/first --step 120 --json",
    ],
)
@click.argument("run")
@click.option("--step", type=click.IntRange(1, 2**31 - 1), required=True, metavar="N", help="The update, from 1.")
@click.option("--data", metavar="DIR", help="Where the data lies now, when it was moved.")
@click.option("--text", is_flag=True, help="Show the text of each sample, before any hook of train.preprocess.")
@click.option(
    "--characters", type=click.IntRange(1, 2**30), default=400, show_default=True, help="How much of each text."
)
@json_option
def command(*, run: str, step: int, data: str | None, text: bool, characters: int, as_json: bool) -> None:
    """Compute, prove and print."""
    from vitruvius.training.loading.recalling import samples_of_step

    document = samples_of_step(run, step, data=data, characters=characters if text else None)
    if as_json:
        emit_json(document)
        return
    emit(clean("\n".join(_lines(document))))
    if document["hooks"]:
        say(f"hooks change these samples before they are learned from: {clean_line(', '.join(document['hooks']))}")
    if not text:
        next_step(f"vitruvius runs samples {path_argument(run)} --step {step} --text")


def _lines(document: Mapping[str, Any]) -> list[str]:
    step, batch, samples = document["step"], document["batch"], document["samples"]
    of = f"batch {batch:,}" + ("" if batch == step - 1 else ", for the run has passed over some")
    done = "" if document["applied"] else "; the guard did not let the update through"
    lines = [f"step {step:,} read {of}: {len(samples):,} samples, digest {document['digest']['batch']} (proved){done}"]
    for sample in samples:
        lines.append(
            f"  sample {sample['sample_id']:,}  epoch {sample['epoch']}  source {clean_line(sample['source'])}  "
            f"{sample['tokens']:,} tokens  {clean_line(sample['file'])} from byte {sample['byte']:,}"
        )
        lines.append(f"    documents: {_named(sample['documents'])}")
        if sample["text"] is not None:
            lines += [f"    | {line}" for line in sample["text"].split("\n")]
            if not sample["text_is_whole"]:
                lines.append("    | ...")
    return lines


def _named(documents: Sequence[Mapping[str, Any]]) -> str:
    shown = [
        f"{each['document']:,}" + ("" if each["id"] is None else f" ({clean_line(each['id'])})")
        for each in documents[:_MOST_SHOWN]
    ]
    left = len(documents) - len(shown)
    return ", ".join(shown) + (f" and {left:,} more" if left else "")
