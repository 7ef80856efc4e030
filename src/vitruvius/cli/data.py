"""`vitruvius data`: documents in, token shards out, and everything that happened to them on the way."""

from __future__ import annotations

import click

from vitruvius.cli.verbs import LazyExampleGroup, Verb

VERBS = (
    Verb(group="data", stage="Make", name="fetch", help="Bring real text that needs no hub: documentation, sources."),
    Verb(group="data", stage="Make", name="prepare", help="Clean, filter, deduplicate, tokenize and pack documents."),
    Verb(group="data", stage="Make", name="pairs", help="Sources and targets for sequence-to-sequence training."),
    Verb(group="data", stage="Make", name="tokenizer", help="Train a tokenizer, look at one, compare several."),
    Verb(group="data", stage="Make", name="work", help="Do one rank's share of a job: what a scheduler calls."),
    Verb(group="data", stage="See", name="stats", help="Lengths, tokens, sources, what was dropped and why."),
    Verb(group="data", stage="See", name="card", help="The dataset card: what it is, how it was made, its limits."),
    Verb(group="data", stage="See", name="explain", help="Everything that happened to one document."),
    Verb(group="data", stage="See", name="sample", help="Read some documents, kept or dropped."),
    Verb(group="data", stage="Use", name="export", help="Write documents as JSON lines or Parquet for others."),
)
"""Every verb of `data`; `cli/data_<name>.py` defines it as `command`."""


@click.group(
    "data",
    cls=LazyExampleGroup,
    verbs=VERBS,
    help="Turn documents into token shards, and see what became of each.",
    examples=[
        "vitruvius data prepare python-stdlib --out data --vocab 1024",
        "vitruvius data prepare pages/*.jsonl.zst --recipe web --out web",
        "vitruvius data stats data --html data.html",
    ],
)
def command() -> None:
    """Hold the verbs of data; what each does is in its own file."""
