"""Bytes that a model takes at work: weights, decode state, activations, gradients, optimiser states.

Every number but activations is exact, tensor by tensor. `peak` is what the allocator holds at its highest moment;
`margin` is what fragmentation may add to it, stated apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vitruvius.sizing.adapters import MODES as ADAPTED
from vitruvius.sizing.adapters import adapter_counts
from vitruvius.sizing.formats import (
    BYTES_PER_VALUE,
    bytes_per_value,
    is_quantisable,
    state_tensor_bytes,
    weight_format,
)
from vitruvius.sizing.fragmentation import margin_of
from vitruvius.sizing.steps import forward_pass, training_step
from vitruvius.sizing.workload import Adapters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.costs import TensorSpec
    from vitruvius.spec.graph import Graph

__all__ = [
    "BYTES_PER_VALUE",
    "Memory",
    "bytes_per_value",
    "kv_cache_bytes",
    "memory_of",
    "state_bytes",
    "state_tensor_bytes",
    "stored_tensors",
    "weights_bytes",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a workload takes, in bytes."""

    weights: int
    """As they are stored, quantised or not, multi-token prediction's while training."""
    buffers: int = 0
    """What is saved beside the parameters, in fp32: balancing biases of routers."""
    kv_cache: int = 0
    """Keys and values of all sequences; 0 while training."""
    state: int = 0
    """Decode state of one size, of all sequences; 0 while training."""
    activations: int = 0
    """The most that exists besides at any moment of a forward pass, or of a step."""
    gradients: int = 0
    optimizer: int = 0
    """Masters and moments."""
    adapters: int = 0
    """Weights of low-rank adapters; their gradients and states are among the others."""
    margin: int = 0
    """What fragmentation may add; in `total` and not in `peak`."""
    unsure: int = 0
    """How far `activations` may be off for kinds without an account of their own."""

    @property
    def peak(self) -> int:
        """At the highest moment, as the allocator counts it."""
        fixed = self.weights + self.buffers + self.kv_cache + self.state + self.adapters
        return fixed + self.activations + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """What a device must have free: the peak and the margin."""
        return self.peak + self.margin

    def to_dict(self) -> dict[str, int]:
        """Bytes by name, as in the contract `vitruvius.size/1`."""
        return {
            "weights_bytes": self.weights,
            "kv_cache_bytes": self.kv_cache,
            "state_bytes": self.state,
            "activations_bytes": self.activations,
            "gradients_bytes": self.gradients,
            "optimizer_bytes": self.optimizer,
            "adapters_bytes": self.adapters,
            "buffers_bytes": self.buffers,
            "peak_bytes": self.peak,
            "margin_bytes": self.margin,
            "total_bytes": self.total,
            "activations_error_bytes": self.unsure,
        }


def memory_of(graph: Graph, workload: Workload) -> Memory:
    """What a workload takes on one device that holds the whole model.

    Raises UsageError for formats that there are not.
    """
    if workload.mode == "inference":
        return _inference(graph, workload)
    return _adapting(graph, workload) if workload.mode in ADAPTED else _training(graph, workload)


def context_of(graph: Graph, workload: Workload) -> int:
    """Tokens of each sequence: the workload's, or the architecture's own."""
    return graph.scope.context if workload.context is None else workload.context


def computing_format(workload: Workload) -> str:
    """The plain format that a workload computes in."""
    return weight_format(workload.weights).rest


def cache_format(workload: Workload) -> str:
    """The plain format of keys and values."""
    return workload.cache or computing_format(workload)


# ----------------------------------------------------------------------------------------------------------------------
# The three kinds of work


def _inference(graph: Graph, workload: Workload) -> Memory:
    tokens, kept = context_of(graph, workload), cache_format(workload)
    work = replace(workload, weights=computing_format(workload), cache=None, adapters=_ANY, optimizer="adamw")
    found = forward_pass(graph, work, tokens)
    return Memory(
        weights=weights_bytes(graph, workload.weights),
        buffers=_buffers(graph),
        kv_cache=kv_cache_bytes(graph, tokens, workload.batch, kept),
        state=state_bytes(graph, tokens, workload.batch, kept),
        activations=found.activations + _unpacked(graph, workload),
        margin=found.margin,
        unsure=found.unsure,
    )


def _training(graph: Graph, workload: Workload) -> Memory:
    found = training_step(graph, replace(workload, cache=None, adapters=_ANY), context_of(graph, workload))
    return Memory(
        weights=weights_bytes(graph, workload.weights, "train"),
        buffers=found.buffers,
        activations=found.activations,
        gradients=found.gradients,
        optimizer=found.optimizer,
        margin=found.margin,
        unsure=found.unsure,
    )


