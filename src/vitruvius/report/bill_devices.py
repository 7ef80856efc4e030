"""The bill on hardware, for reading: a table of devices, what would make it fit, and the arithmetic of the speeds."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from vitruvius.report.tables import columns
from vitruvius.sizing.formats import weight_format
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing import Bill
    from vitruvius.sizing.fit import Fit
    from vitruvius.sizing.on_devices import DeviceBill
    from vitruvius.sizing.speed import Phase, Speed

_MOST_CHANGES = 5
_WIDTH = 80


def devices(bill: Bill) -> Iterator[str]:
    """Whether it fits each device and how fast it is there; for those that it does not fit, what to change."""
    rows = [_head(bill), *(_row(bill, on) for on in bill.on)]
    yield from columns(rows, align="<<" + ">" * (len(rows[0]) - 2))
    for on in bill.on:
        if not on.fit.fits:
            yield ""
            yield from _changes(on)
    yield ""
    yield from _notes(bill)


def _head(bill: Bill) -> tuple[str, ...]:
    if bill.mode == "inference":
        return ("on", "fits", "has", "spare", "context", "batch", "prefill", "tok/s", "at most")
    return ("on", "fits", "has", "spare", "context", "batch", "step", "at least")


def _row(bill: Bill, on: DeviceBill) -> tuple[str, ...]:
    fit, speed = on.fit, on.speed
    spare = f"{'-' if fit.spare_bytes < 0 else ''}{format_bytes(abs(fit.spare_bytes))}"
    start = (_name(fit), "yes" if fit.fits else "no", format_bytes(fit.available_bytes), spare)
    most = (f"{fit.largest_context:,}" if fit.largest_context < 2**40 - 1 else "any", f"{fit.largest_batch:,}")
    if bill.mode != "inference":
        return (*start, *most, _time(speed.expected_train_step_seconds), _time(speed.train_step_seconds))
    return (*start, *most, _time(speed.expected_prefill_seconds), *_rates(speed))


def _rates(speed: Speed) -> tuple[str, str]:
    if speed.tokens_per_second_bound is None or speed.expected_tokens_per_second is None:
        return "none", "none"
    return rate(speed.expected_tokens_per_second), rate(speed.tokens_per_second_bound)


def rate(amount: float) -> str:
    """Three digits: `217`, `4.06`, `12,300`."""
    if amount >= 100:
        return f"{float(f'{amount:.3g}'):,.0f}"
    return f"{amount:.3g}"


def _time(seconds: float | None) -> str:
    """Three digits and a unit: `4.06 ms`."""
    if seconds is None:
        return "none"
    if seconds >= 1e11:
        return "over 3,000 years"
    if seconds >= 172_800:
        return f"{rate(seconds / 86_400)} days"
    for unit, worth in (("h", 3600.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= (7200 if unit == "h" else worth):
            return f"{rate(seconds / worth)} {unit}"
    return f"{rate(seconds / 1e-6)} us"


def _name(fit: Fit) -> str:
    return fit.device if fit.count == 1 else f"{fit.count:,} x {fit.device}"


def _changes(on: DeviceBill) -> Iterator[str]:
    fit = on.fit
    short = f"{format_bytes(fit.needed_bytes)} needed, {format_bytes(-fit.spare_bytes)} too much"
    if not fit.changes:
        yield from _prose(f"nothing known makes it fit {_name(fit)}: {short}")
        return
    yield from _prose(f"what makes it fit {_name(fit)} ({short}):")
    for change in fit.changes[:_MOST_CHANGES]:
        costs = f" ({change.costs})" if change.costs else ""
        first = f"  {format_bytes(change.needed_bytes):>8}  "
        yield from wrap(change.what + costs, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
        yield from (f"{' ' * len(first)}{flag}" for flag in change.flags)


def _prose(text: str, indent: str = "") -> list[str]:
    return wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False)


def _notes(bill: Bill) -> Iterator[str]:
    at = "context and batch: the most that fit, the other as asked"
    most = "at most" if bill.mode == "inference" else "at least"
    decoded = "tok/s: decoded by all sequences together; " if bill.mode == "inference" else ""
    yield from _prose(f"{at}; {decoded}{most}: the roofline, which no software beats")
    traffic = bill.on[0].speed.traffic
    if traffic is not None and traffic.unsure:
        off = f"off by at most {format_bytes(traffic.unsure)} of {format_bytes(traffic.total)}"
        yield from _prose(f"decode reads what the last queries of an own pattern read on average: {off}")
    for on in bill.on:
        share, device = on.device.efficiency, on.device
        less = f"{device.memory_bytes / 1024**3:.4g} GiB less {format_bytes(device.reserved_bytes)} for the system"
        expected = f"expected at {share.compute:.0%} of the peak in compute and {share.bandwidth:.0%} in bandwidth"
        yield from _prose(f"{device.name}: {expected}; {less}")
        if device.unknown:
            yield from _prose(f"{device.name}: assumed, as the file does not say: {', '.join(sorted(device.unknown))}")
        if device.untested:
            yield from _prose(f"{device.name}: untested: {device.untested}")
    if any(on.fit.count > 1 for on in bill.on):
        shared = "weights, gradients and states" if bill.mode != "inference" else "all of it"
        yield from _prose(f"several devices share {shared}; communication is not counted here: see `vitruvius plan`")


# ----------------------------------------------------------------------------------------------------------------------
# Arithmetic


def arithmetic(bill: Bill) -> Iterator[str]:
    """Where the times of each device come from, and its efficiency."""
    for on in bill.on:
        speed, fit = on.speed, on.fit
        yield f"on {_name(fit)}"
        yield (
            f"  {fit.available_bytes:,} bytes to use = {fit.count:,} x ({on.device.memory_bytes:,} - "
            f"{on.device.reserved_bytes:,})"
        )
        yield f"  {fit.needed_bytes:,} bytes needed = {bill.memory.peak:,} + {bill.memory.margin:,} margin"
        form = weight_format(bill.dtype).rest
        if speed.prefill is not None:
            yield from _phase("prefill", speed.prefill, on, form)
        if speed.decode is not None and speed.traffic is not None:
            yield from _phase("decode step", speed.decode, on, form)
            traffic = speed.traffic
            yield (
                f"    {traffic.total:,} bytes = {traffic.weights:,} of weights + {traffic.kv_read:,} of keys read + "
                f"{traffic.kv_written:,} written + {traffic.state:,} of state"
            )
            if speed.experts_touched is not None:
                yield f"    {speed.experts_touched:.4g} experts of each mixture read, were every choice alike"
        for name, phase in zip(("forward and backward", "optimizer"), speed.train, strict=False):
            yield from _phase(name, phase, on, form)
        yield from _prose(f"efficiency: {on.device.efficiency.source}", "  ")
        for name, source in on.device.sources.items():
            if name in _SOURCES:
                yield from _prose(f"{name}: {source}", "  ")
        yield ""


_SOURCES = ("memory", "reserved", "bandwidth", "flops")


def _phase(name: str, phase: Phase, on: DeviceBill, form: str) -> Iterator[str]:
    count, share = on.fit.count, on.device.efficiency
    times = f"{count:,} x " if count > 1 else ""
    best, expected = _time(phase.seconds), _time(phase.expected_seconds)
    yield f"  {name}: {best} at best, bound by {phase.bound_by}; {expected} expected"
    yield (
        f"    {_time(phase.compute_seconds)} = {phase.flops:,.0f} FLOP / {times}{on.device.peak(form):,.0f} FLOP/s; "
        f"at {share.compute:.0%} {_time(phase.compute_seconds / share.compute)}"
    )
    yield (
        f"    {_time(phase.bandwidth_seconds)} = {phase.bytes:,.0f} bytes / {times}{on.device.bandwidth:,.0f} bytes/s; "
        f"at {share.bandwidth:.0%} {_time(phase.bandwidth_seconds / share.bandwidth)}"
    )
