"""`vitruvius size`: what an architecture costs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import Count, Tokens, json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step, wants_color
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.sizing import Bill


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius size llama-moe",
        "vitruvius size my-arch.yaml --context 128k --batch 4 --dtype fp16",
        "vitruvius size longcontext --explain",
        "vitruvius size llama-moe --set blocks.moe.ffn.experts=16 --json",
    ],
)
@spec_argument()
@click.option("--context", type=Tokens(), help="Tokens in a sequence, e.g. 128k; the spec's own when not given.")
@click.option("--batch", type=Count(), default=1, show_default=True, metavar="B", help="Sequences at a time.")
@click.option("--dtype", default="bf16", show_default=True, help="Number format: fp32, bf16, fp16 or fp64.")
@click.option("--mode", default="inference", show_default=True, help="inference or train.")
@overrides_option
@click.option("--explain", is_flag=True, help="Show the arithmetic behind every number.")
@json_option
def command(
    *,
    spec: str,
    context: int | None,
    batch: int,
    dtype: str,
    mode: str,
    overrides: tuple[str, ...],
    explain: bool,
    as_json: bool,
) -> None:
    """Count parameters, memory, FLOPs and cache of SPEC, a file or a preset; and check what others claim of it.

    Every number is exact. Claims that are wrong are marked; they do not change the exit code.
    """
    from vitruvius.errors import UsageError
    from vitruvius.sizing import size
    from vitruvius.spec.reading import read_with_findings

    if explain and as_json:
        raise UsageError("--explain is for reading and --json for machines", fix="give one of the two")
    reading = read_with_findings(spec, overrides=overrides)
    bill = size(reading.architecture, context=context, batch=batch, dtype=dtype, mode=mode)
    if as_json:
        emit_json(bill.to_dict())
        return
    emit(_shown(bill))
    if explain:
        from vitruvius.report import formulas

        emit("\n" + clean("\n".join(formulas.lines(formulas.explain(reading.architecture, bill)))).rstrip())
    say_findings(reading.findings)
    next_step(f"vitruvius show {clean(spec)}" if explain else f"vitruvius size {clean(spec)} --explain")


def _shown(bill: Bill) -> str:
    from vitruvius.report.bill import RIGHT, WRONG, bill_text

    text = clean(bill_text(bill))
    if not _can_print(RIGHT + WRONG):
        text = text.replace(RIGHT, "ok:").replace(WRONG, "WRONG:")
    if wants_color():
        lines = (f"\x1b[31m{line}\x1b[0m" if line.startswith(WRONG) else line for line in text.split("\n"))
        text = "\n".join(lines)
    return text


def _can_print(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True