def _adapting(graph: Graph, workload: Workload) -> Memory:
    """Adapters train, the rest is frozen; multi-token prediction takes no part.

    What is kept from the forward pass is what full training keeps, since an adapted map keeps its input for its A, plus
    A x of each adapter; inputs of maps without an adapter are not kept, which is known up to itself
    (`AdapterCounts.spared`). Gradients, masters and moments are those of the adapters alone.
    """
    graph = replace(graph, mtp=()) if graph.mtp else graph
    plain, tokens = computing_format(workload), context_of(graph, workload)
    base = replace(workload, mode="lora", weights=plain, cache=None, adapters=_ANY, optimizer="adamw")
    found = training_step(graph, base, tokens)
    value, positions = BYTES_PER_VALUE[plain], workload.batch * tokens
    layers = len(graph.encoder) + len(graph.layers)
    at_once = layers if workload.checkpointing == "none" else 1
    own = adapter_counts(graph, workload.adapters)
    inner = own.kept * positions * value * at_once // layers
    spared = own.spared * positions * value * at_once // layers
    activations = max(0, found.activations - spared) + inner + _unpacked(graph, workload)
    count = own.parameters
    gradients = count * (value if workload.accumulate == 1 else value + 4)
    return Memory(
        weights=weights_bytes(graph, workload.weights),
        buffers=found.buffers,
        activations=activations,
        gradients=gradients,
        optimizer=count * _STATES[plain in {"bf16", "fp16"}][workload.optimizer],
        adapters=count * value,
        margin=margin_of(activations + gradients),
        unsure=found.unsure + spared,
    )


_ANY = Adapters()
_STATES = {
    True: {"adamw": 12, "adamw-8bit": 6, "muon": 8, "adamw-bf16": 4},
    False: {"adamw": 8, "adamw-8bit": 2, "muon": 4, "adamw-bf16": 8},
}
"""Bytes of masters and moments of a parameter that is a matrix, by whether the format has less than 32 bits."""


def _unpacked(graph: Graph, workload: Workload) -> int:
    """Bytes of the largest map that a quantised format unpacks before it multiplies: one matrix at a time."""
    form = weight_format(workload.weights)
    if not form.is_quantised:
        return 0
    maps = (t.shape[-1] * t.shape[-2] for name, t in graph.tensors().items() if is_quantisable(name, t))
    return max(maps, default=0) * BYTES_PER_VALUE[form.rest]


# ----------------------------------------------------------------------------------------------------------------------
# Parts


def stored_tensors(graph: Graph, dtype: str, mode: str = "inference") -> Iterator[tuple[str, TensorSpec, int]]:
    """(name, tensor, bytes) of every parameter in a weight format; multi-token prediction's while training only."""
    form = weight_format(dtype)
    apart = {} if mode == "train" else graph.mtp_tensors()
    for name, tensor in graph.tensors().items():
        if name not in apart:
            yield name, tensor, form.bytes_of(tensor, quantised=is_quantisable(name, tensor))


def weights_bytes(graph: Graph, dtype: str, mode: str = "inference") -> int:
    """Bytes of all parameters as a weight format stores them; multi-token prediction's while training only.

    Quantised formats leave embedding tables, head, norms, biases, routers and convolutions as they are.
    """
    return sum(size for _, _, size in stored_tensors(graph, dtype, mode))


def kv_cache_bytes(graph: Graph, capacity: int, batch: int, dtype: str) -> int:
    """Bytes of keys and values that `model.cache(batch, capacity=capacity)` allocates: exact, no growth slack.

    A window keeps no more than its reach, a dilated layer one ring of every * (W - 1) + 1 slots, keys of
    `global(every=N)` one in N beyond the window.
    """
    return _bytes(graph, capacity, dtype, "keys") * batch


def state_bytes(graph: Graph, capacity: int, batch: int, dtype: str) -> int:
    """Bytes of decode state of one size (recurrences, convolutions, running sums) in the same cache, exact."""
    return _bytes(graph, capacity, dtype, "state") * batch


def _bytes(graph: Graph, capacity: int, dtype: str, role: str) -> int:
    layers = graph.states(capacity)
    return sum(state_tensor_bytes(spec, dtype) for layer in layers for spec in layer.values() if spec.role == role)


def _buffers(graph: Graph) -> int:
    return 4 * sum(tensor.count for tensor in graph.buffers().values())
