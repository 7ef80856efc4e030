"""What a prototype changed: every field, and whether the ratio that it stands for was kept."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, pi
from typing import TYPE_CHECKING, Any, Literal, cast

from vitruvius.sizing.parameters import count_parameters
from vitruvius.sizing.prototype.layout import distortion, shares
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.seeing import Seeing
from vitruvius.spec.node import Cross, Mixer
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.spec.writing import to_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Architecture

Kept = Literal["kept", "near", "lost"]
_KEPT, _NEAR = log(1.05), log(1.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One field that the prototype has otherwise, and the ratio that it stands for."""

    field: str
    """Dotted path; several blocks with the same change are listed in braces."""
    before: str
    after: str
    ratio: str
    """What the field is measured against: `of the width`, `of the context`; empty where it stands for itself."""
    ratio_before: str
    ratio_after: str
    kept: Kept
    """`kept` within 5 %, `near` within 25 %, else `lost`."""


def deviations(before: Graph, after: Graph) -> tuple[Deviation, ...]:
    """Every changed field of the spec but its name, description and claims, in the order of the file."""
    old, new = _flat(before.architecture), _flat(after.architecture)
    rows: dict[tuple[str, ...], list[str]] = {}
    known: dict[tuple[str, ...], tuple[str, float, float]] = {}
    for path in {**old, **new}:
        if old.get(path) == new.get(path) or path in {"name", "description"} or path.startswith("claims"):
            continue
        measured = _measured(path, before, after)
        block, field = _in_block(path)
        key = (field, _shown(old.get(path)), _shown(new.get(path)), measured[0])
        rows.setdefault(key, []).append(block)
        known.setdefault(key, measured)
    return tuple(_row(key, blocks, known[key]) for key, blocks in rows.items())


def _row(key: tuple[str, ...], blocks: list[str], measured: tuple[str, float, float]) -> Deviation:
    field, before, after, _ = key
    if blocks != [""]:
        names = blocks[0] if len(blocks) == 1 else "{" + ",".join(blocks) + "}"
        field = f"blocks.{names}.{field}"
    ratio, old, new = measured
    return Deviation(
        field=field,
        before=before,
        after=after,
        ratio=ratio,
        ratio_before=_number(old),
        ratio_after=_number(new),
        kept=_verdict(old, new),
    )


def _verdict(old: float, new: float) -> Kept:
    if old == new:
        return "kept"
    if not (0 < old < inf and 0 < new < inf):
        return "lost"
    apart = abs(log(new / old))
    return "kept" if apart <= _KEPT else "near" if apart <= _NEAR else "lost"


def _in_block(path: str) -> tuple[str, str]:
    parts = path.split(".", 2)
    return (parts[1], parts[2]) if parts[0] == "blocks" and len(parts) > 2 else ("", path)


def _flat(architecture: Architecture) -> dict[str, object]:
    """Every written value by its dotted path; lists stand for themselves."""
    found: dict[str, object] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in cast("dict[str, Any]", value).items():
                walk(inner, f"{path}.{key}" if path else key)
        else:
            found[path] = value

    walk(to_data(architecture, defaults="keep"), "")
    return found


def _shown(value: object) -> str:
    if value is None:
        return "not given"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(value: float) -> str:
    return f"{value:.4g}"


# ------------------------------------------------------------------------------------------------------------ ratios


def _measured(path: str, before: Graph, after: Graph) -> tuple[str, float, float]:
    """(name of the ratio, before, after) that a field stands for."""
    rule = _RULES.get(path.rpartition(".")[2])
    if path.startswith(("layers", "encoder")):
        apart = distortion(before.layers, after.layers)
        return f"of the layers: {_shares(after)}, and was {_shares(before)}", 1.0, 1.0 + apart
    if rule is None:
        return "", 1.0, inf
    name, measure = rule
    old, new = measure(path, before), measure(path, after)
    return (name, old, new) if old is not None and new is not None else ("", 1.0, inf)


def _shares(graph: Graph) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares(graph.layers).items())


