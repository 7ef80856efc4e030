"""`vitruvius plan`: how to train on many devices, how long it takes, and for how much."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import Count, Tokens, json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from vitruvius.sizing.communication import Network
    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.parallel.quote import Quote
    from vitruvius.sizing.workload import Workload

_PRICES = ("rent", "buy", "electricity", "pue", "years", "utilisation")


def complete_device(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Devices that start like this, and files."""
    del ctx, param
    from click.shell_completion import CompletionItem

    from vitruvius.sizing.hardware import catalogue

    named = [CompletionItem(name) for name in catalogue() if name.startswith(incomplete)]
    return [*named, CompletionItem(incomplete, type="file")]


def price_options(function: Any) -> Any:
    """The options that replace what the catalogue and the assumptions say of prices."""
    for name, text in (
        ("rent", "Dollars an hour of one device, e.g. 2.5."),
        ("buy", "Dollars of one device, e.g. 30000 or 30k."),
        ("electricity", "Dollars of a kilowatt-hour."),
        ("pue", "Energy of the building for each unit of its computers."),
        ("years", "In which what is bought is written off."),
        ("utilisation", "Share of those years in which it computes."),
    ):
        function = click.option(f"--{name}", metavar="X", help=text)(function)
    return function


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius plan llama-3-8b --on h100-80gb --count 64 --tokens 1T",
        "vitruvius plan longcontext --on h100-80gb --count 8 --batch-tokens 1m --tokens 100B --rent 2.5",
        "vitruvius plan deepseek-v3 --on h200-141gb --count 512 --batch-tokens 16m --json",
        "vitruvius plan my-arch.yaml --on rtx-4090 --count 2 --electricity 0.30 --buy 1600",
    ],
)
@spec_argument()
@click.option(
    "--on",
    "on",
    required=True,
    metavar="DEVICE",
    shell_complete=complete_device,
    help="A device of the catalogue, this-machine, or a TOML file.",
)
@click.option("--count", type=Count(), default=1, show_default=True, metavar="N", help="How many of them.")
@click.option("--tokens", type=Count(), metavar="N", help="Tokens of the whole run, e.g. 1T or 300B (decimal).")
@click.option("--batch-tokens", type=Tokens(), metavar="N", help="Tokens of a step, e.g. 4m (4,194,304).")
@click.option("--context", type=Tokens(), help="Tokens in a sequence; the spec's own when not given.")
@click.option("--dtype", default="bf16", show_default=True, help="Number format: bf16, fp16, fp32 or fp64.")
@click.option("--mode", default="train", show_default=True, help="train; adapters and inference are `size`'s.")
@click.option("--optimizer", default="adamw", show_default=True, help="adamw, adamw-8bit, adamw-bf16 or muon.")
@click.option("--checkpointing", default="auto", show_default=True, help="auto, none or layers.")
@click.option("--loss", default="chunked", show_default=True, help="chunked or whole logits.")
@click.option("--network", metavar="RATE", help="Bytes per second across machines, of each device, e.g. 50GB.")
@price_options
@click.option("--top", type=Count(), default=5, show_default=True, metavar="N", help="How many plans to show.")
@overrides_option
@json_option
def command(*, spec: str, on: str, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Plan the training of SPEC on many devices: parallel degrees, memory of a rank, messages, time and money.

    Memory is counted tensor by tensor; time is an estimate between two bounds; prices are dated and yours to replace.
    """
    from vitruvius.sizing.hardware import device_named
    from vitruvius.spec.reading import read_with_findings

    reading = read_with_findings(spec, overrides=overrides)
    device = device_named(on)
    quoted = _quoted(reading.architecture, device, options)
    if as_json:
        from vitruvius.sizing.parallel.record import to_dict

        emit_json(to_dict(quoted))
    else:
        from vitruvius.report.plan import plan_text

        emit(clean(plan_text(quoted)))
    say_findings(reading.findings)
    next_step(_next(quoted, spec, on, overrides))


def _quoted(architecture: Any, device: Device, options: dict[str, Any]) -> Quote:
    from vitruvius.errors import UsageError
    from vitruvius.sizing.money import prices_of
    from vitruvius.sizing.parallel.quote import quote
    from vitruvius.sizing.workloads import check
    from vitruvius.spec.rules import ensure

    if not 1 <= options["top"] <= 100:
        raise UsageError(f"--top {options['top']} is out of range", fix="use 1 to 100")
    if options["tokens"] is not None and options["tokens"] < 1:
        raise UsageError("a run has at least one token", where="--tokens", fix="use a number such as 300B or 1T")
    if options["mode"] != "train":
        what = f"plans are for training all weights, and the mode is {options['mode']}"
        raise UsageError(what, where="--mode", fix="leave out --mode; `vitruvius size --mode` bills the others")
    graph = ensure(architecture)
    workload = _workload(options)
    context = workload.context or graph.scope.context
    check(workload, graph)
    return quote(
        graph,
        workload,
        device,
        options["count"],
        batch_tokens=options["batch_tokens"] or _usual_batch(graph, context),
        tokens=options["tokens"],
        prices=prices_of(device, **read_prices(options)),
        network=_network(device, options["network"]),
        checkpointing=_ways(options["checkpointing"]),
        most=options["top"],
    )


def _workload(options: dict[str, Any]) -> Workload:
    from vitruvius.sizing.workloads import workload_of

    return workload_of(None, {name: options[name] for name in ("context", "mode", "dtype", "optimizer", "loss")})


def _ways(given: str) -> Any:
    from vitruvius.errors import UsageError

    known = {"auto": ("none", "layers"), "none": ("none",), "layers": ("layers",)}
    if given not in known:
        what = f"there is no checkpointing {given!r}"
        raise UsageError(what, where="--checkpointing", fix=f"use one of {', '.join(known)}")
    return known[given]


def read_prices(options: dict[str, Any]) -> dict[str, float | None]:
    """The prices that options give, in dollars and plain numbers. Raises UsageError naming the option."""
    from vitruvius.errors import UsageError
    from vitruvius.sizing.money import parse_dollars, parse_rate

    readers = {"rent": parse_rate, "buy": parse_dollars, "electricity": parse_dollars}
    found: dict[str, float | None] = {}
    for name in _PRICES:
        text = options.get(name)
        if text is None:
            continue
        try:
            found[name] = readers[name](text, least="none") if name in readers else _number(text)
        except UsageError as error:
            raise UsageError(error.what, where=f"--{name}", fix=error.fix) from None
    return found


def _number(text: str) -> float:
    from vitruvius.errors import UsageError

    try:
        return float(text) if len(text) < 40 else float("nan")
    except ValueError:
        raise UsageError(f"cannot read {text[:40]!r} as a number", fix="write a number such as 1.2") from None


def _usual_batch(graph: Any, context: int) -> int:
    """Tokens of a step that GPT-3 used at about this size (Brown et al., 2020, table 2.1): 0.5M to 3.2M."""
    from vitruvius.sizing.parameters import count_parameters

    active = count_parameters(graph).active
    size = 2**19 if active < 10**9 else 2**20 if active < 5 * 10**9 else 2**21 if active < 2 * 10**10 else 2**22
    return max(size, context)


def _network(device: Device, given: str | None) -> Network | None:
    if given is None:
        return None
    from vitruvius.errors import UsageError
    from vitruvius.sizing.communication import network_of
    from vitruvius.units import parse_bytes

    text = given.strip()
    for end in ("/s", "ps"):
        text = text.removesuffix(end)
    try:
        speed = parse_bytes(text)
    except UsageError as error:
        raise UsageError(error.what, where="--network", fix="write bytes per second, such as 50GB or 50GB/s") from None
    if not 1e5 <= speed <= 1e15:
        what = f"{given} is no speed between machines"
        raise UsageError(what, where="--network", fix="write bytes per second, such as 50GB or 50GB/s")
    return network_of(device, float(speed))


def _next(quoted: Quote, spec: str, on: str, overrides: tuple[str, ...]) -> str:
    settings = "".join(f" --set {shlex.quote(clean(text))}" for text in overrides)
    name, device = shlex.quote(clean(spec)) + settings, shlex.quote(clean(on))
    if quoted.priced:
        other = "h200-141gb" if quoted.device.name != "h200-141gb" else "b200-180gb"
        return f"vitruvius hardware compare {device} {other} --on {name}"
    if quoted.smallest_count is not None:
        return f"vitruvius plan {name} --on {device} --count {quoted.smallest_count}"
    return f"vitruvius size {name} --mode train --on {device}"
