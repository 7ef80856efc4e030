"""One layer with every default filled in: its tensors, its cost, its decode state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.expressions import evaluate
from vitruvius.spec.node import Component, Cross, FeedForward, Flops, Mixer, Norm, Scope, StateSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec.costs import Activations, Work
    from vitruvius.spec.model import NormPlace, SublayerOrder


class Stack(Enum):
    """Which stack a layer stands in, and the name of that stack's layers in the built module."""

    MAIN = "layers.{index}"
    ENCODER = "encoder.layers.{index}"
    MTP = "mtp.{index}.layer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer with every default filled in."""

    stack: Stack
    index: int
    """Place in its stack, from 0."""
    name: str
    """Name of its block; of several stacked lines, joined by `/`. Layers of one name differ in nothing but weights."""
    weights: int
    """Index of the first layer with these weights: its own, unless the spec repeats or shares them."""
    scope: Scope
    """What its components know of the architecture around them."""
    mixer: Mixer | None
    cross: Cross | None
    ffn: FeedForward | None
    norm: Norm
    norm_place: NormPlace
    order: SublayerOrder
    residual_scale: float | str | None
    keys_from: int | None = None
    """Index of the earlier layer whose keys and values the mixer reads, when it has none of its own."""
    values_from: int | None = None
    """Index of the earlier layer whose values are mixed into its own."""
    lends: frozenset[Literal["keys", "values"]] = frozenset()
    """What later layers read of it besides its output."""

    @property
    def path(self) -> str:
        """Its name in the built module."""
        return self.stack.value.format(index=self.index)

    @property
    def owns_weights(self) -> bool:
        """Whether this layer's weights appear here first."""
        return self.weights == self.index

    def sublayers(self) -> Iterator[tuple[str, Component]]:
        """(name, component) of what this layer applies, in order."""
        if self.mixer is not None:
            yield "mixer", self.mixer
        if self.cross is not None:
            yield "cross", self.cross
        if self.ffn is not None:
            yield "ffn", self.ffn

    def loans(self) -> Iterator[tuple[Literal["keys", "values"], int]]:
        """What the mixer reads of earlier layers, and their indices."""
        if self.keys_from is not None:
            yield "keys", self.keys_from
        if self.values_from is not None:
            yield "values", self.values_from

    @property
    def branch_scale(self) -> float:
        """What each sublayer's output is multiplied by before it joins the stream."""
        own = 1.0
        if self.residual_scale is not None:
            own = evaluate(self.residual_scale, {"width": self.scope.width, "depth": self.scope.depth})
        return own * self.scope.branch_scale

    def has_norm(self, sublayer: str) -> bool:
        """Whether a norm of its own stands before (or, with `post` and `output`, after) a sublayer."""
        if self.norm_place == "none":
            return False
        first = next(name for name, _ in self.sublayers())
        return self.order != "parallel-one-norm" or sublayer == first

    def tensors(self) -> dict[str, TensorSpec]:
        """Parameter tensors of the layer, norms included."""
        tensors: dict[str, TensorSpec] = {}
        for name, component in self.sublayers():
            if self.has_norm(name):
                tensors |= {f"{name}_norm.{gain}": t for gain, t in self.norm.tensors(self.scope).items()}
            tensors |= {f"{name}.{tensor}": t for tensor, t in component.tensors(self.scope).items()}
            if self.norm_place == "sandwich":
                tensors |= {f"{name}_out_norm.{gain}": t for gain, t in self.norm.tensors(self.scope).items()}
        return tensors

    def buffers(self) -> dict[str, TensorSpec]:
        """What the layer saves with its parameters and is none."""
        named = ((name, component.buffers(self.scope)) for name, component in self.sublayers())
        return {f"{name}.{buffer}": t for name, buffers in named for buffer, t in buffers.items()}

    def flops(self, tokens: int) -> Flops:
        """Forward cost of the layer over one sequence, and a source of the same length."""
        return sum((component.flops(self.scope, tokens) for _, component in self.sublayers()), Flops())

    def activations(self, work: Work) -> Activations:
        """Bytes that training holds because of the layer, norms and the stream that enters it included."""
        from vitruvius.spec.tracing.activity import trace_layer
        from vitruvius.spec.tracing.tape import Tape

        tape = Tape(work, lends=frozenset(self.lends))
        y = trace_layer(tape, self, tape.given("stream", (work.batch, work.tokens, self.scope.width)))
        return tape.replay(y).as_activations(tape.unsure)

    def state(self, capacity: int, source: int) -> dict[str, StateSpec]:
        """Decode state for one sequence of up to `capacity` tokens that reads a source of up to `source`."""
        kept: dict[str, StateSpec] = {}
        if self.mixer is not None and self.keys_from is None:
            kept |= {f"mixer.{name}": spec for name, spec in self.mixer.state_tensors(self.scope, capacity).items()}
        if self.cross is not None:
            kept |= {f"cross.{name}": spec for name, spec in self.cross.state_tensors(self.scope, source).items()}
        return kept