def _value(path: str, graph: Graph) -> Any:
    node: Any = graph.architecture
    for key in path.split("."):
        node = cast("dict[str, Any]", node).get(key) if isinstance(node, dict) else getattr(node, key, None)
    return node


def _owner(path: str, graph: Graph) -> Any:
    return _value(path.rpartition(".")[0], graph)


def _of_width(path: str, graph: Graph) -> float | None:
    value = _itself(path, graph)
    return value / graph.scope.width if value else None


def _of_context(path: str, graph: Graph) -> float | None:
    value = _itself(path, graph)
    return value / graph.scope.context if value else None


def _to_groups(path: str, graph: Graph) -> float | None:
    owner = _owner(path, graph)
    pair = owner.heads_and_groups() if isinstance(owner, Mixer | Cross) else None
    return None if pair is None else pair[0] / pair[1]


def _head_width(path: str, graph: Graph) -> float | None:
    value = _itself(path, graph)
    heads = getattr(_owner(path, graph), "heads", 0)
    return value or (graph.scope.width / heads if isinstance(heads, int) and heads else None)


def _to_top_k(path: str, graph: Graph) -> float | None:
    mixture = _owner(path, graph)
    return mixture.experts / mixture.top_k if isinstance(mixture, Moe) else None


def _to_head(path: str, graph: Graph) -> float | None:
    value, head = _itself(path, graph), getattr(_owner(path, graph), "head_width", None)
    return value / head if value and isinstance(head, int) else None


def _window(path: str, graph: Graph) -> float | None:
    mixer = _owner(path, graph)
    pattern = mixer.pattern() if isinstance(mixer, Mixer) else None
    if pattern is None:
        return None
    reach = pattern.widest_window or pattern.longest_reach
    return None if reach is None else reach / graph.scope.context


def _slowest(path: str, graph: Graph) -> float | None:
    position, mixer = _owner(path, graph), _owner(path.rpartition(".")[0], graph)
    if not isinstance(position, RotaryPosition) or not isinstance(mixer, Seeing):
        return None
    width = mixer.heads_of(graph.scope).width
    turned = position.rotary_width(width)
    return 2 * pi * position.theta ** ((turned - 2) / turned) / graph.scope.context


def _tables(path: str, graph: Graph) -> float:
    del path
    counts = count_parameters(graph)
    return counts.embedding / counts.total


def _aspect(path: str, graph: Graph) -> float:
    del path
    return graph.scope.width / len(graph.layers)


def _itself(path: str, graph: Graph) -> float | None:
    value = _value(path, graph)
    return float(value) if isinstance(value, int | float) else None


_Measure = tuple[str, "Callable[[str, Graph], float | None]"]
_RULES: dict[str, _Measure] = {
    "width": ("to the depth", _aspect),
    "vocab_size": ("share of the tables in the parameters", _tables),
    "context": ("tokens", _itself),
    "heads": ("heads to a key head", _to_groups),
    "kv_heads": ("heads to a key head", _to_groups),
    "key_heads": ("heads to a key head", _to_groups),
    "groups": ("heads to a group", _to_groups),
    "head_width": ("channels of a head", _head_width),
    "nope_width": ("channels of a head", _itself),
    "rope_width": ("channels of a head", _itself),
    "value_width": ("channels of a head", _itself),
    "state": ("to the width of a head", _to_head),
    "experts": ("experts to a chosen one", _to_top_k),
    "top_k": ("experts to a chosen one", _to_top_k),
    "sees": ("widest window to the context", _window),
    "theta": ("slowest wavelength to the context", _slowest),
    **dict.fromkeys(("hidden", "q_rank", "kv_rank", "rank", "dt_rank"), ("to the width", _of_width)),
    **dict.fromkeys(("decay_rank", "rate_rank", "gate_rank", "value_rank"), ("to the width", _of_width)),
    **dict.fromkeys(("original_context", "farthest", "horizon", "size"), ("to the context", _of_context)),
}
"""Name of a field -> the ratio that it stands for."""
