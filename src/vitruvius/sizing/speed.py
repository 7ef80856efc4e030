"""How fast a device can be at best: the roofline of prefill, decode and training step, and what binds each.

A phase takes at least the time its operations need at the peak rate and the time its bytes need at the peak bandwidth;
the larger of the two is the bound (Williams et al., 2009). What good software reaches of a peak is the device's stated
efficiency, an estimate with its source. Several devices count as one with their peaks added: communication between them
is not in it (`vitruvius plan` counts it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.sizing.adapters import MODES as ADAPTED
from vitruvius.sizing.adapters import adapter_tensors
from vitruvius.sizing.formats import weight_format
from vitruvius.sizing.memory import context_of, memory_of, stored_tensors
from vitruvius.sizing.traffic import decode_traffic, experts_touched, share_touched, weights_touched
from vitruvius.spec.recomputing import share_again

if TYPE_CHECKING:
    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.memory import Memory
    from vitruvius.sizing.traffic import Traffic
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph

Binding = Literal["compute", "bandwidth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One thing that a device does, as the roofline has it."""

    flops: float
    """Useful operations."""
    bytes: float
    """Moved between memory and cores."""
    compute_seconds: float
    """At the peak rate."""
    bandwidth_seconds: float
    """At the peak bandwidth."""
    compute_efficiency: float = 1.0
    bandwidth_efficiency: float = 1.0

    @property
    def seconds(self) -> float:
        """At 100 % of what binds: no software is faster."""
        return max(self.compute_seconds, self.bandwidth_seconds)

    @property
    def expected_seconds(self) -> float:
        """With the shares of the peaks that good software reaches."""
        computing = self.compute_seconds / self.compute_efficiency
        return max(computing, self.bandwidth_seconds / self.bandwidth_efficiency)

    @property
    def bound_by(self) -> Binding:
        """What takes longer."""
        return "compute" if self.compute_seconds >= self.bandwidth_seconds else "bandwidth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Times of one workload on one choice of hardware. Seconds without `expected` are bounds: 100 % of the peak."""

    prefill: Phase | None
    """All sequences of the batch, from nothing to their whole context; None while training."""
    decode: Phase | None
    """One step of the batch at full context; None while training and where nothing is decoded."""
    train: tuple[Phase, ...]
    """Forward and backward passes of one update, then the optimizer; empty in inference."""
    traffic: Traffic | None
    """What a decoding step moves."""
    batch: int
    tokens_per_update: int
    """Tokens of one training step; 0 in inference."""
    experts_touched: float | None
    """Experts of a mixture that a decoding step reads, on average under uniform routing; None without mixtures."""

    @property
    def prefill_seconds(self) -> float | None:
        """Of the whole batch, at best."""
        return None if self.prefill is None else self.prefill.seconds

    @property
    def expected_prefill_seconds(self) -> float | None:
        """Of the whole batch, as good software does it."""
        return None if self.prefill is None else self.prefill.expected_seconds

    @property
    def decode_seconds(self) -> float | None:
        """Of one step of the batch, at best."""
        return None if self.decode is None else self.decode.seconds

    @property
    def expected_decode_seconds(self) -> float | None:
        """Of one step of the batch, as good software does it."""
        return None if self.decode is None else self.decode.expected_seconds

    @property
    def tokens_per_second_bound(self) -> float | None:
        """Decoded tokens of all sequences together, at best."""
        return None if self.decode is None else self.batch / self.decode.seconds

    @property
    def expected_tokens_per_second(self) -> float | None:
        """Decoded tokens of all sequences together, as good software does it."""
        return None if self.decode is None else self.batch / self.decode.expected_seconds

    @property
    def train_step_seconds(self) -> float | None:
        """Of one update, at best."""
        return sum(phase.seconds for phase in self.train) if self.train else None

    @property
    def expected_train_step_seconds(self) -> float | None:
        """Of one update, as good software does it."""
        return sum(phase.expected_seconds for phase in self.train) if self.train else None

    @property
    def bytes_per_step(self) -> int | None:
        """Moved by one decoding step."""
        return None if self.traffic is None else self.traffic.total

    @property
    def bound_by(self) -> Binding | None:
        """What binds decoding, or the training step."""
        if self.decode is not None:
            return self.decode.bound_by
        if self.train:
            return max(self.train, key=lambda phase: phase.seconds).bound_by
        return None if self.prefill is None else self.prefill.bound_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a workload asks of any device, in operations and bytes."""

    prefill: tuple[float, float] | None
    decode: tuple[float, float] | None
    train: tuple[tuple[float, float], ...]
    traffic: Traffic | None
    experts_touched: float | None


def speed_of(graph: Graph, workload: Workload, device: Device, count: int = 1) -> Speed:
    """The roofline of a workload on `count` devices. Raises UsageError for formats that there are not."""
    return on_device(demand_of(graph, workload), graph, workload, device, count)


def on_device(demand: Demand, graph: Graph, workload: Workload, device: Device, count: int = 1) -> Speed:
    """As `speed_of`, of a demand that was worked out before."""
    peak = device.peak(weight_format(workload.weights).rest) * count
    bandwidth = device.bandwidth * count

    def phase(asked: tuple[float, float]) -> Phase:
        flops, moved = asked
        return Phase(
            flops=flops,
            bytes=moved,
            compute_seconds=flops / peak,
            bandwidth_seconds=moved / bandwidth,
            compute_efficiency=device.efficiency.compute,
            bandwidth_efficiency=device.efficiency.bandwidth,
        )

    training = workload.mode != "inference"
    return Speed(
        prefill=None if demand.prefill is None else phase(demand.prefill),
        decode=None if demand.decode is None else phase(demand.decode),
        train=tuple(phase(asked) for asked in demand.train),
        traffic=demand.traffic,
        batch=workload.batch,
        tokens_per_update=context_of(graph, workload) * workload.batch * workload.accumulate if training else 0,
        experts_touched=demand.experts_touched,
    )


def demand_of(graph: Graph, workload: Workload, memory: Memory | None = None) -> Demand:
    """Operations and bytes of each phase of a workload; `memory` saves working it out again."""
    if workload.mode != "inference":
        memory = memory_of(graph, workload) if memory is None else memory
        return Demand(
            prefill=None, decode=None, train=_training(graph, workload, memory), traffic=None, experts_touched=None
        )
    traffic = decode_traffic(graph, workload) if graph.is_causal else None
    return Demand(
        prefill=_prefill(graph, workload, traffic),
        decode=None if traffic is None else (float(decode_flops(graph, workload)), float(traffic.total)),
        train=(),
        traffic=traffic,
        experts_touched=experts_touched(graph, workload.batch),
    )


def decode_flops(graph: Graph, workload: Workload) -> int:
    """Useful operations of one step: what the last token adds to a pass over the whole sequence."""
    tokens = context_of(graph, workload)
    if tokens == 1:
        return graph.flops(1).useful * workload.batch
    whole = graph.flops(tokens)
    if whole.unsure:  # an own pattern that cannot be counted: its average
        return -(-whole.useful // tokens) * workload.batch
    return max(0, whole.useful - graph.flops(tokens - 1).useful) * workload.batch


def prefill_flops(graph: Graph, workload: Workload) -> int:
    """Useful operations of the prompt; of a model that decodes, with logits of the last token alone."""
    tokens = context_of(graph, workload)
    whole = graph.flops(tokens).useful
    if graph.is_causal:
        head, scope = graph.architecture.head, graph.scope
        whole -= head.flops(scope, tokens).useful - head.flops(scope, 1).useful
    return whole * workload.batch


def _prefill(graph: Graph, workload: Workload, traffic: Traffic | None) -> tuple[float, float]:
    """Operations, and bytes: weights once, what is cached written; activations stay on the chip in a good kernel."""
    tokens = context_of(graph, workload)
    moved = weights_touched(graph, workload.weights, workload.batch * tokens)
    if traffic is not None:
        moved += traffic.kv_written * tokens + traffic.state // 2
    return float(prefill_flops(graph, workload)), float(moved)


def _training(graph: Graph, workload: Workload, memory: Memory) -> tuple[tuple[float, float], ...]:
    """Forward and backward passes of all micro-batches, then the optimizer, which nothing overlaps with."""
    tokens = context_of(graph, workload)
    forward, backward = train_flops(graph, workload)
    share = share_again(workload.checkpointing, len(graph.layers), len(graph.encoder))
    again, passes = forward * share, 2 + share
    mode = "train" if workload.mode == "train" else "inference"
    stored = list(stored_tensors(graph, workload.weights, mode))
    touched = sum(size * share_touched(tensor.used, workload.batch * tokens) for _, tensor, size in stored)
    micro = passes * (touched + memory.adapters) + 2 * memory.gradients + 2 * memory.activations
    trained = memory.adapters if workload.mode in ADAPTED else sum(size for _, _, size in stored)
    update = float(2 * memory.optimizer + memory.gradients + trained)
    return ((forward + backward + again) * workload.batch * workload.accumulate, micro * workload.accumulate), (
        0.0,
        update,
    )


def train_flops(graph: Graph, workload: Workload) -> tuple[float, float]:
    """Useful operations of one sequence forward and backward.

    The backward pass costs twice the forward: a gradient of the input and one of the weights for each map, two products
    for each of attention's. Frozen maps have no gradient of the weights, adapters have maps of their own.
    """
    tokens = context_of(graph, workload)
    if workload.mode not in ADAPTED:
        forward = (graph.flops(tokens) + graph.mtp_flops(tokens)).useful
        return float(forward), 2.0 * forward
    forward = graph.flops(tokens).useful
    apart = graph.mtp_tensors()
    linear = sum(t.active for name, t in graph.tensors().items() if t.is_linear and name not in apart)
    if getattr(graph.architecture.head, "tied", False):
        linear += graph.scope.vocab_size * graph.scope.width
    maps = min(forward, 2 * linear * tokens)
    own = 2 * sum(t.active for t in adapter_tensors(graph, workload.adapters).values()) * tokens
    return float(forward + own), float(maps + 2 * (forward - maps) + 2 * own)
