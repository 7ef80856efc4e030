"""Routing by the token itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.node import NonNegativeInt, Router, register

if TYPE_CHECKING:
    from vitruvius.spec.tracing.routing import Routed
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class HashRouter(Router):
    """The experts of a token are drawn once and for all from its id (Roller et al., 2021)."""

    kind: Literal["hash"] = "hash"
    salt: NonNegativeInt = 0
    """Chooses among random assignments; mixtures with equal salts send a token to experts of equal numbers."""

    def trace_routed(self, tape: Tape, x: Value, *, experts: int, top_k: int) -> Routed:
        """Ids and constant weights; of the draws nothing is left."""
        from vitruvius.spec.tracing import routing

        chosen = tape.fresh((x.shape[0], top_k), item=8, gradient=False)
        weights = tape.fresh(chosen.shape, item=tape.work.wide_bytes, gradient=False)
        tape.op("draws", makes=[chosen], forward=4 * 8 * x.shape[0] * experts, gives=[])
        tape.op("weights", makes=[weights], gives=[])
        return routing.Routed(chosen=chosen, weights=weights)

    def sum_of_weights(self, top_k: int) -> float | None:
        """One: each of the chosen weighs 1 / top_k."""
        del top_k
        return 1.0
