"""`vitruvius size`: what an architecture costs, whether it fits a device, and how fast it is there."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import Count, Tokens, json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step, say, wants_color
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

    from vitruvius.sizing import Bill
    from vitruvius.sizing.experiment import Experiment
    from vitruvius.spec.model import Architecture


def _complete_device(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Devices that start like this, and files."""
    del ctx, param
    from click.shell_completion import CompletionItem

    from vitruvius.sizing.hardware import catalogue

    named = [CompletionItem(name) for name in catalogue() if name.startswith(incomplete)]
    return [*named, CompletionItem(incomplete, type="file")]


_WORK: tuple[Callable[[Any], Any], ...] = (
    click.option("--context", type=Tokens(), help="Tokens in a sequence, e.g. 128k; the spec's own when not given."),
    click.option("--batch", type=Count(), metavar="B", help="Sequences at a time.  [default: 1]"),
    click.option("--dtype", metavar="FORMAT", help="Weights: bf16, fp16, fp32, fp64, fp8, int8, nf4 or int4."),
    click.option("--cache-dtype", metavar="FORMAT", help="Keys and values; what the model computes in when not given."),
    click.option("--mode", help="inference, train, lora or qlora.  [default: inference]"),
    click.option("--optimizer", help="adamw, adamw-8bit, muon or adamw-bf16.  [default: adamw]"),
    click.option(
        "--checkpointing",
        help="none, or layers: keep the stream alone, compute each layer twice; layers/2 to layers/4: of so many, one.",
    ),
    click.option("--loss", help="chunked, or whole: all logits at once.  [default: chunked]"),
    click.option("--attention", help="auto, or full: the matrix of scores is held.  [default: auto]"),
    click.option("--accumulate", type=Count(), metavar="N", help="Micro-batches of one update."),
    click.option("--rank", type=Count(), metavar="R", help="Of low-rank adapters.  [default: 16]"),
    click.option("--targets", help="Maps with adapters: linear, or attention."),
    click.option("--experts", help="Adapters on experts: each, or none."),
)
"""What the model is to do."""


def _work_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_WORK):
        command = option(command)
    return command


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius size llama-moe",
        "vitruvius size llama-3-8b --on rtx-4090 --context 128k --mode qlora",
        "vitruvius size my-arch.yaml --on h100-80gb --count 8 --batch 4 --dtype fp8",
        "vitruvius size longcontext --on rtx-4090 --on h100-80gb --frontier frontier.svg",
        "vitruvius size llama-moe --set blocks.moe.ffn.experts=16 --explain",
        "vitruvius size llama-3-8b --on ./my-gpu.toml --json",
    ],
)
@spec_argument()
@click.option(
    "--on",
    "devices",
    multiple=True,
    metavar="DEVICE",
    shell_complete=_complete_device,
    help="A device of the catalogue, this-machine, or a TOML file; may be repeated.",
)
@click.option("--count", type=Count(), default=1, metavar="N", help="How many of each device hold it together.")
@_work_options
@overrides_option
@click.option("--explain", is_flag=True, help="Show the arithmetic behind every number.")
@click.option("--sensitivity", is_flag=True, help="Rank every field of the spec by what it does to the bill.")
@click.option("--frontier", metavar="FILE.svg", help="Draw which context fits at which batch on the devices.")
@json_option
def command(
    *,
    spec: str,
    devices: tuple[str, ...],
    count: int,
    overrides: tuple[str, ...],
    explain: bool,
    sensitivity: bool,
    frontier: str | None,
    as_json: bool,
    **work: Any,
) -> None:
    """Count parameters, memory, FLOPs and cache of SPEC, a file or a preset; say whether it fits and how fast it is.

    Counts are exact; activations say how far they may be off; speeds are bounds, and what to expect. Claims that are
    wrong are marked; they do not change the exit code.
    """
    from vitruvius.errors import UsageError
    from vitruvius.sizing import size
    from vitruvius.spec.reading import read_with_findings

    if explain and as_json:
        raise UsageError("--explain is for reading and --json for machines", fix="give one of the two")
    if frontier is not None and not frontier.endswith(".svg"):
        raise UsageError(f"{frontier} is no name of an SVG", where="--frontier", fix="end it in .svg")
    if frontier is not None and not devices:
        raise UsageError("--frontier needs hardware to draw", fix="name it: --on rtx-4090 --on h100-80gb")
    reading = read_with_findings(spec, overrides=overrides)
    bill = size(reading.architecture, on=devices, count=count, **work)
    more = _more(reading.architecture, bill, sensitivity=sensitivity, frontier=frontier)
    experiment = _experiment(reading.architecture, spec, overrides)
    if as_json:
        found = {name: found.to_dict() for name, found in more.items()}
        emit_json(
            bill.to_dict() | {"sensitivity": None, "frontier": None} | found | {"next_experiment": experiment.to_dict()}
        )
        return
    emit(_shown(bill))
    for name, found in more.items():
        emit("\n" + clean(_TEXTS[name](found)))
    if frontier is not None:
        say(f"wrote {clean(frontier)}\n")
    if explain:
        _explain(reading.architecture, bill)
    say_findings(reading.findings)
    change = _change(spec, devices, bill, overrides)
    if change is None:
        about, _, command = experiment.to_text().rpartition("\n")
        say(clean(about) + "\n")
        change = command.strip()
    next_step(clean(change))


