"""The resolved layers: what the builder, the counts, the cache, the FLOPs and the picture all walk.

    Architecture --resolve--> Graph: embedding, encoder, layers (every default filled in), final norm, head

Parameter names here are the names of the built module's parameters, so that a count can be held against the module
tensor by tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vitruvius.spec.layer import Layer
from vitruvius.spec.node import Flops, Norm, Scope, StateSpec, TensorSpec
from vitruvius.spec.stack import Stack, line_finding, unroll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vitruvius.spec.model import Architecture

__all__ = ["Graph", "Layer", "line_finding", "resolve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An architecture resolved into its layers."""

    architecture: Architecture
    scope: Scope
    layers: tuple[Layer, ...]
    """The stack under the head."""
    encoder: tuple[Layer, ...] = ()
    """The stack that reads the source, of an encoder-decoder."""
    mtp: tuple[Layer, ...] = ()
    """The blocks of multi-token prediction, which take part in training alone."""

    @property
    def final_norm(self) -> Norm | None:
        """Applied before the head; None after a stack of post-norm blocks, which end normalised, or without norms."""
        return _last_norm(self.layers, self.architecture)

    @property
    def encoder_norm(self) -> Norm | None:
        """Applied to the encoder's output; None as for `final_norm`, and without an encoder."""
        return _last_norm(self.encoder, self.architecture) if self.encoder else None

    @property
    def is_causal(self) -> bool:
        """Whether no layer under the head sees later tokens, so that decoding can go token by token."""
        patterns = (layer.mixer.pattern() for layer in self.layers if layer.mixer is not None)
        alone = all(layer.ffn is None or layer.ffn.is_causal for layer in self.layers)
        return alone and all(pattern is None or pattern.is_causal for pattern in patterns)

    @property
    def opens_prefix(self) -> bool:
        """Whether some layer reads a run-time prefix in both directions, so that a prompt must enter at once."""
        return any(layer.mixer is not None and layer.mixer.opens_prefix for layer in self.layers)

    def every_layer(self) -> Iterator[Layer]:
        """The layers of all stacks: encoder, those under the head, multi-token prediction."""
        yield from self.encoder
        yield from self.layers
        yield from self.mtp

    def tensors(self) -> dict[str, TensorSpec]:
        """Every parameter tensor by its name in the built module; weights that layers share appear once."""
        scope, architecture = self.scope, self.architecture
        tensors = {f"embedding.{name}": t for name, t in architecture.embedding.tensors(scope).items()}
        tensors |= self._of_layers(self.encoder)
        if self.encoder_norm is not None:
            tensors |= {f"encoder.final_norm.{name}": t for name, t in self.encoder_norm.tensors(scope).items()}
        tensors |= self._of_layers(self.layers)
        tensors |= {f"streams.{name}": t for name, t in architecture.streams.tensors(scope).items()}
        if self.final_norm is not None:
            tensors |= {f"final_norm.{name}": t for name, t in self.final_norm.tensors(scope).items()}
        tensors |= {f"head.{name}": t for name, t in architecture.head.tensors(scope).items()}
        return tensors | self.mtp_tensors()

    def buffers(self) -> dict[str, TensorSpec]:
        """What is saved with the parameters and is none, by its name in the built module; see `Component.buffers`."""
        owners = [layer for layer in self.every_layer() if layer.owns_weights]
        return {f"{layer.path}.{name}": t for layer in owners for name, t in layer.buffers().items()}

    def mtp_tensors(self) -> dict[str, TensorSpec]:
        """Those of multi-token prediction, which are counted apart."""
        tensors = self._of_layers(self.mtp)
        for layer in self.mtp:
            at, scope = layer.path.removesuffix(".layer"), self.scope
            tensors |= {f"{at}.join.weight": TensorSpec(shape=(scope.width, 2 * scope.width))}
            for name in ("token_norm", "stream_norm", "final_norm"):
                norm = self.architecture.norm
                tensors |= {f"{at}.{name}.{gain}": t for gain, t in norm.tensors(scope).items()}
        return tensors

    def _of_layers(self, layers: tuple[Layer, ...]) -> dict[str, TensorSpec]:
        tensors: dict[str, TensorSpec] = {}
        known: dict[str, dict[str, TensorSpec]] = {}
        for layer in layers:
            if layer.owns_weights:
                own = known.get(layer.name) or known.setdefault(layer.name, layer.tensors())
                tensors |= {f"{layer.path}.{name}": t for name, t in own.items()}
        return tensors

    def flops(self, tokens: int) -> Flops:
        """Cost of a forward pass over one sequence of `tokens` tokens, logits of every position included.

        Of an encoder-decoder: over a source and a target of `tokens` tokens each. Multi-token prediction is not in it.
        """
        costs = _by_name((*self.encoder, *self.layers), lambda layer: layer.flops(tokens))
        embedding, head = self.architecture.embedding.flops(self.scope, tokens), self.architecture.head
        texts = [embedding, embedding] if self.encoder else [embedding]
        return sum((*costs, *texts), head.flops(self.scope, tokens))

    def mtp_flops(self, tokens: int) -> Flops:
        """What multi-token prediction adds to a forward pass while training: joins, blocks and logits."""
        joins = 4 * self.scope.width**2 * tokens * len(self.mtp)
        total = Flops(useful=joins, dense=joins)
        for layer in self.mtp:
            total += layer.flops(tokens) + self.architecture.head.flops(self.scope, tokens)
        return total

    def states(self, capacity: int) -> list[dict[str, StateSpec]]:
        """Decode state of `every_layer` for one sequence of up to `capacity` tokens.

        Encoders and multi-token prediction keep none, nor does a stack that sees later tokens. Of an encoder-decoder
        the source is as long as the target.
        """
        nothing: list[dict[str, StateSpec]] = [{} for _ in self.encoder]
        if not self.is_causal:
            return nothing + [{} for _ in (*self.layers, *self.mtp)]
        kept = _by_name(self.layers, lambda layer: layer.state(capacity, capacity))
        return nothing + kept + [{} for _ in self.mtp]


Cost = TypeVar("Cost")


def _by_name(layers: tuple[Layer, ...], cost: Callable[[Layer], Cost]) -> list[Cost]:
    """The cost of each layer, computed once for layers that cannot differ in it."""
    known: dict[object, Cost] = {}
    found: list[Cost] = []
    for layer in layers:
        key = (layer.stack, layer.name, layer.scope.readers)
        if key not in known:
            known[key] = cost(layer)
        found.append(known[key])
    return found


def _last_norm(layers: tuple[Layer, ...], architecture: Architecture) -> Norm | None:
    return None if layers[-1].norm_place in {"post", "none"} else architecture.norm


def resolve(architecture: Architecture) -> Graph:
    """Fill in every default and unroll the layers.

    Raises SpecError when the layer lines cannot be read or stacked blocks set the same field.
    """
    main = unroll(architecture, Stack.MAIN, architecture.layers)
    encoder: tuple[Layer, ...] = ()
    if architecture.encoder is not None:
        encoder = unroll(architecture, Stack.ENCODER, architecture.encoder.layers)
    mtp: tuple[Layer, ...] = ()
    if architecture.mtp is not None:
        mtp = unroll(architecture, Stack.MTP, f"{architecture.mtp.block}*{architecture.mtp.depth}")
    return Graph(architecture=architecture, scope=main[0].scope, layers=main, encoder=encoder, mtp=mtp)
