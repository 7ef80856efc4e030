"""The curves of a run, out of the rows of its metrics: what is a number, thinned to what can be seen."""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from vitruvius.spec.writing import flow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LARGEST = 1e100
"""Numbers beyond it, and infinities, are not drawn: nothing else could be seen beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One update, or a run of them that is drawn as one."""

    step: float
    """The update, or the mean of theirs."""
    value: float
    """The value, or the mean of theirs."""
    low: float
    """The least of theirs."""
    high: float
    """The largest of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened at an update."""

    step: int
    kind: str
    text: str
    is_bad: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the rows of a run say, key by key, in rising steps."""

    curves: Mapping[str, tuple[tuple[int, float], ...]]
    """Key of a row -> (step, value) of each row that has a number there."""
    left_out: int
    """Values that were no finite number, or too large to draw; null in a row is one."""

    def family(self, name: str) -> dict[str, tuple[tuple[int, float], ...]]:
        """Curves of a measure that each layer or block has one of: `layers.3.mixer` -> its points, in layer order."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): points for key, points in self.curves.items() if key.startswith(prefix)}


def history_of(rows: Iterable[Mapping[str, Any]]) -> History:
    """The history in the rows of `metrics.jsonl`; the last row of a step counts, rows without a step do not."""
    by_step: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        step = row.get("step")
        if type(step) is int and 0 <= step < 2**63:
            by_step[step] = row
    curves: dict[str, list[tuple[int, float]]] = {}
    left_out = 0
    for step in sorted(by_step):
        for key, value in by_step[step].items():
            number = finite(value)
            if key == "step" or isinstance(value, str | dict | list | bool):
                continue
            # Validation of a run that scored nothing in bytes is null by right; the rest of nulls were no numbers.
            if number is None:
                left_out += value is not None or key in {"loss", "grad_norm", "val_loss"}
                continue
            curves.setdefault(key, []).append((step, number))
    for key, points in curves.items():
        if key.startswith(STEPWISE):
            points[:] = _held(points, by_step)
    return History(curves={key: tuple(points) for key, points in curves.items()}, left_out=left_out)


STEPWISE = "shape/"
"""Rows say such a value where it is new; it holds until the next one."""


def _held(points: Sequence[tuple[int, float]], steps: Iterable[int]) -> list[tuple[int, float]]:
    """The value at every step from the first that says it."""
    new, found = dict(points), list[tuple[int, float]]()
    for step in sorted(steps):
        if step in new or found:
            found.append((step, new[step] if step in new else found[-1][1]))
    return found


def finite(value: object) -> float | None:
    """The value where it is a number that can be drawn; else None."""
    # Comparing comes first: an integer may be too large to become a float.
    if type(value) in {int, float} and -LARGEST <= value <= LARGEST:  # pyright: ignore[reportOperatorIssue]
        return float(value)  # pyright: ignore[reportArgumentType]
    return None


def thinned(points: Sequence[tuple[int, float]], most: int) -> tuple[Point, ...]:
    """At most `most` points: means over equal shares of the originals, with their least and largest."""
    if len(points) <= most:
        return tuple(Point(step=step, value=value, low=value, high=value) for step, value in points)
    found: list[Point] = []
    for i in range(most):
        group = points[i * len(points) // most : (i + 1) * len(points) // most]
        values = [value for _, value in group]
        found.append(
            Point(
                step=sum(step for step, _ in group) / len(group),
                value=min(max(sum(values) / len(values), min(values)), max(values)),
                low=min(values),
                high=max(values),
            )
        )
    return tuple(found)


def spread(curves: Iterable[Sequence[tuple[int, float]]]) -> tuple[Point, ...]:
    """Several curves as one: at each step the mean, the least and the largest of those that have a value there."""
    at: dict[int, list[float]] = {}
    for points in curves:
        for step, value in points:
            at.setdefault(step, []).append(value)
    return tuple(
        Point(step=step, value=sum(values) / len(values), low=min(values), high=max(values))
        for step, values in sorted(at.items())
    )


BAD = frozenset({"not-finite", "spike", "alarm", "failed", "damaged-checkpoint", "rewound"}) | frozenset(
    {"out-of-memory", "watch-failed", "detectors-failed"}
)
"""Kinds of event that something was wrong in."""


def marks_of(events: Iterable[Mapping[str, Any]], steps: Sequence[int]) -> list[Mark]:
    """The events, each at its update; one that names none stands where the events around it say that the run was.

    `steps` are those of the rows, rising; what happened after the last row stands there.
    """
    found: list[Mark] = []
    last = steps[0] if steps else 0
    for event in events:
        kind = str(event.get("kind"))
        step = event.get("step", event.get("to_step"))
        if type(step) is int and 0 <= step < 2**63:
            last = step
        place = bisect_left(steps, last)
        shown = steps[min(place, len(steps) - 1)] if steps else last
        found.append(Mark(step=shown, kind=kind, text=event_text(event), is_bad=kind in BAD))
    return found


_HIDDEN = frozenset({"kind", "time", "environment", "sample_ids", "epochs", "samples"})


def event_text(event: Mapping[str, Any]) -> str:
    """What an event says besides its kind and time, in a line."""
    told = _sights_text(event.get("seen"))
    hidden = _HIDDEN | {"seen"} if told else _HIDDEN
    parts = [f"{key} {_shown(value)}" for key, value in event.items() if key not in hidden and value is not None]
    return ", ".join([*([told] if told else []), *parts])


_MOST_SIGHTS = 3


def _sights_text(seen: object) -> str:
    """What the guard saw: `attention-logit of layers.3.mixer head 2 is 131.2 (over 100, above)`."""
    if not isinstance(seen, list):
        return ""
    sights = [cast("dict[str, Any]", each) for each in cast("list[Any]", seen) if isinstance(each, dict)]
    parts: list[str] = []
    for sight in sights[:_MOST_SIGHTS]:
        place, rule, z = sight.get("place"), sight.get("rule"), finite(sight.get("z"))
        limit, text = finite(sight.get("limit")), str(sight.get("value"))[:40]
        with contextlib.suppress(ValueError):
            text = f"{float(text):.4g}"
        beyond = ""
        if rule is not None and limit is not None:
            beyond = f" ({'under' if rule == 'below' else 'over'} {limit:.4g}, {_shown(rule)})"
        elif z is not None:
            beyond = f" ({z:.3g} deviations)"
        parts.append(f"{_shown(sight.get('what'))}{f' of {_shown(place)}' if place else ''} is {text}{beyond}")
    if len(sights) > _MOST_SIGHTS:
        parts.append(f"{len(sights) - _MOST_SIGHTS:,} more")
    return " and ".join(parts)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else flow(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