def _more(architecture: Architecture, bill: Bill, *, sensitivity: bool, frontier: str | None) -> dict[str, Any]:
    """What was asked for besides the bill."""
    more: dict[str, Any] = {}
    if sensitivity:
        from vitruvius.sizing.sensitivity import sensitivity as rank

        more["sensitivity"] = rank(architecture, bill.workload, bill.on[0].device if bill.on else None)
    if frontier is not None:
        from vitruvius.report.frontier import frontier_svg
        from vitruvius.sizing.frontier import frontier as draw
        from vitruvius.spec.rules import ensure

        found = draw(ensure(architecture), bill.workload, [(on.device, on.fit.count) for on in bill.on])
        Path(frontier).write_text(frontier_svg(found), encoding="utf-8")
        more["frontier"] = found
    return more


def _sensitivity(found: Any) -> str:
    from vitruvius.report.sensitivity import sensitivity_text

    return sensitivity_text(found)


def _frontier(found: Any) -> str:
    from vitruvius.report.frontier import frontier_text

    return frontier_text(found)


_TEXTS: dict[str, Callable[[Any], str]] = {"sensitivity": _sensitivity, "frontier": _frontier}


def _explain(architecture: Architecture, bill: Bill) -> None:
    from vitruvius.report import formulas

    lines = [*formulas.lines(formulas.explain(architecture, bill))]
    if bill.on:
        from vitruvius.report.bill_devices import arithmetic

        lines += arithmetic(bill)
    emit("\n" + clean("\n".join(lines)).rstrip())


def _experiment(architecture: Architecture, spec: str, overrides: tuple[str, ...]) -> Experiment:
    """The cheapest next experiment, on the spec as it was given."""
    from dataclasses import replace

    from vitruvius.sizing.experiment import next_experiment

    found = next_experiment(architecture, after="size", spec=spec)
    return replace(found, command=" ".join((found.command, *_sets(overrides))))


def _sets(overrides: tuple[str, ...]) -> list[str]:
    return [f"--set {shlex.quote(setting)}" for setting in overrides]


def _change(spec: str, devices: tuple[str, ...], bill: Bill, overrides: tuple[str, ...]) -> str | None:
    """Of what does not fit, the same question after the first change that makes it fit."""
    first = bill.on[0] if bill.on else None
    if first is None or first.fit.fits or not first.fit.changes:
        return None
    change = first.fit.changes[0]
    own = {flag.split()[0] for flag in change.flags} - {"--set"}
    said = [f"--on {shlex.quote(devices[0])}", *_said(bill), *_sets(overrides)]
    kept = [flag for flag in said if flag.split()[0] not in own]
    return " ".join(("vitruvius size", shlex.quote(spec), *kept, *change.flags))


def _said(bill: Bill) -> list[str]:
    """The flags of a bill's workload, as far as they differ from the defaults."""
    from vitruvius.sizing.workload import Workload

    work, plain = bill.workload, Workload()
    flags = {"context": work.context, "mode": work.mode, "batch": work.batch, "cache-dtype": work.cache}
    flags |= {name: getattr(work, name) for name in ("optimizer", "checkpointing", "loss", "attention", "accumulate")}
    flags |= {name: getattr(work.adapters, name) for name in ("rank", "targets", "experts")}
    usual = {"mode": plain.mode, "batch": plain.batch, "optimizer": plain.optimizer, "loss": plain.loss}
    usual |= {"checkpointing": plain.checkpointing, "attention": plain.attention, "accumulate": plain.accumulate}
    usual |= {name: getattr(plain.adapters, name) for name in ("rank", "targets", "experts")}
    said = [f"--{name} {value}" for name, value in flags.items() if value is not None and value != usual.get(name)]
    if work.weights != ("nf4" if work.mode == "qlora" else "bf16"):
        said.append(f"--dtype {work.weights}")
    return [*said, *([f"--count {bill.on[0].fit.count}"] if bill.on and bill.on[0].fit.count > 1 else [])]


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
