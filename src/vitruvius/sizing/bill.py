"""The bill of an architecture: parameters, memory and FLOPs, exact, from the spec alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.errors import UsageError
from vitruvius.sizing.claims import Verdict, judge
from vitruvius.sizing.memory import bytes_per_value, kv_cache_bytes, state_bytes, state_tensor_bytes, weights_bytes
from vitruvius.sizing.parameters import Parameters, count_parameters
from vitruvius.spec.rules import ensure

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Architecture

MODES = ("inference", "train")
SCHEMA = "vitruvius.size/1"
_LONGEST = 2**40 - 1
_LARGEST_BATCH = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBill:
    """What the layers of one block cost."""

    name: str
    """Block name."""
    layers: int
    """How many layers use it."""
    parameters: int
    """Of one such layer."""
    active: int
    """Of one such layer, per token."""
    kv_cache_bytes: int
    """Of one such layer; 0 while training."""
    state_bytes: int
    """Of one such layer; 0 while training."""
    useful_flops: int
    """Of one such layer, forward over the whole context, one sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What an architecture costs at a context, batch and number format."""

    name: str
    context: int
    batch: int
    dtype: str
    mode: str
    parameters: Parameters
    weights_bytes: int
    kv_cache_bytes: int
    """Keys and values for `batch` sequences of `context` tokens; 0 while training."""
    state_bytes: int
    """Recurrent state, one size however long the sequences; 0 while training."""
    forward_flops: int
    """Useful FLOPs of a forward pass over one sequence of `context` tokens; in training with multi-token prediction."""
    dense_flops: int
    """The same with every query-key pair counted."""
    flops_error: int
    """How far `forward_flops` may be off: above 0 only for own patterns too irregular to be counted."""
    layers: tuple[LayerBill, ...]
    claims: tuple[Verdict, ...]

    @property
    def forward_flops_per_token(self) -> float:
        """Useful FLOPs of one token, averaged over the context."""
        return self.forward_flops / self.context

    @property
    def train_flops_per_token(self) -> float:
        """Forward and backward; the backward pass costs twice the forward."""
        return 3 * self.forward_flops_per_token

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable contract `vitruvius.size/1`; what is not computed here is None."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "context": self.context,
            "batch": self.batch,
            "dtype": self.dtype,
            "mode": self.mode,
            "parameters": asdict(self.parameters),
            "memory": {
                "weights_bytes": self.weights_bytes,
                "kv_cache_bytes": self.kv_cache_bytes,
                "state_bytes": self.state_bytes,
                "activations_bytes": None,
                "peak_bytes": None,
            },
            "flops": {
                "forward_per_token": self.forward_flops_per_token,
                "train_per_token": self.train_flops_per_token,
                "dense_forward_per_token": self.dense_flops / self.context,
                "forward_per_token_error": self.flops_error / self.context,
            },
            "fits": None,
            "decode": {"tokens_per_second_bound": None},
            "on": [],
            "layers": [asdict(layer) for layer in self.layers],
            "claims": [asdict(claim) for claim in self.claims],
        }


def size(
    architecture: Architecture,
    *,
    context: int | None = None,
    batch: int = 1,
    dtype: str = "bf16",
    mode: str = "inference",
) -> Bill:
    """The bill of an architecture; `context` in tokens, the architecture's own when not given.

    Raises SpecError when the architecture does not fit together, UsageError for numbers out of range.
    """
    graph = ensure(architecture)
    architecture = graph.architecture
    tokens = architecture.context if context is None else context
    _check(tokens, batch, dtype, mode)
    _check_positions(graph, tokens)
    cost = graph.flops(tokens)
    if mode == "train":
        cost += graph.mtp_flops(tokens)
    return Bill(
        name=architecture.name,
        context=tokens,
        batch=batch,
        dtype=dtype,
        mode=mode,
        parameters=count_parameters(graph),
        weights_bytes=weights_bytes(graph, dtype, mode),
        kv_cache_bytes=0 if mode == "train" else kv_cache_bytes(graph, tokens, batch, dtype),
        state_bytes=0 if mode == "train" else state_bytes(graph, tokens, batch, dtype),
        forward_flops=cost.useful,
        dense_flops=cost.dense,
        flops_error=cost.unsure,
        layers=_by_block(graph, tokens, batch if mode == "inference" else 0, dtype),
        claims=tuple(judge(claim, graph) for claim in architecture.claims),
    )


def _check(tokens: int, batch: int, dtype: str, mode: str) -> None:
    for name, value, most in (("context", tokens, _LONGEST), ("batch", batch, _LARGEST_BATCH)):
        if type(value) is not int or not 1 <= value <= most:
            raise UsageError(f"{name}={value} is out of range", fix=f"use a whole number from 1 to {most:,}")
    bytes_per_value(dtype)
    if mode not in MODES:
        raise UsageError(f"there is no mode {mode!r}", fix=f"use one of {', '.join(MODES)}")


def _check_positions(graph: Graph, tokens: int) -> None:
    position = graph.architecture.embedding.position
    longest = None if position is None else position.longest_sequence(graph.scope)
    if longest is not None and tokens > longest:
        raise UsageError(
            f"{graph.architecture.name} has {longest:,} learned positions, and {tokens:,} tokens are asked for",
            where="embedding.position",
            fix=f"use a context of at most {longest:,}, or raise embedding.position.size",
        )


def _by_block(graph: Graph, tokens: int, batch: int, dtype: str) -> tuple[LayerBill, ...]:
    layers = [*graph.encoder, *graph.layers]
    states = graph.states(tokens)[: len(layers)]
    # Layers of one block differ in what they keep where others read the keys of some of them.
    counts = Counter((layer.name, layer.scope.readers) for layer in layers)
    rows: dict[object, LayerBill] = {}
    for layer, state in zip(layers, states, strict=True):
        key = (layer.name, layer.scope.readers)
        if key in rows:
            continue
        tensors = layer.tensors().values()
        kept = {
            role: batch * sum(state_tensor_bytes(spec, dtype) for spec in state.values() if spec.role == role)
            for role in ("keys", "state")
        }
        rows[key] = LayerBill(
            name=layer.name,
            layers=counts[key],
            parameters=sum(t.count for t in tensors),
            active=sum(t.active for t in tensors),
            kv_cache_bytes=kept["keys"],
            state_bytes=kept["state"],
            useful_flops=layer.flops(tokens).useful,
        )
    return tuple(rows.values())
