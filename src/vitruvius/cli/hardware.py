"""`vitruvius hardware`: the devices there are, which of them to choose, and how two of them compare."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import Count, Tokens, json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step
from vitruvius.cli.plan import complete_device, price_options, read_prices
from vitruvius.cli.verbs import ExampleGroup
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from vitruvius.sizing.hardware import Device

TIERS = ("consumer", "workstation", "data-centre", "apple", "cpu", "tpu")
LIST_EXAMPLES = (
    "vitruvius hardware list",
    "vitruvius hardware list --tier consumer",
    "vitruvius hardware list --min-memory 80GB --json",
)
SHOW_EXAMPLES = (
    "vitruvius hardware show h100-80gb",
    "vitruvius hardware show ./my-gpu.toml",
    "vitruvius hardware show rtx-4090 --json",
)
CHOOSE_EXAMPLES = (
    "vitruvius hardware choose llama-3-8b --budget 2000",
    "vitruvius hardware choose llama-moe --rent-budget 3/h --context 32k --by speed",
    "vitruvius hardware choose my-arch.yaml --min-tokens-per-second 30 --dtype nf4 --json",
)
COMPARE_EXAMPLES = (
    "vitruvius hardware compare rtx-4090 rtx-5090",
    "vitruvius hardware compare h100-80gb mi300x-192gb --on llama-3-8b --batch 8",
    "vitruvius hardware compare a100-80gb h100-80gb --on longcontext --count 8 --tokens 100B --json",
)


@click.group(
    "hardware",
    cls=ExampleGroup,
    help="List, choose and compare the devices that models run on; every number dated, with its source.",
    examples=(LIST_EXAMPLES[1], CHOOSE_EXAMPLES[0], COMPARE_EXAMPLES[1]),
)
def command() -> None:
    """Hold the verbs of hardware."""


@command.command("list", examples=LIST_EXAMPLES, help="List the devices of the catalogue.")
@click.option("--tier", help=f"Only one kind: {', '.join(TIERS)}.")
@click.option("--min-memory", metavar="SIZE", help="Only devices with at least so much memory, e.g. 24GB.")
@json_option
def list_command(*, tier: str | None, min_memory: str | None, as_json: bool) -> None:
    """Print a row for each device."""
    from vitruvius.sizing.hardware import catalogue
    from vitruvius.units import parse_bytes

    if tier is not None and tier not in TIERS:
        raise UsageError(f"there is no tier {tier!r}", where="--tier", fix=f"use one of {', '.join(TIERS)}")
    least = 0 if min_memory is None else parse_bytes(min_memory)
    found = [d for d in catalogue().values() if tier in {None, d.tier} and d.memory_bytes >= least]
    if as_json:
        emit_json({"schema": "vitruvius.hardware-list/1", "devices": [_device(device) for device in found]})
    else:
        from vitruvius.report.hardware import list_text

        emit(list_text(found) if found else "no device of the catalogue is like that")
    next_step(f"vitruvius hardware show {found[0].name if found else 'h100-80gb'}")


@command.command("show", examples=SHOW_EXAMPLES, help="Show every number of a device with its source.")
@click.argument("name", metavar="DEVICE", shell_complete=complete_device)
@json_option
def show_command(name: str, *, as_json: bool) -> None:
    """Print one device in full."""
    from vitruvius.sizing.hardware import device_named

    device = device_named(name)
    if as_json:
        emit_json({"schema": "vitruvius.hardware-show/1", **_device(device)})
    else:
        from vitruvius.report.hardware import device_text

        emit(clean(device_text(device)))
    next_step(f"vitruvius size llama-3-8b --on {shlex.quote(clean(name))}")


@command.command(
    "choose",
    examples=CHOOSE_EXAMPLES,
    help="""Rank the devices of the catalogue for SPEC, in numbers that share a machine (1, 2, 4, 8), by fit, speed and
    price.

    Without a budget the cheaper of renting and owning counts. A price includes a share of the machine around a
    device.""",
)
@spec_argument()
@click.option("--budget", metavar="DOLLARS", help="To buy, machines included, e.g. 2000 or 30k.")
@click.option("--rent-budget", metavar="RATE", help="Dollars an hour for all devices together, e.g. 3/h.")
@click.option("--min-tokens-per-second", type=float, metavar="X", help="The least expected speed of all sequences.")
@click.option("--by", default="value", show_default=True, help="value ($ for a million tokens), speed or price.")
@click.option("--tier", multiple=True, help="Only these tiers; may be repeated.")
@click.option("--context", type=Tokens(), help="Tokens in a sequence; the spec's own when not given.")
@click.option("--batch", type=Count(), default=1, show_default=True, metavar="B", help="Sequences at a time.")
@click.option("--dtype", metavar="FORMAT", help="Weights: bf16, fp8, int8, nf4, int4 ...")
@click.option("--mode", help="inference, train, lora or qlora.  [default: inference]")
@click.option("--checkpointing", help="none, layers, or layers/2 to layers/4.")
@click.option("--optimizer", help="adamw, adamw-8bit, muon or adamw-bf16.")
@price_options
@click.option("--top", type=Count(), default=10, show_default=True, metavar="N", help="How many to show.")
@overrides_option
@json_option
def choose_command(*, spec: str, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Print the devices that meet the wish, the best first."""
    from vitruvius.sizing.devices import Wish, choose
    from vitruvius.sizing.hardware import catalogue
    from vitruvius.sizing.money import parse_dollars, parse_rate
    from vitruvius.sizing.workloads import check, workload_of
    from vitruvius.spec.reading import read_with_findings
    from vitruvius.spec.rules import ensure

    orders = {"value": "value", "speed": "speed", "price": "price"}
    order: Any = orders.get(options["by"])
    if order is None:
        raise UsageError(f"there is no order {options['by']!r}", where="--by", fix=f"use one of {', '.join(orders)}")
    for tier in options["tier"]:
        if tier not in TIERS:
            raise UsageError(f"there is no tier {tier!r}", where="--tier", fix=f"use one of {', '.join(TIERS)}")
    least: float | None = options["min_tokens_per_second"]
    wish = Wish(
        budget=_read("--budget", options["budget"], parse_dollars),
        rent_budget=_read("--rent-budget", options["rent_budget"], parse_rate),
        tokens_per_second=least,
        order=order,
    )
    reading = read_with_findings(spec, overrides=overrides)
    if not 1 <= options["top"] <= 1000:
        raise UsageError(f"--top {options['top']} is out of range", fix="use 1 to 1,000")
    graph = ensure(reading.architecture)
    names = ("context", "batch", "dtype", "mode", "checkpointing", "optimizer")
    workload = workload_of(None, {name: options[name] for name in names})
    check(workload, graph)
    devices = [d for d in catalogue().values() if not options["tier"] or d.tier in options["tier"]]
    found = choose(graph, workload, devices, wish, given=read_prices(options))
    name = graph.architecture.name
    if as_json:
        from vitruvius.report.hardware_record import choice_dict

        emit_json(choice_dict(found, name))
    else:
        from vitruvius.report.hardware import choice_text

        emit(clean(choice_text(found, name, most=options["top"])))
    say_findings(reading.findings)
    shown = shlex.quote(clean(spec))
    if found.offers:
        next_step(f"vitruvius size {shown} --on {found.offers[0].device.name} --count {found.offers[0].count}")
    else:
        next_step(f"vitruvius size {shown} --on h100-80gb")


