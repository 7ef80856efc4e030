"""What differs between two architectures: their fields, their layers side by side, and their bills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from vitruvius.sizing import size
from vitruvius.spec.rules import ensure
from vitruvius.spec.writing import to_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.sizing import Bill
    from vitruvius.spec.graph import Graph, Layer
    from vitruvius.spec.model import Architecture

ABSENT: Final = "absent"
"""The value of a field that one side does not have."""

_LAYERWISE: Final = frozenset({"blocks", "layers"})
_LARGEST_TABLE: Final = 250_000
_GAP: Final = 1.0
"""Cost of a layer without a counterpart; one that differs in everything costs as much, so that it is still paired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that differs."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """Layers that differ alike."""

    before: tuple[int, ...]
    """Their places in the first stack; empty for layers that were added."""
    after: tuple[int, ...]
    """Their places in the second stack; empty for layers that were taken away."""
    names: tuple[str, str]
    """Blocks they belong to, in each; empty where they are not."""
    changes: tuple[Change, ...]
    """What differs inside; nothing for layers that are equal, added or taken away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of both bills."""

    name: str
    before: float
    after: float

    @property
    def ratio(self) -> float | None:
        """After over before, or None where there was nothing."""
        return self.after / self.before if self.before else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two architectures, compared."""

    names: tuple[str, str]
    context: int
    """Tokens at which both bills were made."""
    fields: tuple[Change, ...]
    layers: tuple[LayerChange, ...]
    figures: tuple[Figure, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the two are the same architecture but for their names."""
        same = all(not layer.changes and layer.before and layer.after for layer in self.layers)
        return same and not self.fields


def compare(before: Architecture, after: Architecture, *, context: int | None = None) -> Comparison:
    """What differs; bills are made at `context` tokens, by default at the shorter of the two contexts.

    Raises SpecError when one of them does not fit together.
    """
    graphs = ensure(before), ensure(after)
    tokens = context or min(before.context, after.context)
    bills = size(before, context=tokens), size(after, context=tokens)
    return Comparison(
        names=(before.name, after.name),
        context=tokens,
        fields=tuple(_fields(before, after)),
        layers=tuple(_layers(*graphs)),
        figures=tuple(_figures(*bills)),
    )


# ----------------------------------------------------------------------------------------------------------------------
# Fields


def _fields(before: Architecture, after: Architecture) -> Iterator[Change]:
    told = {"name", "description", "claims", "norm"} | _LAYERWISE
    old, new = to_data(before, defaults="keep"), to_data(after, defaults="keep")
    yield from differences(
        {k: v for k, v in old.items() if k not in told}, {k: v for k, v in new.items() if k not in told}
    )
    yield from differences(_final_norm(ensure(before)), _final_norm(ensure(after)))


def _final_norm(graph: Graph) -> dict[str, Any]:
    norm = graph.final_norm
    return {"final_norm": None if norm is None else to_data(norm, defaults="keep")}


def differences(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """The leaves that differ between two pieces of plain data; a component of another kind differs as a whole."""
    old, new = _mapping(before), _mapping(after)
    if old is not None and new is not None and old.get("kind") == new.get("kind"):
        for key in (*old, *(key for key in new if key not in old)):
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{path}.{key}" if path else key)
    elif _differ(before, after):
        yield Change(path=path, before=before, after=after)


def _mapping(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _differ(before: object, after: object) -> bool:
    """`1`, `1.0` and `true` are different things to write."""
    return before != after or type(before) is not type(after)


# ----------------------------------------------------------------------------------------------------------------------
# Layers


def _content(layer: Layer) -> dict[str, Any]:
    parts = {"mixer": layer.mixer, "ffn": layer.ffn, "norm": layer.norm if layer.norm_place != "none" else None}
    data: dict[str, Any] = {
        name: None if part is None else to_data(part, defaults="keep") for name, part in parts.items()
    }
    return {**data, "norm_place": layer.norm_place, "weights": "own" if layer.owns_weights else "shared"}


class _Pairs:
    """What differs between any two layers, each pair of designs compared once."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, bool], tuple[str, bool]], tuple[Change, ...]] = {}

    def changes(self, before: Layer, after: Layer) -> tuple[Change, ...]:
        key = ((before.name, before.owns_weights), (after.name, after.owns_weights))
        if key not in self._known:
            self._known[key] = tuple(differences(_content(before), _content(after)))
        return self._known[key]

    def cost(self, before: Layer, after: Layer) -> float:
        """From 0 for equal layers to 1 for those that share nothing."""
        changes = self.changes(before, after)
        if not changes:
            return 0.0
        whole = {change.path for change in changes} & {"mixer", "ffn"}
        return min(1.0, 0.05 * len(changes) + 0.3 * len(whole))


def _layers(before: Graph, after: Graph) -> Iterator[LayerChange]:
    pairs = _Pairs()
    groups: dict[
        tuple[str, str, tuple[tuple[str, str, str], ...]], tuple[list[int], list[int], tuple[Change, ...]]
    ] = {}
    for old, new in _aligned(before.layers, after.layers, pairs):
        changes = pairs.changes(old, new) if old is not None and new is not None else ()
        names = (old.name if old else "", new.name if new else "")
        key = (*names, tuple((c.path, repr(c.before), repr(c.after)) for c in changes))
        group = groups.setdefault(key, ([], [], changes))
        if old is not None:
            group[0].append(old.index)
        if new is not None:
            group[1].append(new.index)
    for (old_name, new_name, _), (olds, news, changes) in groups.items():
        yield LayerChange(before=tuple(olds), after=tuple(news), names=(old_name, new_name), changes=changes)


def _aligned(before: Sequence[Layer], after: Sequence[Layer], pairs: _Pairs) -> list[tuple[Layer | None, Layer | None]]:
    """The two stacks side by side, so that as little as possible differs; too long ones are paired from the bottom."""
    if len(before) * len(after) > _LARGEST_TABLE:
        shorter = min(len(before), len(after))
        paired: list[tuple[Layer | None, Layer | None]] = list(zip(before, after, strict=False))
        return [*paired, *((old, None) for old in before[shorter:]), *((None, new) for new in after[shorter:])]
    best = [[0.0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i in reversed(range(len(before) + 1)):
        for j in reversed(range(len(after) + 1)):
            choices = [best[i + 1][j] + _GAP] if i < len(before) else []
            choices += [best[i][j + 1] + _GAP] if j < len(after) else []
            if i < len(before) and j < len(after):
                choices.append(best[i + 1][j + 1] + pairs.cost(before[i], after[j]))
            best[i][j] = min(choices, default=0.0)
    return list(_cheapest(before, after, pairs, best))


def _cheapest(
    before: Sequence[Layer], after: Sequence[Layer], pairs: _Pairs, best: list[list[float]]
) -> Iterator[tuple[Layer | None, Layer | None]]:
    i = j = 0
    while i < len(before) or j < len(after):
        both = i < len(before) and j < len(after)
        if both and best[i][j] == best[i + 1][j + 1] + pairs.cost(before[i], after[j]):
            yield before[i], after[j]
            i, j = i + 1, j + 1
        elif i < len(before) and best[i][j] == best[i + 1][j] + _GAP:
            yield before[i], None
            i += 1
        else:
            yield None, after[j]
            j += 1


# ----------------------------------------------------------------------------------------------------------------------
# Bills


def _figures(before: Bill, after: Bill) -> Iterator[Figure]:
    rows = {
        "parameters": (before.parameters.total, after.parameters.total),
        "active parameters": (before.parameters.active, after.parameters.active),
        "KV cache bytes": (before.kv_cache_bytes, after.kv_cache_bytes),
        "forward FLOPs per token": (before.forward_flops_per_token, after.forward_flops_per_token),
    }
    for name, (old, new) in rows.items():
        yield Figure(name=name, before=old, after=new)
