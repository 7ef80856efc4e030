"""What stands on top of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.node import Flops, Head, PositiveFloat, Scope, TensorSpec, register
from vitruvius.spec.norms import LayerNorm
from vitruvius.spec.schedulable import Schedulable, marks
from vitruvius.spec.tracing.losing import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.spec.tracing.losing import Loss
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelHead(Head):
    """Logits over the vocabulary for the next token."""

    causal = True
    schedulable = marks(softcap=Schedulable(bears_on="cost", why="a cap on the logits for the steps that need one"))

    kind: Literal["lm"] = "lm"
    tied: bool = False
    """Whether the map is the token embedding itself, counted once."""
    softcap: PositiveFloat | None = None
    """Logits become cap * tanh(logits / cap), as in Gemma 2."""

    def trace_loss(self, tape: Tape, h: Value, scope: Scope, *, loss: Loss) -> Value:
        """The map and its cross-entropy."""
        h = h if scope.logit_scale == 1.0 else tape.scaled(h)
        weights = scope.vocab_size * scope.width * h.item
        return cross_entropy(tape, h, scope.vocab_size, loss=loss, softcap=self.softcap is not None, weights=weights)

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

    def trace_loss(self, tape: Tape, h: Value, scope: Scope, *, loss: Loss) -> Value:
        """BERT's transform, the map and its cross-entropy; a bias is one more channel of the map, which is copied."""
        vocabulary, width = scope.vocab_size, scope.width
        if self.transform == "gelu":
            (h,) = tape.linear(h, [width], biases=width)
            h = LayerNorm().trace_normed(tape, tape.pointwise("gelu", h, saves=[h]))
        h = h if scope.logit_scale == 1.0 else tape.scaled(h)
        weights = vocabulary * width * h.item
        if not self.bias or loss == "whole":
            weights += vocabulary * h.item if self.bias else 0
            return cross_entropy(tape, h, vocabulary, loss=loss, softcap=False, weights=weights)
        with tape.call():
            joined = tape.fresh((*h.shape[:-1], width + 1))
            table = tape.fresh((vocabulary, width + 1))
            tape.op("bias", reads=[h], makes=[joined], forward=h.size // width)
            tape.op("bias", makes=[table], gives=[], weights=weights + vocabulary * h.item)
            tape.hold(joined, table)
            return cross_entropy(tape, joined, vocabulary, loss=loss, softcap=False, weights=0, table=table)

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