def _read(option: str, text: str | None, read: Any) -> float | None:
    if text is None:
        return None
    try:
        return read(text)
    except UsageError as error:
        raise UsageError(error.what, where=option, fix=error.fix) from None


@command.command(
    "compare",
    examples=COMPARE_EXAMPLES,
    help="Put devices side by side: by themselves, or running the architecture that --on names.",
)
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE DEVICE...", shell_complete=complete_device)
@click.option("--on", "spec", metavar="SPEC", help="The architecture to run: a file or a preset.")
@click.option("--count", type=Count(), default=1, show_default=True, metavar="N", help="How many of each.")
@click.option("--context", type=Tokens(), help="Tokens in a sequence; the spec's own when not given.")
@click.option("--batch", type=Count(), default=1, show_default=True, metavar="B", help="Sequences at a time.")
@click.option("--dtype", metavar="FORMAT", help="Weights: bf16, fp8, int8, nf4, int4 ...")
@click.option("--tokens", type=Count(), metavar="N", help="Tokens of a training run to price, e.g. 100B.")
@click.option("--batch-tokens", type=Tokens(), metavar="N", help="Tokens of a training step.  [default: 512k]")
@overrides_option
@json_option
def compare_command(
    *, devices: tuple[str, ...], spec: str | None, overrides: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Print a column for each device."""
    from vitruvius.sizing.devices import compare
    from vitruvius.sizing.hardware import device_named

    if not 2 <= len(devices) <= 8:
        raise UsageError(f"{len(devices)} to compare", fix="name 2 to 8 devices: `vitruvius hardware list` has them")
    count = options["count"]
    if not 1 <= count <= 1024:
        raise UsageError(f"--count {count:,} is out of range", fix="use 1 to 1,024; `vitruvius plan` goes further")
    found = [(device_named(name), count) for name in devices]
    graph, workload, training, findings = _on(spec, overrides, options)
    sides = compare(graph, workload, found, training)
    name = None if graph is None else graph.architecture.name
    if as_json:
        from vitruvius.report.hardware_record import comparison_dict

        emit_json(comparison_dict(sides, name, options["tokens"]))
    else:
        from vitruvius.report.hardware import comparison_text

        emit(clean(comparison_text(sides, name, options["tokens"])))
    say_findings(findings)
    if spec is None:
        next_step(f"vitruvius hardware compare {' '.join(map(clean, devices))} --on llama-3-8b")
    else:
        next_step(f"vitruvius hardware choose {shlex.quote(clean(spec))}")


def _on(spec: str | None, overrides: tuple[str, ...], options: dict[str, Any]) -> Any:
    """The graph, workload and training run to compare with, and what is worth knowing of the spec."""
    from vitruvius.sizing.devices import Training
    from vitruvius.sizing.workloads import check, workload_of

    workload = workload_of(None, {name: options[name] for name in ("context", "batch", "dtype")})
    if spec is None:
        if options["tokens"] is not None or overrides:
            raise UsageError("--tokens and --set are about an architecture", fix="name it: --on llama-3-8b")
        return None, workload, None, ()
    from vitruvius.spec.reading import read_with_findings
    from vitruvius.spec.rules import ensure

    reading = read_with_findings(spec, overrides=overrides)
    graph = ensure(reading.architecture)
    check(workload, graph)
    training = None
    if options["tokens"] is not None:
        if options["tokens"] < 1:
            raise UsageError("a run has at least one token", where="--tokens", fix="use a number such as 100B")
        context = workload.context or graph.scope.context
        training = Training(tokens=options["tokens"], batch_tokens=options["batch_tokens"] or max(2**19, context))
    return graph, workload, training, reading.findings


def _device(device: Device) -> dict[str, Any]:
    from vitruvius.report.hardware_record import device_dict

    return device_dict(device)
