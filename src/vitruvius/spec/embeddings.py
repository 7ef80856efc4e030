"""From token ids to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.spec.node import Flops, Node, Norm, Position, Scope, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.spec.tracing.tape import Tape, Value


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

    def trace(self, tape: Tape, scope: Scope, *, ids: str = "tokens") -> Value:
        """The rows of ids of that name, scaled, placed and normalised, [B, T, D]; keeps the ids."""
        work, width = tape.work, scope.width
        table, rows = scope.vocab_size * width, work.positions * width
        tokens = tape.constant(ids, 8 * work.positions)
        x = tape.fresh((work.batch, work.tokens, width))
        # Rows of the gradient are summed in at least fp32, then rounded.
        wide = (table + rows) * work.wide_bytes if work.value_bytes < work.wide_bytes else 0
        weights = table * work.value_bytes
        tape.op("embedding", reads=[tokens], makes=[x], saves=[tokens], gives=[], weights=weights, backward=wide)
        x = x if self.scale is None else tape.scaled(x)
        x = x if self.position is None else self.position.trace_embedded(tape, x, scope)
        return x if self.norm is None else self.norm.trace_normed(tape, x)

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """The linear maps of the position; looking up a row costs none."""
        return Flops() if self.position is None else self.position.flops(scope, tokens)
