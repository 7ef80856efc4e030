"""What the coordinate check found, as a table for people and as plain data."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from vitruvius.checks.coordinates import FADING, FRESH_FADING, GROWTH, LEARNING_RATE, READOUT_GROWTH, SEEDS, STEPS
from vitruvius.spec.parametrisations import WidthParametrisation

if TYPE_CHECKING:
    from vitruvius.checks.coordinates import Arm, Coordinates, Place, Sweep

SCHEMA = "vitruvius.coordinates/1"


def to_dict(found: Coordinates) -> dict[str, Any]:
    """Plain data, schema `vitruvius.coordinates/1`. Exponents and sizes that are not finite are null."""
    return {
        "schema": SCHEMA,
        "name": found.architecture.name,
        "init": found.architecture.init.kind,
        "passed": found.passed,
        "steps": STEPS,
        "lr": LEARNING_RATE,
        "seed": found.seed,
        "seeds": SEEDS,
        "sweeps": [
            {"axis": sweep.axis, "scales": list(sweep.scales), "own": _arm(sweep.own), "beside": _arm(sweep.beside)}
            for sweep in found.sweeps
        ],
    }


def _arm(arm: Arm) -> dict[str, Any]:
    return {"init": arm.init, "passed": arm.passed, "places": [_place(place) for place in arm.places]}


def _place(place: Place) -> dict[str, Any]:
    return {
        "name": place.name,
        "passed": place.passed,
        "fault": place.fault or None,
        "starts": [_finite(value) for value in place.starts],
        "sizes": [_finite(value) for value in place.sizes],
        "changes": [_finite(value) for value in place.changes],
        "size_exponent": _finite(place.size_exponent),
        "change_exponent": _finite(place.change_exponent),
        "least": place.least,
        "most": place.most,
    }


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None


def to_text(found: Coordinates) -> str:
    """A table for each axis, what its columns mean, and the verdict."""
    name, init = found.architecture.name, found.architecture.init.kind
    parts = [f"{name}, init {init}: {STEPS} steps of Adam at {LEARNING_RATE:g} on random tokens, {SEEDS} seeds"]
    parts += [_table(sweep) for sweep in found.sweeps]
    parts.append(_meaning(found))
    parts.append(_verdict(found))
    return "\n\n".join(parts)


def _meaning(found: Coordinates) -> str:
    fades = f"{READOUT_GROWTH:g}, b from {FRESH_FADING:g}, since what is drawn and not yet learned fades"
    lines = [
        f"a: after the steps, sizes go as {_axes(found)}^a; b: so does how far the steps moved them.",
        f"Bounds: a and b up to {GROWTH:g}, b from {FADING:g}. Logits and routers: up to {fades}.",
    ]
    if any(sweep.axis == "depth" for sweep in found.sweeps):
        lines.append(f"So do sums of fresh sublayers across depth: b from {FRESH_FADING:g} there.")
    return "\n".join(lines)


def _axes(found: Coordinates) -> str:
    axes = [sweep.axis for sweep in found.sweeps]
    return axes[0] if len(axes) == 1 else f"({' or '.join(axes)})"


def _table(sweep: Sweep) -> str:
    wide = max(len(f"across {sweep.axis}"), *(len(place.name) + 2 for place in sweep.own.places))
    heads = [f"{scale:>9,}" for scale in sweep.scales] + [
        f"{'a':>8}{'b':>8}",
        f"  {sweep.beside.init + ': a':>12}{'b':>8}",
    ]
    lines = [f"{f'across {sweep.axis}':<{wide}}" + "".join(heads)]
    for own, other in zip(sweep.own.places, sweep.beside.places, strict=True):
        mark = "✓" if own.passed else "✗"
        sizes = "".join(f"{_number(size):>9}" for size in own.sizes)
        lines.append(f"{f'{mark} {own.name}':<{wide}}{sizes}{_pair(own)}  {_pair(other, wide=12)}")
    return "\n".join(lines)


def _pair(place: Place, *, wide: int = 8) -> str:
    return f"{place.size_exponent:>+{wide}.2f}{place.change_exponent:>+8.2f}"


def _number(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= value < 1e3 else f"{value:.1e}"


def _verdict(found: Coordinates) -> str:
    """What the table means, and what to do where it is bad news."""
    faults = [
        f"across {sweep.axis}: {place.name}: {place.fault}"
        for sweep in found.sweeps
        for place in sweep.own.places
        if not place.passed
    ]
    init = found.architecture.init
    if not faults:
        return f"passed: under {init.kind}, a learning rate found on a small model holds across {_reach(found)}"
    lines = ["failed: a learning rate found on a small model does not hold", *(f"  {fault}" for fault in faults)]
    if isinstance(init, WidthParametrisation):
        lines.append(
            "  look at: an embedding.scale, score_scale or residual_scale that depends on the width; `widened` of"
        )
        lines.append(
            "  a kind of your own (which fields grow), the roles of its tensors, and a head without logit_scale"
        )
    else:
        base = f"{{kind: mup, base_width: {found.architecture.width}}}"
        lines.append(f"  fix: init: {base}, where base_width is the width that the learning rate was found on")
    return "\n".join(lines)


def _reach(found: Coordinates) -> str:
    return " and ".join(sweep.axis for sweep in found.sweeps)
