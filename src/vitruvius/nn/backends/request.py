"""What attention is asked for, besides queries, keys and values.

A score between query i and key j is built in this order, and one softmax runs over the keys that i may see:

    softcap(q_i . k_j * scale) + bias + table + decay_i - decay_j

A sink then takes its share: with log-sum-exp z_i of the scores, the output is multiplied by sigmoid(z_i - sink).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.place import Place
    from vitruvius.patterns import Pattern

BiasHook = Callable[["Tensor", "Tensor", int], "Tensor"]
"""(query positions, key positions, heads) -> a term for each score, [..., H, T, S]; a constant."""

IndexHook = Callable[["Tensor", "Tensor"], "Tensor"]
"""(query positions [..., T], key positions [..., S]) -> rows of a table, int64 [..., T, S]; of distances only."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableBias:
    """A learned term per head and class of distance, as in T5 (Raffel et al., 2020)."""

    weight_RH: Tensor
    """The table, [rows, heads]; gradients reach it."""
    index: IndexHook
    """Which row a pair of positions reads. Positions are never negative."""

    def dense(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """The term for each score: [H, T, S] from [T] and [S], [B, H, T, S] when rows differ."""
        return self.weight_RH[self.index(q_positions, k_positions)].movedim(-1, -3)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One layer's attention in one call."""

    pattern: Pattern
    """Who attends to whom, on positions within a document."""
    scale: float
    """Multiplies the products of queries and keys."""
    place: Place
    """Positions and documents of the tokens."""
    softcap: float | None = None
    """Scores become cap * tanh(score / cap), before bias and mask (Gemma 2)."""
    bias: BiasHook | None = None
    """The position's constant bias on scores; it may look at distances only."""
    table: TableBias | None = None
    """The position's learned bias on scores."""
    decay: tuple[Tensor, Tensor] | None = None
    """Cumulative log-decay of the queries [B, H, T] and of the keys [B, H, S], fp32 or wider, differentiable: what lies
    between two positions weakens their score by the difference (forgetting attention, Lin et al., 2025). Against keys
    in a cache the second is not read: the readable's tensor `decay` takes its place."""
    sink_H: Tensor | None = None
    """A logit per head that joins the softmax's denominator and gives nothing, differentiable (attention sinks; 0 is
    softmax-off-by-one)."""
    prefix_B: Tensor | None = None
    """`place.prefix`, from a layer that opens it: the first prefix[b] positions of each document of row b see each
    other in both directions, besides what the pattern allows."""

    @property
    def terms(self) -> frozenset[str]:
        """Names of what a backend must know besides the pattern."""
        found = {
            "softcap": self.softcap,
            "bias": self.bias,
            "table": self.table,
            "decay": self.decay,
            "sink": self.sink_H,
            "prefix": self.prefix_B,
            "documents": self.place.documents,
        }
        return frozenset(name for name, value in found.items() if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What a call has asked the backends for; see `Signals.requests`."""

    request: Request
    widths: tuple[int, int]
    """Of queries and keys, and of values."""
    stored: bool
    """Whether the keys are given apart from the queries, as those in a cache and of another stack are."""
