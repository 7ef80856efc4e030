"""What the layers promise together: which embeddings the output at a position may depend on, and must.

Patterns compose: where layer 2 lets query t read key j, and layer 1 let j read s, the output at t may depend on s. The
composition is exact and boolean, over encoder, cross-attention and keys lent by other layers, on a length that fits
into memory; `reach` bounds it at full size by adding up windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vitruvius.patterns import FOREVER
from vitruvius.spec.mixers.recurrent import Recurrent
from vitruvius.spec.mixers.seeing import Seeing
from vitruvius.spec.mixers.short_conv import ShortConvolution
from vitruvius.spec.positions.cope import ContextualPosition
from vitruvius.spec.positions.cumulative_rope import CumulativeRotaryPosition
from vitruvius.spec.positions.fox import ForgettingPosition
from vitruvius.spec.positions.path import PathPosition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vitruvius.patterns import Pattern
    from vitruvius.spec import Graph, Layer
    from vitruvius.spec.node import Mixer, Position

_OURS = "vitruvius."
_BY_DISTANCE = {"rope", "alibi", "t5"}
"""Positions inside attention that know where tokens stand and nothing of what they are."""
_BETWEEN = (ForgettingPosition, CumulativeRotaryPosition, PathPosition)
"""Positions by which a score depends on what stands between query and key, besides the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What some queries depend on, by row: at most `may`, at least `must`."""

    may_QT: Tensor
    must_QT: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """The promise about the text, and about the source where there is an encoder."""

    text: Promise
    source: Promise | None
    sums: bool = False
    """Whether some layer subtracts sums over everything before, whose gradients cancel up to rounding."""


def promised(graph: Graph, length: int, queries: Sequence[int]) -> Promises:
    """Which embeddings of a text (and of a source as long) the outputs at `queries` may and must depend on."""
    may = _composed(graph, length, queries, "may")
    must = _composed(graph, length, queries, "must")
    source = Promise(may_QT=may[1], must_QT=must[1]) if graph.encoder else None
    mixers = [layer.mixer for layer in (*graph.encoder, *graph.layers) if isinstance(layer.mixer, Seeing)]
    sums = any(taps_of(mixer.position) is not None for mixer in mixers)
    return Promises(text=Promise(may_QT=may[0], must_QT=must[0]), source=source, sums=sums)


def _composed(graph: Graph, length: int, queries: Sequence[int], which: str) -> tuple[Tensor, Tensor]:
    """Rows of the composition over the text and over the source, walked from the last layer to the first."""
    rows_QT = torch.zeros(len(queries), length, dtype=torch.bool)
    rows_QT[torch.arange(len(queries)), torch.tensor(list(queries))] = True
    source_QS = torch.zeros_like(rows_QT)
    borrowed: dict[int, Tensor] = {}
    for layer in reversed(graph.layers):
        if layer.cross is not None:
            source_QS = source_QS | rows_QT.any(dim=1, keepdim=True)
        rows_QT = _through(layer, rows_QT, which, borrowed)
    for layer in reversed(graph.encoder):
        source_QS = _through(layer, source_QS, which, {})
    return rows_QT, source_QS


def _through(layer: Layer, rows_QT: Tensor, which: str, borrowed: dict[int, Tensor]) -> Tensor:
    """What the layer's input must be known of for its output, given the rows that its output is read at.

    `borrowed` collects, by layer, the rows at which later ones read the keys that it made of its own input.
    """
    if which == "may" and layer.ffn is not None and not layer.ffn.is_causal:
        rows_QT = rows_QT | rows_QT.any(dim=1, keepdim=True)
    if layer.mixer is not None:
        read_QT = _times(rows_QT, _sight(layer.mixer, rows_QT.shape[1], which))
        if layer.keys_from is None:
            rows_QT = rows_QT | read_QT
        else:
            borrowed[layer.keys_from] = borrowed.get(layer.keys_from, torch.zeros_like(read_QT)) | read_QT
    return rows_QT | borrowed.pop(layer.index, torch.zeros_like(rows_QT))


def _times(rows_QT: Tensor, sight_TS: Tensor) -> Tensor:
    return torch.matmul(rows_QT.float(), sight_TS.float()) > 0


def _sight(mixer: Mixer, length: int, which: str) -> Tensor:
    """[T, S]: which inputs the mixer's output at each position may, or must, depend on."""
    place = torch.arange(length)
    q, k = place.unsqueeze(1), place
    pattern = mixer.pattern()
    if pattern is None:
        distance = q - k
        if isinstance(mixer, ShortConvolution):
            return (distance >= 0) & (distance < mixer.conv)
        known = isinstance(mixer, Recurrent) and type(mixer).__module__.startswith(_OURS)
        return distance >= 0 if known or which == "may" else distance == 0
    visible_TS = pattern.allows(q, k)
    return visible_TS if which == "must" else visible_TS | _between(mixer, visible_TS)


def _between(mixer: Mixer, visible_TS: Tensor) -> Tensor:
    """What the position makes a query depend on besides the keys that it sees."""
    position = mixer.position if isinstance(mixer, Seeing) else None
    taps = taps_of(position)
    if taps is None:
        return torch.zeros_like(visible_TS)
    place = torch.arange(visible_TS.shape[0])
    q, k = place.unsqueeze(1), place
    first_T1 = torch.where(visible_TS, k, q).amin(dim=1, keepdim=True)
    last_T1 = torch.where(visible_TS, k, q).amax(dim=1, keepdim=True)
    return (k >= first_T1 - taps) & (k <= last_T1)


def taps_of(position: Position | None) -> int | None:
    """How many tokens before the first visible one a position reads; None when it reads nothing in between either.

    A position of somebody else's that is no distance alone may read everything before.
    """
    if position is None or position.kind in _BY_DISTANCE or isinstance(position, ContextualPosition):
        return None  # CoPE counts the gates of visible keys alone
    if isinstance(position, PathPosition):
        return position.kernel - 1
    return 0 if isinstance(position, _BETWEEN) else FOREVER


# ----------------------------------------------------------------------------------------------------------------------
# At full size


def receptive_field(graph: Graph) -> int:
    """The most positions of a text that its last output can depend on, itself included, within the context.

    Of n layers that see W tokens back each: n (W - 1) + 1.
    """
    context = graph.scope.context
    before: list[int] = []
    far = 0
    for layer in graph.layers:
        before.append(far)
        own = _reach(layer, context)
        far = max(far, own + (far if layer.keys_from is None else before[layer.keys_from]))
    return min(context, far + 1)


def _reach(layer: Layer, context: int) -> int:
    """How far back a layer's output at a position depends on its input."""
    if layer.ffn is not None and not layer.ffn.is_causal:
        return context
    if layer.mixer is None:
        return 0
    pattern = layer.mixer.pattern()
    if pattern is None:
        return layer.mixer.conv - 1 if isinstance(layer.mixer, ShortConvolution) else context
    taps = taps_of(layer.mixer.position) if isinstance(layer.mixer, Seeing) else None
    return min(context, _farthest(pattern, context) + min(taps or 0, context))


def _farthest(pattern: Pattern, context: int) -> int:
    """The largest distance between a query and a key that it sees; the context where no bound is known."""
    return max((min(clause.distance_high, context) for clause in pattern.clauses), default=0)
