"""From token ids to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.spec.node import Flops, Node, Norm, Position, Scope, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Node):
    """A row per token, optionally scaled, placed and normalised."""

    scale: float | str | None = None
    """Multiplies the rows: a number or an expression such as `sqrt(width)`."""
    position: Position | None = None
    """Learned or sinusoidal positions, added to the rows."""
    norm: Norm | None = None
    """Applied after the positions."""

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The token table, then the tensors of position and norm under their names."""
        tensors = {"tokens.weight": TensorSpec(shape=(scope.vocab_size, scope.width), role="table")}
        if self.position is not None:
            tensors |= {f"position.{name}": tensor for name, tensor in self.position.tensors(scope).items()}
        if self.norm is not None:
            tensors |= {f"norm.{name}": tensor for name, tensor in self.norm.tensors(scope).items()}
        return tensors

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """The linear maps of the position; looking up a row costs none."""
        return Flops() if self.position is None else self.position.flops(scope, tokens)
