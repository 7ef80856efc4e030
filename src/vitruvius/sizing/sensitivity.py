"""Which field of a spec moves the bill most: the elasticity of memory, speed, training cost and size to each number.

An elasticity is the slope on logarithmic scales, d ln(bill) / d ln(field): 1 means that one percent more of the field
costs one percent more, 2 that it costs two, 0 that it does not matter. Each is taken between the nearest smaller and
larger value for which the whole spec is still sound; both are shown, and so is a value on one side only.
"""

from __future__ import annotations

import re
import shlex
from copy import deepcopy
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

from vitruvius.errors import PatternError, SpecError, VitruviusError
from vitruvius.spec.graph import resolve
from vitruvius.spec.node import LARGEST
from vitruvius.spec.rules import ensure, findings
from vitruvius.spec.validating import from_plain
from vitruvius.spec.writing import to_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Architecture

SCHEMA = "vitruvius.sensitivity/1"
MEASURES = ("parameters", "memory", "decode_speed", "training_cost")
_MOST_TRIES = 80
"""Neighbours of one value that are tried on each side before it counts as fixed by the others."""
_TEXTS = ("layers", "sees")
"""Fields that hold numbers in a text."""
_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])\d+(?![A-Za-z0-9_.])", re.ASCII)

Path = tuple[str | int, ...]
Bill = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A number in the spec: the whole value at a path, or the digits at `span` of a text."""

    path: Path
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A number of the spec that can be varied, at one place or at the same place of several blocks."""

    places: tuple[Place, ...]
    value: int | float
    label: str
    """As tables show it: `blocks.{dense,moe}.mixer.heads`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a field does to the bill."""

    field: str
    value: int | float
    smaller: int | float | None
    """The nearest sound value below; None without one."""
    larger: int | float | None
    parameters: float
    """Elasticity of stored parameters."""
    memory: float
    """Of the peak of memory."""
    decode_speed: float | None
    """Of decoded tokens per second at full context; None without a device, while training, and without a cache."""
    training_cost: float
    """Of training FLOPs for each token."""
    overrides: tuple[str, ...]
    """`--set` settings of the value that was tried: the larger one where there is one."""

    @property
    def strength(self) -> float:
        """The largest of them, whatever its sign: what effects are ranked by."""
        known = (self.parameters, self.memory, self.decode_speed or 0.0, self.training_cost)
        return max(abs(value) for value in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Effects of all fields, the strongest first."""

    name: str
    workload: Workload
    device: str | None
    effects: tuple[Effect, ...]
    inert: tuple[str, ...]
    """Fields that move nothing of the bill."""
    fixed: tuple[str, ...]
    """Fields with no other sound value within reach."""

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable form `vitruvius.sensitivity/1`."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "device": self.device,
            "fields": [
                {
                    "field": effect.field,
                    "value": effect.value,
                    "smaller": effect.smaller,
                    "larger": effect.larger,
                    "elasticity": {measure: getattr(effect, measure) for measure in MEASURES},
                    "set": list(effect.overrides),
                }
                for effect in self.effects
            ],
            "without_effect": list(self.inert),
            "fixed_by_others": list(self.fixed),
        }


def sensitivity(architecture: Architecture, workload: Workload, device: Device | None = None) -> Sensitivity:
    """The elasticity of the bill to every number of the spec.

    A context that the workload names stays as it is; without one it follows the spec's. Decode speed is that of the
    device's roofline, so it needs one. Raises SpecError where the spec is not sound itself.
    """
    graph = ensure(architecture)
    plain = to_data(graph.architecture, defaults="keep")
    base = _measure(graph, workload, device)
    effects: list[Effect] = []
    inert: list[str] = []
    fixed: list[str] = []
    for field in fields_of(plain):
        effect = _effect(plain, field, base, lambda g: _measure(g, workload, device))
        if effect is None:
            fixed.append(field.label)
        elif effect.strength < 1e-9:
            inert.append(field.label)
        else:
            effects.append(effect)
    effects.sort(key=lambda effect: (-effect.strength, effect.field))
    return Sensitivity(
        name=graph.architecture.name,
        workload=workload,
        device=None if device is None else device.name,
        effects=tuple(effects),
        inert=tuple(inert),
        fixed=tuple(fixed),
    )


def _measure(graph: Graph, workload: Workload, device: Device | None) -> Bill:
    from vitruvius.sizing.memory import memory_of
    from vitruvius.sizing.parameters import count_parameters

    tokens = workload.context or graph.scope.context
    cost = graph.flops(tokens) + graph.mtp_flops(tokens)
    bill: Bill = {
        "parameters": float(count_parameters(graph).total),
        "memory": float(memory_of(graph, workload).peak),
        "training_cost": 3 * cost.useful / tokens,
    }
    if device is not None and workload.mode == "inference":
        from vitruvius.sizing.speed import speed_of

        bill["decode_speed"] = speed_of(graph, workload, device).tokens_per_second_bound or 0.0
    return bill


# ---------------------------------------------------------------------------------------------------- finding fields


def fields_of(plain: dict[str, Any]) -> list[Field]:
    """Every number above 0 in the plain data of a spec; those that stand alike in several blocks are one field."""
    together: dict[tuple[object, ...], list[tuple[Place, int | float]]] = {}
    for place, value in _numbers(plain, ()):
        tail: tuple[object, ...] = ("blocks", *place.path[2:]) if place.path[0] == "blocks" else place.path
        text = _at(plain, place.path) if place.span is not None else None
        together.setdefault((tail, place.span, text, value), []).append((place, value))
    return [
        Field(places=tuple(p for p, _ in found), value=found[0][1], label=_label(plain, [p for p, _ in found]))
        for found in together.values()
    ]


def _numbers(value: Any, path: Path) -> Iterator[tuple[Place, int | float]]:
    if isinstance(value, dict):
        for key, child in value.items():  # pyright: ignore[reportUnknownVariableType]
            if path or key not in {"claims", "name", "description"}:
                yield from _numbers(child, (*path, str(key)))  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list):
        for index, child in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            yield from _numbers(child, (*path, index))
    elif isinstance(value, str):
        if any(key in _TEXTS for key in path):
            for match in _NUMBER.finditer(value):
                yield Place(path=path, span=match.span()), int(match[0])
    elif isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        yield Place(path=path), value


def _at(plain: Any, path: Path) -> Any:
    for key in path:
        plain = plain[key]
    return plain


def _label(plain: dict[str, Any], places: list[Place]) -> str:
    first = places[0]
    path = [str(part) for part in first.path]
    if first.path[0] == "blocks" and len(places) > 1:
        names = [str(place.path[1]) for place in places]
        path[1] = "*" if len(names) == len(plain["blocks"]) else "{" + ",".join(names) + "}"
    label = ".".join(path)
    if first.span is None:
        return label
    text, (start, end) = _at(plain, first.path), first.span
    return f"{label}: {_around(text[:start]) + text[start:end] + (')' if 'layers' not in path else '')}"


def _around(before: str) -> str:
    """What stands before a number in a text and says what it counts: `(dense moe)*`, `dilated(every=`."""
    if before.endswith(("*", "^")):
        item = before.rstrip("*^ ")
        depth, start = 0, len(item)
        while start > 0 and (depth or item[start - 1] not in " ("):
            start -= 1
            depth += {")": 1, "(": -1}.get(item[start], 0)
            if depth == 0 and item[start] == "(":
                break
        return before[start:]
    call, _, arguments = before.rpartition("(")
    name = re.search(r"[A-Za-z_]*$", call)
    return f"{name[0] if name else ''}({arguments.rpartition(',')[2].strip()}"


# --------------------------------------------------------------------------------------------------- varying a field


def _effect(plain: dict[str, Any], field: Field, base: Bill, measure: Callable[[Graph], Bill]) -> Effect | None:
    """The elasticities of a field, or None where no neighbour of its value is sound."""
    steps = _steps(plain, field.value)
    down = _nearest(plain, field, [field.value - step for step in steps])
    up = _nearest(plain, field, [field.value + step for step in steps])
    ends = [(end[0], measure(end[1])) for end in (down, up) if end is not None]
    if not ends:
        return None
    if len(ends) == 1:
        ends.append((field.value, base))
    (x0, low), (x1, high) = sorted(ends, key=lambda end: end[0])
    slope = {name: _slope(x0, x1, low[name], high[name]) for name in base}
    tried = up or down
    assert tried is not None
    return Effect(
        field=field.label,
        value=field.value,
        smaller=None if down is None else down[0],
        larger=None if up is None else up[0],
        overrides=tuple(_setting(plain, field, tried[0])),
        parameters=slope["parameters"],
        memory=slope["memory"],
        training_cost=slope["training_cost"],
        decode_speed=slope.get("decode_speed"),
    )


def _slope(x0: float, x1: float, low: float, high: float) -> float:
    return log(high / low) / log(x1 / x0) if low > 0 and high > 0 else 0.0


def _steps(plain: dict[str, Any], value: float) -> list[int | float]:
    """How far to go from a value, the shortest ways first.

    Whole numbers usually have to divide others or be divided, so besides small steps and powers of two the multiples
    of the spec's own numbers are tried.
    """
    if isinstance(value, float):
        return [value * share for share in (0.01, 0.1, 0.5)]
    steps = {2**power for power in range(31)} | {value // 8, value // 4, value // 2, value} | set(range(1, 13))
    for _, number in _numbers(plain, ()):
        if isinstance(number, int):
            steps |= {number, 2 * number, number // 2}
    near = sorted(step for step in steps if 0 < step <= value)
    return list(near[:_MOST_TRIES])


def _nearest(plain: dict[str, Any], field: Field, values: Sequence[int | float]) -> tuple[int | float, Graph] | None:
    """The first of the values with which the spec is sound, and the resolved spec."""
    for value in values:
        if 0 < value <= LARGEST:
            graph = _varied(plain, field, value)
            if graph is not None:
                return value, graph
    return None


def _varied(plain: dict[str, Any], field: Field, value: float) -> Graph | None:
    """The spec with another value in all places of a field, or None where that is not sound."""
    changed = deepcopy(plain)
    for place in field.places:
        above = _at(changed, place.path[:-1])
        above[place.path[-1]] = _put(above[place.path[-1]], place, value)
    try:
        architecture = from_plain(changed)
        if any(finding.severity == "error" for finding in findings(architecture)):
            return None
        return resolve(architecture)
    except (SpecError, PatternError, VitruviusError):
        return None


def _put(old: Any, place: Place, value: float) -> Any:
    if place.span is None:
        return value
    start, end = place.span
    return f"{old[:start]}{value}{old[end:]}"


def _setting(plain: dict[str, Any], field: Field, value: float) -> Iterator[str]:
    for place in field.places:
        new = _put(_at(plain, place.path), place, value)
        path = ".".join(str(part) for part in place.path)
        text = f'"{new}"' if isinstance(new, str) else f"{new:g}" if isinstance(new, float) else f"{new}"
        yield f"--set {shlex.quote(f'{path}={text}')}"
