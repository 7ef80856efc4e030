"""The prototype that keeps most: every depth that the layout allows, with the width that meets the parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log, log2, prod
from typing import TYPE_CHECKING, NamedTuple

from vitruvius.errors import SpecError, UsageError
from vitruvius.sizing.parameters import count_parameters
from vitruvius.sizing.prototype.layout import distortion, shallower
from vitruvius.sizing.prototype.scaling import Small, scaled_block, scaled_part
from vitruvius.spec.graph import resolve
from vitruvius.spec.rules import ensure
from vitruvius.units import format_count

if TYPE_CHECKING:
    from vitruvius.spec.model import Architecture

_NARROWEST = 16
_MOST_TRIM = 0.06
"""Inner widths of feed-forward layers may leave their ratio by this share, to meet the parameters."""
_FARTHEST = (0.15, 0.7)
"""How far a prototype may miss the parameters: the second only where nothing comes nearer. Logarithms."""
_FEW_LAYERS = 4
"""Fewer layers than this are no stack any more."""
_MOST_DEPTHS = 24
_LARGEST_TABLE = 0.25
"""Share of the parameters that the token table may take before the vocabulary is cut."""
_SMALLEST_VOCAB = 512
_LOST_BY_EXPERTS = 2.0
"""What a halving of the experts counts for, beside a halving of other ratios."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A prototype and what it lost."""

    architecture: Architecture
    small: Small
    parameters: int
    lost: float
    """Halvings of ratios that matter, and misses of the parameters; only for comparing."""


def find(architecture: Architecture, parameters: int, *, context: int, vocab: int | None) -> Found:
    """The prototype of about `parameters` that keeps most of the ratios.

    Raises UsageError where even the smallest prototype has more.
    """
    words = vocab or _vocabulary(architecture, parameters)
    smallest = 0
    for farthest in _FARTHEST:
        found, least = _over_experts(architecture, parameters, context=context, vocab=words, farthest=farthest)
        smallest = min(smallest or least, least)
        if found is not None:
            return found
    raise UsageError(
        f"{architecture.name} has no prototype of {format_count(parameters)} parameters with its layout",
        fix=f"ask for {format_count(max(smallest, 2 * parameters))} or more",
    )


def _over_experts(
    architecture: Architecture, parameters: int, *, context: int, vocab: int, farthest: float
) -> tuple[Found | None, int]:
    """The best with all experts, or with fewer where that keeps more of everything else."""
    smallest = 0
    candidates: list[Found] = []
    for divisor in (1, 2, 4, 8, 16, 32):
        if divisor > 1 and not _has_experts(architecture, divisor):
            break
        found, least = _best(architecture, parameters, context=context, vocab=vocab, experts=divisor, farthest=farthest)
        smallest = min(smallest or least, least)
        if found is not None:
            candidates.append(replace(found, lost=found.lost + _LOST_BY_EXPERTS * log2(divisor)))
        if candidates and min(each.lost for each in candidates) <= _LOST_BY_EXPERTS * (1 + log2(divisor)):
            break
    return min(candidates, key=lambda found: found.lost, default=None), smallest


def _vocabulary(architecture: Architecture, parameters: int) -> int:
    """The spec's own where its tables stay a small part, else the largest power of two for which they do.

    How wide the prototype will be is guessed from layers that shrink in depth as they do in width.
    """
    graph = resolve(architecture)
    tables = sum(vocab_rows(t.shape, architecture.vocab_size) for t in graph.tensors().values())
    body = count_parameters(graph).total - tables
    share = min(1.0, (1 - _LARGEST_TABLE) * parameters / max(body, 1))
    width = architecture.width * share ** (1 / 3)
    per_word = tables / architecture.vocab_size * width / architecture.width
    most = int(_LARGEST_TABLE * parameters / max(per_word, 1.0))
    if most >= architecture.vocab_size:
        return architecture.vocab_size
    return max(1 << max(most, 1).bit_length() - 1, min(_SMALLEST_VOCAB, architecture.vocab_size))


def vocab_rows(shape: tuple[int, ...], vocab_size: int) -> int:
    """The numbers of a tensor if it has a row for each word, else 0."""
    return prod(shape) if len(shape) == 2 and shape[0] == vocab_size else 0


