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


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLanguageModelHead(Head):
    """Logits over the vocabulary for the token that stands there, for encoders (Devlin et al., 2019)."""

    causal = False

    kind: Literal["mlm"] = "mlm"
    tied: bool = True
    """Whether the map is the token embedding itself, counted once."""
    transform: Literal["none", "gelu"] = "none"
    """`gelu`: a square map, a GELU and a layer norm stand before the map, as in BERT."""
    bias: bool = False
    """Whether each token has a learned bias on its logit, as in BERT."""

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The transform, the unembedding unless it is the embedding, and the bias."""
        tensors: dict[str, TensorSpec] = {}
        if self.transform == "gelu":
            tensors["dense.weight"] = TensorSpec(shape=(scope.width, scope.width))
            tensors["dense.bias"] = TensorSpec(shape=(scope.width,), role="bias")
            tensors["norm.weight"] = TensorSpec(shape=(scope.width,), role="gain")
            tensors["norm.bias"] = TensorSpec(shape=(scope.width,), role="bias")
        if not self.tied:
            tensors["weight"] = TensorSpec(shape=(scope.vocab_size, scope.width))
        if self.bias:
            tensors["bias"] = TensorSpec(shape=(scope.vocab_size,), role="bias")
        return tensors

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """One map from width to vocabulary, tied or not, and the transform's."""
        square = scope.width**2 if self.transform == "gelu" else 0
        cost = 2 * (scope.vocab_size * scope.width + square) * tokens
        return Flops(useful=cost, dense=cost)
