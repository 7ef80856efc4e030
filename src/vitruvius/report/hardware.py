"""Devices of the catalogue, for reading: lists, one in full, a choice for an architecture, several side by side."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from vitruvius.report.plan import format_seconds, money
from vitruvius.report.tables import columns
from vitruvius.units import format_binary_bytes, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vitruvius.sizing.devices import Choice, Offer, Side
    from vitruvius.sizing.hardware import Device

_REFUSED = 10
UNTESTED = "*"


def list_text(devices: Sequence[Device]) -> str:
    """A row for each device."""
    head = ("name", "tier", "memory", "bandwidth", "bf16", "power", "buy", "rent", "prices of")
    rows = [
        (
            device.name + (UNTESTED if device.untested else ""),
            device.tier,
            format_binary_bytes(device.memory_bytes),
            _rate(device.bandwidth),
            _flops(device.peak("bf16")),
            f"{device.watts:,.0f} W",
            money(device.buy),
            "-" if device.rent is None else f"{money(device.rent)}/h",
            device.dated,
        )
        for device in devices
    ]
    lines = columns([head, *rows], align="<<>>>>>>>")
    if any(device.untested for device in devices):
        lines.append(f"{UNTESTED} untested: models of this project are not known to run on it")
    return "\n".join(lines)


def _rate(amount: float) -> str:
    return f"{amount / 1e9:,.0f} GB/s"


def _flops(amount: float) -> str:
    tera = amount / 1e12
    return f"{tera:,.0f} TFLOP/s" if tera >= 1000 else f"{tera:.4g} TFLOP/s"


def device_text(device: Device) -> str:
    """Every number of one device with its source."""
    source = device.sources.get
    rows = [
        ("memory", f"{format_bytes(device.memory_bytes)} ({format_binary_bytes(device.memory_bytes)})", "memory"),
        ("  reserved", format_bytes(device.reserved_bytes), "reserved"),
        ("bandwidth", _rate(device.bandwidth), "bandwidth"),
        *((f"peak {form}", _flops(peak), "flops") for form, peak in device.flops.items()),
        ("link", f"{_rate(device.link)} each way, {device.link_name}", "link"),
        ("in a machine", f"{device.per_node:,}", "per_node"),
        ("power", f"{device.watts:,.0f} W", "power"),
        ("to buy", money(device.buy), "buy"),
        ("to rent", "-" if device.rent is None else f"{money(device.rent)} an hour", "rent"),
    ]
    lines = [f"{device.name}: {device.title}", f"{device.tier}, released in {device.released}"]
    if device.untested:
        lines.append(f"untested: {device.untested}")
    lines += ["", *columns([(name, value, source(key, "")) for name, value, key in rows], align="<<<")]
    efficiency = device.efficiency
    lines += [
        "",
        f"expected of it: {efficiency.compute:.0%} of the peak FLOP/s, {efficiency.bandwidth:.0%} of the bandwidth",
        *wrap(efficiency.source, 110, initial_indent="  ", subsequent_indent="    "),
        f"prices were read on {device.dated}" if device.dated else "prices are undated",
    ]
    if device.unknown:
        lines.append(f"not in the file, assumed: {', '.join(sorted(device.unknown))}")
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------------------- choose


def choice_text(choice: Choice, name: str, *, most: int) -> str:
    """The offers that meet the wish, the best first, and why the nearest others do not."""
    work = choice.workload
    needs = f"{format_bytes(choice.memory.total)} with a margin of {format_bytes(choice.memory.margin)}"
    lines = [f"{name}: {work.mode}, {work.batch:,} x {choice.context:,} tokens, {work.weights}; {needs}", ""]
    if choice.offers:
        lines += _offers(choice, most)
    else:
        lines.append("nothing in the catalogue meets that")
    if choice.refused:
        lines += ["", *_refused(choice.refused)]
    lines += ["", "speeds are expected ones, without messages between devices; prices with a share of the machine"]
    if any(offer.device.untested for offer in choice.offers[:most]):
        lines.append(f"{UNTESTED} untested: models of this project are not known to run on it")
    return "\n".join(lines)


def _offers(choice: Choice, most: int) -> Iterator[str]:
    head = ("", "hardware", "spare", "tokens/s", "to buy", "rent", "$/M rented", "$/M owned", "buying pays after")
    rows = [
        (
            f"{number}",
            offer_name(offer),
            format_bytes(offer.spare_bytes),
            amount(offer.tokens_per_second),
            money(offer.price),
            "-" if offer.rent_per_hour is None else f"{money(offer.rent_per_hour)}/h",
            money(offer.rent_per_million),
            money(offer.own_per_million),
            "-" if offer.break_even_hours is None else f"{offer.break_even_hours:,.0f} h",
        )
        for number, offer in enumerate(choice.offers[:most], 1)
    ]
    yield from columns([head, *rows], align="><" + ">" * 7)
    if len(choice.offers) > most:
        yield f"{len(choice.offers) - most:,} more meet it; --top shows more of them"


def _refused(refused: Sequence[Offer]) -> Iterator[str]:
    yield "the nearest of those that do not meet it"
    yield from columns([(f"  {offer_name(o)}", "; ".join(o.refused)) for o in refused[:_REFUSED]], align="<<")
    if len(refused) > _REFUSED:
        yield f"  {len(refused) - _REFUSED:,} more"


def offer_name(offer: Offer) -> str:
    """`2 x rtx-4090`, with a mark where it is untested."""
    mark = UNTESTED if offer.device.untested else ""
    return (offer.device.name if offer.count == 1 else f"{offer.count} x {offer.device.name}") + mark


def amount(value: float | None) -> str:
    """Three digits, or a dash where it is not known."""
    if value is None:
        return "-"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


# ------------------------------------------------------------------------------------------------------------- compare


def comparison_text(sides: Sequence[Side], name: str | None, run_tokens: int | None) -> str:
    """A column for each device, a row for each number; the better one is not marked, since it depends on the use."""
    head = ("", *(f"{side.count} x {side.device.name}" if side.count > 1 else side.device.name for side in sides))
    rows = [head, *(_line(label, sides, show) for label, show in _DEVICE_ROWS)]
    if name is not None:
        rows.append((f"running {name}", *("" for _ in sides)))
        rows += [_line(f"  {label}", sides, show) for label, show in _RUNNING_ROWS]
    if run_tokens is not None and name is not None:
        rows.append((f"training on {run_tokens:,} tokens", *("" for _ in sides)))
        rows += [_line(f"  {label}", sides, show) for label, show in _RUN_ROWS]
    lines = columns(rows, align="<" + ">" * len(sides))
    lines += [f"{side.device.name} is untested: {side.device.untested}" for side in sides if side.device.untested]
    lines.append(f"prices of {', '.join(dict.fromkeys(side.device.dated for side in sides))}; --json has the sources")
    return "\n".join(lines)


def _line(label: str, sides: Sequence[Side], show: Callable[[Side], str]) -> tuple[str, ...]:
    return (label, *(show(side) for side in sides))


_DEVICE_ROWS: tuple[tuple[str, Callable[[Side], str]], ...] = (
    ("memory", lambda s: format_bytes(s.count * s.device.memory_bytes)),
    ("  of it for a model", lambda s: format_bytes(s.count * s.device.usable_bytes)),
    ("bandwidth", lambda s: _rate(s.count * s.device.bandwidth)),
    ("peak bf16", lambda s: _flops(s.count * s.device.peak("bf16"))),
    ("peak fp8", lambda s: _flops(s.count * s.device.flops["fp8"]) if "fp8" in s.device.flops else "-"),
    ("link", lambda s: f"{_rate(s.device.link)} {s.device.link_name}"),
    ("power at the plug", lambda s: f"{s.count * s.each.power_watts:,.0f} W"),
    ("to buy, with the machine", lambda s: money(None if s.each.capital is None else s.count * s.each.capital)),
    ("rent an hour", lambda s: money(None if s.each.rent_per_hour is None else s.count * s.each.rent_per_hour)),
    ("owned an hour", lambda s: money(None if s.each.own_per_hour is None else s.count * s.each.own_per_hour)),
    ("buying pays after", lambda s: _hours(s.each.break_even_hours)),
)


def _hours(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:,.0f} h"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)


def _fits(offer: Offer | None) -> str:
    if offer is None:
        return "-"
    verb = "yes" if offer.fits else "no"
    return f"{verb}, {format_bytes(abs(offer.spare_bytes))} {'spare' if offer.fits else 'missing'}"


def _of(offer: Offer | None, show: Callable[[Offer], str]) -> str:
    return "-" if offer is None else show(offer)


_RUNNING_ROWS: tuple[tuple[str, Callable[[Side], str]], ...] = (
    ("fits", lambda s: _fits(s.inference)),
    ("largest context", lambda s: _limit(s.largest_context)),
    ("largest batch", lambda s: _limit(s.largest_batch)),
    ("prefill", lambda s: _of(s.inference, lambda o: _seconds(o.prefill_seconds))),
    ("tokens/s, expected", lambda s: _of(s.inference, lambda o: amount(o.tokens_per_second))),
    ("tokens/s, at most", lambda s: _of(s.inference, lambda o: amount(o.tokens_per_second_bound))),
    ("$/M tokens, rented", lambda s: _of(s.inference, lambda o: money(o.rent_per_million))),
    ("$/M tokens, owned", lambda s: _of(s.inference, lambda o: money(o.own_per_million))),
    ("fits in training", lambda s: _fits(s.training)),
    ("train step", lambda s: _of(s.training, lambda o: _seconds(o.train_step_seconds))),
)

_RUN_ROWS: tuple[tuple[str, Callable[[Side], str]], ...] = (
    ("plan", lambda s: "nothing fits" if s.run is None else s.run.plan),
    ("time", lambda s: "-" if s.run is None else format_seconds(s.run.seconds)),
    ("rented", lambda s: "-" if s.run is None else money(s.run.rent_dollars)),
    ("owned", lambda s: "-" if s.run is None else money(s.run.own_dollars)),
)


def _limit(limit: int | None) -> str:
    if limit is None:
        return "-"
    return "any" if limit >= 2**31 else f"{limit:,}"
