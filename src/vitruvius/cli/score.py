"""`vitruvius score`: what a trained encoder-decoder writes for held-out sources, beside what a skeptic would try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean_line, emit, emit_json, next_step, path_argument, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.evals.scoring import Scored

SCHEMA = "vitruvius.score/1"


@click.command(
    cls=ExampleCommand,
    help="""Score the newest checkpoint of RUN, trained with objective seq2seq, on the held-out pairs of its data.

    Targets are written greedily. Exact match is the share that is right to the character, F1 that of the parts of a
    name (read_json is read and json) or text. Two baselines are scored on the same pairs: the most frequent target
    of training, and the target of the training source that is most alike (TF-IDF).""",
    examples=[
        "vitruvius score runs/names",
        "vitruvius score runs/names --most 200 --show 20",
        "vitruvius score runs/names --data data/other-pairs --json",
        "vitruvius score runs/names/checkpoints/step-400 --split train --most 100",
    ],
)
@click.argument("run")
@click.option("--data", metavar="DIR", help="Pairs to score on; those of the run when not given.")
@click.option(
    "--split", type=click.Choice(("validation", "train")), default="validation", show_default=True, help="Which pairs."
)
@click.option("--most", type=click.IntRange(min=1), help="Score at most so many, spread evenly; all when not given.")
@click.option("--show", type=click.IntRange(min=0), default=5, show_default=True, help="Pairs to print.")
@json_option
def command(*, run: str, data: str | None, split: str, most: int | None, show: int, as_json: bool) -> None:
    """Write, compare and tell."""
    from vitruvius.evals.scoring import score

    scored = score(run, data=data, split=split, most=most, told=None if as_json else _told)
    if as_json:
        emit_json({"schema": SCHEMA, **scored.to_dict(show)})
        return
    emit("\n".join(_lines(scored, show)))
    next_step(f"vitruvius generate {path_argument(run)} --prompt TEXT writes a target for a source of yours")


def _told(done: int, total: int) -> None:
    if done == total or done % 256 == 0:
        say(f"{done:,} of {total:,} written")


def _lines(scored: Scored, show: int) -> list[str]:
    found: dict[str, Any] = scored.to_dict(show)
    lines = [f"{'':26}{'exact match':>12}{'F1':>9}{'precision':>11}{'recall':>9}"]
    for name, row in {"model": found["model"], **found["baselines"]}.items():
        if row is not None:
            lines.append(
                f"{name.replace('_', ' '):26}{row['exact_match']:>12.1%}{row['f1']:>9.1%}"
                f"{row['precision']:>11.1%}{row['recall']:>9.1%}"
            )
    lines.append(f"{found['pairs']:,} {found['split']} pairs of {clean_line(found['data'])}, step {found['step']:,}")
    for one in found["shown"]:
        mark = "=" if one["written"].strip() == one["target"].strip() else " "
        lines.append(f"{mark} {clean_line(one['written'])[:40]:40} {clean_line(one['target'])[:40]:40} {_short(one)}")
    return lines


def _short(one: dict[str, str]) -> str:
    text = clean_line(one["source"])
    return text if len(text) <= 80 else text[:77] + "..."