def _has_experts(architecture: Architecture, divisor: int) -> bool:
    """Whether some mixture has so many experts that dividing them leaves a mixture."""
    mixtures = (getattr(block.ffn, "experts", 0) for block in architecture.blocks.values())
    return any(experts // divisor >= 2 for experts in mixtures)


def _best(
    architecture: Architecture, parameters: int, *, context: int, vocab: int, experts: int, farthest: float
) -> tuple[Found | None, int]:
    """(the best prototype with this vocabulary, the fewest parameters that any had)."""
    graph = resolve(architecture)
    whole = replace(architecture, vocab_size=vocab, claims=[])
    base = Small(
        width=_NARROWEST,
        old_width=architecture.width,
        context=context,
        old_context=architecture.context,
        experts=experts,
    )
    depth, aspect = len(graph.layers), architecture.width / len(graph.layers)
    best: Found | None = None
    smallest = 0
    for candidate in _depths(whole):
        layers = resolve(candidate).layers
        lost_layout = 4 * distortion(graph.layers, layers) + max(0.0, log2(min(depth, _FEW_LAYERS) / len(layers)))
        if best is not None and lost_layout >= best.lost:
            continue
        around = _around(candidate, base, parameters, farthest)
        smallest = min(smallest or around.fewest, around.fewest)
        for width in around.widths:
            lost = lost_layout + abs(log2(width / len(layers) / aspect))
            if best is not None and lost >= best.lost:
                continue
            for trim in _trims(candidate, replace(base, width=width), parameters):
                found = _found(candidate, replace(base, width=width, trim=trim), parameters, lost, farthest)
                if found is not None and (best is None or found.lost < best.lost):
                    best = found
    return best, smallest


def _found(candidate: Architecture, small: Small, parameters: int, lost: float, farthest: float) -> Found | None:
    """A prototype with everything it lost, or None where it is too far off or its parts do not fit together."""
    made = _made(candidate, small)
    total = _total(made)
    missed = abs(log(total / parameters))
    if missed > farthest:
        return None
    try:
        ensure(made)
    except SpecError:
        return None
    lost += 20 * missed + 5 * abs(log(small.trim)) + _lost_heads(candidate, made)
    return Found(architecture=made, small=small, parameters=total, lost=lost)


def _depths(whole: Architecture) -> list[Architecture]:
    """Fewer layers, the fewest first: of many ways the shallow ones and some of the others, evenly spread."""
    ways = list(shallower(whole))[::-1]
    return ways[: _MOST_DEPTHS // 2] + ways[_MOST_DEPTHS // 2 :: max(1, -(-len(ways) // _MOST_DEPTHS))]


class _Around(NamedTuple):
    fewest: int
    """Parameters of the narrowest prototype of that depth."""
    widths: list[int]
    """Widths around the one that meets the parameters, in steps that grow with the width."""


def _around(candidate: Architecture, base: Small, parameters: int, farthest: float) -> _Around:
    def total(eighths: int) -> int:
        return _total(_made(candidate, replace(base, width=8 * eighths)))

    low, high = _NARROWEST // 8, max(base.old_width // 8, _NARROWEST // 8 + 1)
    fewest = total(low)
    if fewest > exp(farthest) * parameters:
        return _Around(fewest, [])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) <= parameters else (low, middle)
    around = low * 8
    step = 8 if around < 192 else 16 if around < 512 else 32 if around < 1024 else 64
    near = {around // step * step + step * offset for offset in (-1, 0, 1, 2)}
    return _Around(fewest, sorted(width for width in near if _NARROWEST <= width <= base.old_width))


def _trims(candidate: Architecture, small: Small, parameters: int) -> list[float]:
    """1, and what feed-forward widths are to be multiplied by so that the parameters are met, where that is little."""
    plain, wider = _made(candidate, small), _made(candidate, replace(small, trim=1.5))
    if _total(wider) == _total(plain):
        return [1.0]
    slope = (_total(wider) - _total(plain)) / 0.5
    wanted = 1 + (parameters - _total(plain)) / slope
    if abs(wanted - 1) > _MOST_TRIM:
        return [1.0]
    return [1.0, wanted]


def _made(candidate: Architecture, small: Small) -> Architecture:
    """The candidate in small; its parts may not fit together."""
    return replace(
        candidate,
        width=small.width,
        context=small.context,
        blocks={name: scaled_block(block, small) for name, block in candidate.blocks.items()},
        embedding=scaled_part(candidate.embedding, small),
    )


def _total(architecture: Architecture) -> int:
    """Parameters, multi-token prediction's apart."""
    graph = resolve(architecture)
    apart = sum(t.count for t in graph.mtp_tensors().values())
    return sum(t.count for t in graph.tensors().values()) - apart


def _lost_heads(before: Architecture, after: Architecture) -> float:
    """Halvings of the width of a head, and groups that are no groups any more, in the block that lost most."""
    lost = 0.0
    for name, block in before.blocks.items():
        old, new = block.mixer, after.blocks[name].mixer
        if old is None or new is None or not hasattr(old, "heads"):
            continue
        first, second = old.heads_and_groups(), new.heads_and_groups()
        if first is not None and second is not None:
            (h0, g0), (h1, g1) = first, second
            lost = max(lost, abs(log2((h0 / g0) / (h1 / g1))) if g0 > 1 else 0.0)
            lost += 0.5 * (g1 == 1 < g0)
    return lost
