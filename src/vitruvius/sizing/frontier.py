"""Which context at which batch fits on which hardware: the frontier between what fits and what does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from vitruvius.errors import UsageError
from vitruvius.sizing.search import largest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph

SCHEMA = "vitruvius.frontier/1"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
MOST_CURVES = 12
BEYOND = 8
"""Contexts are tried up to this many times the declared one, and at least up to `LEAST_LIMIT`."""
LEAST_LIMIT = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The most tokens that fit at a batch."""

    batch: int
    context: int
    """Tokens of each sequence; 0 where not even one fits."""
    is_capped: bool = False
    """Whether more would fit, and the search ended at its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The frontier of one choice of hardware."""

    device: str
    count: int
    available_bytes: int
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        """As the legend has it."""
        return self.device if self.count == 1 else f"{self.count} x {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Curves of several devices for one architecture and workload."""

    name: str
    mode: str
    weights: str
    declared: int
    """The context that the architecture is designed for."""
    limit: int
    """The longest context that was tried."""
    why_limit: str
    curves: tuple[Curve, ...]

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable form `vitruvius.frontier/1`."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "mode": self.mode,
            "weights_dtype": self.weights,
            "declared_context_tokens": self.declared,
            "limit_tokens": self.limit,
            "curves": [
                {
                    "device": curve.device,
                    "count": curve.count,
                    "available_bytes": curve.available_bytes,
                    "points": [
                        {"batch": p.batch, "context_tokens": p.context, "at_limit": p.is_capped} for p in curve.points
                    ],
                }
                for curve in self.curves
            ],
        }


def curve_of(
    needed: Callable[[int, int], int],
    device: Device,
    count: int,
    *,
    available: int,
    batches: Sequence[int],
    limit: int,
) -> Curve:
    """The frontier of a device; `needed(context, batch)` says how many bytes a workload takes."""
    points: list[Point] = []
    most = limit
    for batch in batches:
        # A larger batch leaves no room for longer sequences.
        found = largest(partial(_in_turn, needed, batch), available, start=max(1, most // 2), most=most) if most else 0
        points.append(Point(batch=batch, context=found, is_capped=found == limit))
        most = found
    return Curve(device=device.name, count=count, available_bytes=available, points=tuple(points))


def _in_turn(needed: Callable[[int, int], int], batch: int, context: int) -> int:
    return needed(context, batch)


def frontier(
    graph: Graph,
    workload: Workload,
    devices: Sequence[tuple[Device, int]],
    *,
    batches: Sequence[int] = BATCHES,
) -> Frontier:
    """The largest context at each batch on each (device, count), exact to the token, the margin included.

    Several devices hold the model together, each an equal part. Raises UsageError where there is nothing to draw.
    """
    from vitruvius.sizing.fit import available_bytes
    from vitruvius.sizing.memory import memory_of

    if not devices:
        raise UsageError("a frontier needs hardware", fix="name it: --on rtx-4090 --on h100-80gb")
    if len(devices) > MOST_CURVES:
        raise UsageError(f"{len(devices)} curves cannot be told apart", fix=f"name at most {MOST_CURVES} devices")
    limit, why = _limit(graph)
    known: dict[tuple[int, int], int] = {}

    def needed(context: int, batch: int) -> int:
        at = (context, batch)
        if at not in known:
            known[at] = memory_of(graph, replace(workload, context=context, batch=batch)).total
        return known[at]

    curves = [
        curve_of(needed, device, count, available=available_bytes(device, count), batches=batches, limit=limit)
        for device, count in devices
    ]
    return Frontier(
        name=graph.architecture.name,
        mode=workload.mode,
        weights=workload.weights,
        declared=graph.scope.context,
        limit=limit,
        why_limit=why,
        curves=tuple(curves),
    )


def _limit(graph: Graph) -> tuple[int, str]:
    """The longest context that makes sense, and why."""
    position = graph.architecture.embedding.position
    longest = None if position is None else position.longest_sequence(graph.scope)
    if longest is not None:
        return longest, "learned positions end there"
    limit = max(graph.scope.context * BEYOND, LEAST_LIMIT)
    return limit, f"{BEYOND} x the declared context" if limit > LEAST_LIMIT else "longer ones were not tried"
