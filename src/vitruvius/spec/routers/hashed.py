"""Routing by the token itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitruvius.spec.node import NonNegativeInt, Router, register


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class HashRouter(Router):
    """The experts of a token are drawn once and for all from its id (Roller et al., 2021)."""

    kind: Literal["hash"] = "hash"
    salt: NonNegativeInt = 0
    """Chooses among random assignments; mixtures with equal salts send a token to experts of equal numbers."""

    def sum_of_weights(self, top_k: int) -> float | None:
        """One: each of the chosen weighs 1 / top_k."""
        del top_k
        return 1.0
