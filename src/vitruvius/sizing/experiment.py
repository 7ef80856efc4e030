"""The cheapest next experiment: what to run now, what it decides, and what it costs.

Deterministic and quick, because `size`, `check` and `validate` end with it. After sizing comes the check, which needs
no data and no GPU; after the check a prototype that trains within an hour; after validation the one number that only
the real hardware gives.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from vitruvius.errors import VitruviusError
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.hardware.catalogue import THIS_MACHINE, catalogue, machine_file
from vitruvius.sizing.laws import DEFAULT
from vitruvius.sizing.memory import kv_cache_bytes, state_bytes, weights_bytes
from vitruvius.sizing.parameters import count_parameters
from vitruvius.sizing.prototype import prototype_name
from vitruvius.spec.graph import resolve
from vitruvius.spec.shrink import shrink
from vitruvius.units import format_count, format_money

if TYPE_CHECKING:
    from vitruvius.sizing.hardware import Device
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Architecture

Done = Literal["size", "check", "validate"]
"""What was run last."""

SCHEMA = "vitruvius.experiment/1"

# A check in seconds of one core: fitted to five presets on two shared cores, from 6 to 20 s; within 3 times.
_CHECK_SECONDS, _CHECK_PER_LAYER, _CHECK_PER_FLOP, _CHECK_OFF = 5.0, 0.5, 3e-8, 3.0
_PROBE_TOKENS = 96

_ASSUMED_FLOPS = 2e10
"""FLOP/s of training on a machine that was not measured: a few cores."""
_ASSUMED_OFF, _MEASURED_OFF = 10.0, 2.0
_ASSUMED_WATTS = 100.0
_KILOWATT_HOUR = 0.13
"""US commercial average of 2024 (EIA), as `vitruvius.sizing.money` assumes it."""
_CENT = 0.01
_LONGEST_SECONDS = 3600.0
_PROTOTYPES = (15_000_000, 5_000_000, 2_000_000, 1_000_000, 500_000, 200_000)
"""Parameters of prototypes, the first that trains within an hour is taken."""
_BENCH_SECONDS, _BENCH_OFF = 600.0, 2.0
_ROOM = 1.25
"""What a device must have for each byte of weights and cache, activations and fragmentation included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One thing to run next."""

    command: str
    """As it is typed; `DIR` stands for a folder of prepared data."""
    decides: str
    """What is known afterwards and not before."""
    seconds: float
    dollars: float | None
    """Electricity on this machine, rent on another; None where no price is known."""
    off_by: float
    """How many times longer or shorter it may take."""
    device: str
    """What it is counted on."""
    basis: str
    """Where the seconds come from."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON documents of other commands hold it, under `next_experiment`."""
        return {name: getattr(self, name) for name in self.__slots__}

    def to_text(self) -> str:
        """Two lines: what it decides and costs, then the command."""
        price = "" if self.dollars is None else f" and {format_money(self.dollars)}"
        if self.dollars is not None and self.dollars < _CENT:
            price = ""
        return (
            f"the cheapest next experiment: {self.decides}; about {_duration(self.seconds)}{price} on {self.device}, "
            f"within {self.off_by:g} times\n  {self.command}"
        )


def next_experiment(architecture: Architecture, *, after: Done = "size", spec: str | None = None) -> Experiment:
    """What to run next for an architecture of which `after` is done; `spec` is what the command line calls it.

    Raises SpecError when its layers cannot be resolved.
    """
    graph = resolve(architecture)
    name = shlex.quote(spec or architecture.name)
    if after == "size":
        return _check(architecture, name)
    if after == "check":
        return _prototype(graph, name)
    return _bench(graph, name)


# ------------------------------------------------------------------------------------------------------- the three


