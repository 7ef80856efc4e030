"""What stands on top of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.node import Flops, Head, PositiveFloat, Scope, TensorSpec, register

if TYPE_CHECKING:
    from collections.abc import Mapping


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelHead(Head):
    """Logits over the vocabulary for the next token."""

    causal = True

    kind: Literal["lm"] = "lm"
    tied: bool = False
    """Whether the map is the token embedding itself, counted once."""
    softcap: PositiveFloat | None = None
    """Logits become cap * tanh(logits / cap), as in Gemma 2."""

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The unembedding, unless it is the embedding."""
        return {} if self.tied else {"weight": TensorSpec(shape=(scope.vocab_size, scope.width))}

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """One map from width to vocabulary, tied or not."""
        cost = 2 * scope.vocab_size * scope.width * tokens
        return Flops(useful=cost, dense=cost)
