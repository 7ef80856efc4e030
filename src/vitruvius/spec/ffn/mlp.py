"""Plain and gated multilayer perceptrons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.node import FeedForward, PositiveInt, Scope, TensorSpec, register

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value

Activation = Literal["relu", "gelu", "gelu_tanh", "relu2", "silu"]


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp(FeedForward):
    """down(activation(up(x)))."""

    kind: Literal["mlp"] = "mlp"
    hidden: PositiveInt
    """Width between the two maps."""
    activation: Activation = "gelu"
    """relu, gelu (exact), gelu_tanh (GPT-2's approximation), relu2 (squared ReLU, Primer) or silu."""
    bias: bool = False
    """Whether both maps add a learned vector."""

    @property
    def hidden_width(self) -> int:
        """Width of the inner activation."""
        return self.hidden

    def details(self, scope: Scope) -> Iterator[str]:
        """Its widths, and whether it has biases."""
        yield f"{scope.width:,} → {self.hidden:,} → {scope.width:,}"
        if self.bias:
            yield "with biases"

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """`up` and `down`, with biases when asked for."""
        tensors = {"up.weight": TensorSpec(shape=(self.hidden, scope.width))}
        if self.bias:
            tensors["up.bias"] = TensorSpec(shape=(self.hidden,), role="bias")
        tensors["down.weight"] = TensorSpec(shape=(scope.width, self.hidden), role="output")
        if self.bias:
            tensors["down.bias"] = TensorSpec(shape=(scope.width,), role="bias")
        return tensors

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Up, the activation, down: what the activation keeps is its input, or of ReLUs its output."""
        extra = (self.hidden, scope.width) if self.bias else (0, 0)
        (h,) = tape.linear(x, [self.hidden], biases=extra[0])
        if self.activation in {"relu", "relu2"}:
            raised = tape.like(h)
            tape.op("relu", reads=[h], makes=[raised], saves=[raised])
            h = (
                raised
                if self.activation == "relu"
                else tape.pointwise("square", raised, saves=[raised], backward=2 * h.size)
            )
        else:
            h = tape.pointwise(self.activation, h, saves=[h])
        (y,) = tape.linear(h, [scope.width], biases=extra[1])
        return y


class Gated(FeedForward):
    """down(activation(gate(x)) * up(x)): what SwiGLU and GeGLU share (Shazeer, 2020)."""

    __slots__ = ()

    hidden: int

    @property
    def activation(self) -> Literal["silu", "gelu", "gelu_tanh"]:
        """Applied to the gate."""
        raise NotImplementedError

    @property
    def hidden_width(self) -> int:
        """Width of the inner activation."""
        return self.hidden

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Gate and up from one input, their product with the activated gate kept beside both, down."""
        with tape.call():
            gate, up = tape.linear(x, [self.hidden, self.hidden])
            tape.hold(gate, up)
            activated = tape.fresh(gate.shape, gradient=False)
            h = tape.like(gate)
            tape.op("gated", reads=[gate, up], makes=[activated, h], saves=[gate, up, activated])
            (y,) = tape.linear(h, [scope.width])
            return y

    def details(self, scope: Scope) -> Iterator[str]:
        """Its widths."""
        yield f"{scope.width:,} → {self.hidden:,} → {scope.width:,}"

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """`gate`, `up` and `down`."""
        inward = TensorSpec(shape=(self.hidden, scope.width))
        return {
            "gate.weight": inward,
            "up.weight": inward,
            "down.weight": TensorSpec(shape=(scope.width, self.hidden), role="output"),
        }


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class SwiGLU(Gated):
    """A gated MLP with SiLU on the gate (Shazeer, 2020; Llama)."""

    kind: Literal["swiglu"] = "swiglu"
    hidden: PositiveInt
    """Width between the maps."""

    @property
    def activation(self) -> Literal["silu"]:
        """Applied to the gate."""
        return "silu"


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class GeGLU(Gated):
    """A gated MLP with GELU on the gate (Shazeer, 2020; Gemma)."""

    kind: Literal["geglu"] = "geglu"
    hidden: PositiveInt
    """Width between the maps."""
    approximate: Literal["none", "tanh"] = "tanh"
    """Exact GELU or the tanh approximation, which Gemma uses."""

    @property
    def activation(self) -> Literal["gelu", "gelu_tanh"]:
        """Applied to the gate."""
        return "gelu" if self.approximate == "none" else "gelu_tanh"