def _check(architecture: Architecture, name: str) -> Experiment:
    twin = resolve(shrink(architecture))
    layers = sum(1 for _ in twin.every_layer())
    flops = twin.flops(min(_PROBE_TOKENS, twin.scope.context)).dense
    seconds = _CHECK_SECONDS + _CHECK_PER_LAYER * layers + _CHECK_PER_FLOP * flops
    return Experiment(
        command=f"vitruvius check {name}",
        decides="whether the built model is right: leaks, cache, gradients, numerics, on a small twin",
        seconds=seconds,
        dollars=_electricity(seconds),
        off_by=_CHECK_OFF,
        device="this machine",
        basis=f"a twin of {layers} layers, {format_count(flops)}FLOP a pass; fitted to the checks of five presets",
    )


def _prototype(graph: Graph, name: str) -> Experiment:
    counts = count_parameters(graph)
    rate, off, basis = _training_rate()
    share = counts.active / counts.total
    chosen, seconds, tokens = 0, inf, 0.0
    for parameters in (min(size, counts.total // 2) for size in _PROTOTYPES):
        active = max(1.0, parameters * share)
        tokens = DEFAULT.best_tokens(active)
        chosen, seconds = parameters, 6 * active * tokens / rate
        if seconds <= _LONGEST_SECONDS:
            break
    made = shlex.quote(f"prototypes/{prototype_name(graph.architecture.name, chosen)}-run.yaml")
    return Experiment(
        command=f"vitruvius scale-down {name} --parameters {chosen} --out prototypes --data DIR && "
        f"vitruvius train {made}",
        decides=f"whether it learns, with its ratios kept at {format_count(chosen)} parameters",
        seconds=seconds,
        dollars=_electricity(seconds),
        off_by=off,
        device="this machine",
        basis=f"6 N D with {format_count(tokens)} tokens at {rate:.3g} FLOP/s, {basis}",
    )


def _bench(graph: Graph, name: str) -> Experiment:
    context = graph.scope.context
    needed = weights_bytes(graph, "bf16")
    if graph.is_causal:
        needed += kv_cache_bytes(graph, context, 1, "bf16") + state_bytes(graph, context, 1, "bf16")
    device, count = _cheapest(_ROOM * needed)
    if device is None or device.rent is None:
        return _prototype(graph, name)
    return Experiment(
        command=f"vitruvius bench {name} --lengths {context} --phases decode",
        decides=f"how fast it decodes at {context:,} tokens: every prediction before it is a bound or an estimate",
        seconds=_BENCH_SECONDS,
        dollars=count * device.rent * _BENCH_SECONDS / 3600,
        off_by=_BENCH_OFF,
        device=device.name if count == 1 else f"{count} x {device.name}",
        basis=f"ten minutes of what holds {format_count(_ROOM * needed)}B at the least rent; prices of {device.dated}",
    )


# -------------------------------------------------------------------------------------------------------- machines


def _cheapest(needed: float) -> tuple[Device | None, int]:
    """The device, and how many of one machine, that hold so many bytes at the least rent."""
    best: tuple[float, str, Device, int] | None = None
    for device in catalogue().values():
        if device.rent is None or device.untested:
            continue
        count = max(1, int(-(-needed // device.usable_bytes)))
        if count > device.per_node:
            continue
        offer = (count * device.rent, device.name, device, count)
        best = offer if best is None or offer[:2] < best[:2] else best
    return (None, 1) if best is None else best[2:]


def _training_rate() -> tuple[float, float, str]:
    """(FLOP/s of training, how far off, where from) of this machine."""
    if machine_file().exists():
        try:
            device = device_named(THIS_MACHINE)
        except VitruviusError:
            device = None
        if device is not None:
            rate = device.peak("bf16") * device.efficiency.compute
            return rate, _MEASURED_OFF, f"as `vitruvius bench --machine` measured on {device.dated}"
    return _ASSUMED_FLOPS, _ASSUMED_OFF, "assumed: `vitruvius bench --machine` measures it"


def _electricity(seconds: float) -> float:
    return seconds / 3600 * _ASSUMED_WATTS / 1000 * _KILOWATT_HOUR


def _duration(seconds: float) -> str:
    for name, worth in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * worth:
            return f"{seconds / worth:.2g} {name}" if seconds < 100 * worth else f"{seconds / worth:,.0f} {name}"
    return f"{seconds:.2g} seconds"
