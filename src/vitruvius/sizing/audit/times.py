"""The arithmetic of claims about speeds, prices and ratios."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError
from vitruvius.sizing.audit.expressions import calculate
from vitruvius.sizing.audit.outcome import Outcome, case_of
from vitruvius.sizing.claims import measured
from vitruvius.sizing.formats import weight_format
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.memory import cache_format, kv_cache_bytes, memory_of, state_bytes
from vitruvius.sizing.parameters import count_parameters
from vitruvius.sizing.solve.request import dollars_per_hour
from vitruvius.sizing.speed import speed_of
from vitruvius.units import format_bytes, format_count, format_money

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.sizing.audit.claims import Case, Claim
    from vitruvius.sizing.hardware import Device

NOMINAL = "h100-80gb"
"""The device that ratios of times are counted on where none is named."""


# ------------------------------------------------------------------------------------------------------------- speed


def _device(case: Case) -> Device:
    return case.device or device_named(NOMINAL)


def _seconds(case: Case) -> float:
    if not case.graph.is_causal:
        raise UsageError(f"{case.spec} decodes nothing: it sees later tokens", fix="claim about a decoder")
    seconds = speed_of(case.graph, case.workload, _device(case), case.count).decode_seconds
    assert seconds is not None
    return seconds


def decode_speed(claim: Claim) -> Outcome:
    """Tokens a second of decoding, at most."""
    case = case_of(claim)
    device = _device(case)
    speed = speed_of(case.graph, case.workload, device, case.count)
    if (
        speed.tokens_per_second_bound is None
        or speed.bytes_per_step is None
        or speed.expected_tokens_per_second is None
    ):
        raise UsageError(f"{case.spec} decodes nothing: it sees later tokens", fix="claim about a decoder")
    bound, expected = speed.tokens_per_second_bound, speed.expected_tokens_per_second
    steps = (
        (
            f"{case.title}: {format_bytes(speed.bytes_per_step)} a step "
            f"at {format_bytes(device.bandwidth * case.count)}/s, "
            f"batch {case.batch}: at most {bound:,.4g} tokens/s ({speed.bound_by})"
        ),
        f"{expected:,.4g} with {device.efficiency.bandwidth:.0%} of the bandwidth, which good software reaches",
    )
    return Outcome(
        actual=bound,
        shown=f"at most {bound:,.4g} tokens/s",
        steps=steps,
        sure="best",
        measure=f"vitruvius bench on {device.name}",
    )


def slowdown(claim: Claim) -> Outcome:
    """A decode step at one context against another."""
    case, to = case_of(claim), claim.to_context
    assert to is not None
    short, long = _seconds(case), _seconds(replace(case, context=to))
    ratio = long / short
    return Outcome(
        actual=ratio,
        shown=f"{ratio:.3g} times",
        steps=(
            (
                f"a decode step on {_device(case).name}, batch {case.batch}: "
                f"{short * 1e3:.3g} ms at {case.context:,} tokens, "
                f"{long * 1e3:.3g} ms at {to:,}: {ratio:.3g} times"
            ),
        ),
    )


def training_price(claim: Claim) -> Outcome:
    """Dollars of training on some tokens, at least."""
    case, tokens = case_of(claim), claim.tokens
    assert tokens is not None
    assert case.device is not None
    per_hour = dollars_per_hour(case.device)
    if per_hour is None:
        what = f"the catalogue has no price of {case.device.name}"
        raise UsageError(what, fix="name a device with a price, or say so in a file of your own")
    per_token = 3 * case.graph.flops(case.context).useful / case.context
    peak = case.device.peak(weight_format(case.weights).rest) * case.count
    hours = tokens * per_token / peak / 3600 * case.count
    least = hours * per_hour
    expected = least / case.device.efficiency.compute
    steps = (
        (
            f"{format_count(tokens)} tokens x {per_token:.4g} FLOP = {tokens * per_token:.4g} FLOP "
            f"at {case.context:,} tokens "
            f"a sequence; {hours:,.4g} hours of {case.device.name} at its peak x {format_money(per_hour)} = "
            f"{format_money(least)}"
        ),
        (
            f"{format_money(expected)} with {case.device.efficiency.compute:.0%} of the peak "
            f"({case.device.efficiency.source}); prices of {case.device.dated}"
        ),
    )
    return Outcome(
        actual=least,
        shown=f"at least {format_money(least)}, about {format_money(expected)}",
        steps=steps,
        sure="cheapest",
        measure="the bill of a run, or vitruvius bench for its speed",
    )


# ------------------------------------------------------------------------------------------------------------ ratios


def _active_ffn(case: Case) -> float:
    total = 0
    for name, tensor in case.graph.tensors().items():
        if ".ffn." in name and "norm" not in name.split(".")[-2]:
            total += tensor.active
    return total


_MEASURES: dict[str, Callable[[Case], float]] = {
    "parameters": lambda case: count_parameters(case.graph).total,
    "active_parameters": lambda case: count_parameters(case.graph).active,
    "ffn_parameters": lambda case: count_parameters(case.graph).by_component.get("ffns", 0),
    "active_ffn_parameters": _active_ffn,
    "weights": lambda case: measured("weights", case.graph, dtype=case.weights),
    "kv_cache": lambda case: kv_cache_bytes(case.graph, case.context, case.batch, cache_format(case.workload)),
    "state": lambda case: state_bytes(case.graph, case.context, case.batch, cache_format(case.workload)),
    "memory": lambda case: memory_of(case.graph, case.workload).total,
    "flops": lambda case: case.graph.flops(case.context).useful,
    "flops_per_token": lambda case: case.graph.flops(case.context).useful / case.context,
    "decode_seconds": _seconds,
}
"""What two cases may be compared in."""
MEASURES = tuple(_MEASURES)


def ratio(claim: Claim) -> Outcome:
    """One case against another."""
    assert claim.a is not None
    assert claim.b is not None
    measure = _MEASURES[claim.of]
    first, second = measure(claim.a), measure(claim.b)
    if not second:
        raise UsageError(f"b has no {claim.of.replace('_', ' ')}, and nothing can be divided by it", fix="swap a and b")
    times = first / second
    value = {"times": times, "saving": 1 - times, "increase": times - 1}[claim.measured]
    shown = f"{times:.4g} times" if claim.measured == "times" else f"{value:.3%} {claim.measured}"
    name = claim.of.replace("_", " ")
    steps = (
        f"{name} of {claim.a.title}: {first:,.6g}",
        f"{name} of {claim.b.title}: {second:,.6g}",
        f"{first:,.6g} / {second:,.6g} = {times:.4g}" + ("" if claim.measured == "times" else f", {shown}"),
    )
    return Outcome(actual=value, shown=shown, steps=steps)


def arithmetic(claim: Claim) -> Outcome:
    """An expression by itself."""
    value = calculate(claim.expression, claim.where)
    names = ", ".join(f"{name} = {number:g}" for name, number in claim.where.items())
    return Outcome(
        actual=value,
        shown=f"{value:,.6g}",
        steps=(f"{claim.expression} = {value:,.6g}{f', with {names}' if names else ''}",),
    )
