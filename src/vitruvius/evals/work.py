"""What one run of a phase computes, moves and holds, from the spec alone: the ground that predictions stand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.inference.generate import PREFILL
from vitruvius.sizing.formats import bytes_per_value
from vitruvius.sizing.inference import inference_activations
from vitruvius.sizing.memory import kv_cache_bytes, memory_of, state_bytes, weights_bytes
from vitruvius.sizing.speed import decode_flops, prefill_flops, speed_of, train_flops
from vitruvius.sizing.traffic import decode_traffic
from vitruvius.sizing.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.sizing.hardware import Device
    from vitruvius.spec import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One phase of one architecture at one length, on paper."""

    graph: Graph
    phase: str
    """`prefill`, `decode` or `train`."""
    length: int
    batch: int
    dtype: str

    @property
    def workload(self) -> Workload:
        """As sizing asks for it. A sample of an encoder-decoder is cut in the middle while training."""
        training = self.phase == "train"
        context = max(1, self.length // 2) if training and self.graph.encoder else self.length
        mode = "train" if training else "inference"
        return Workload(context=context, batch=self.batch, mode=mode, weights=self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What one run takes."""

    tokens: int
    """Tokens that it processes, over the whole batch."""
    calls: int
    """Passes through the layers: each costs the time of launching its operations besides computing them."""
    flops: int
    """Useful floating-point operations."""
    exact: bool
    """Whether `flops` is exact; of an encoder-decoder and of irregular own patterns it is an estimate."""
    moved: int
    """Bytes of weights and decode state that are read at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a device allows: the roofline, all of it reached."""

    seconds: float
    expected_seconds: float
    """With the shares of the rates that software is taken to reach."""
    by: str
    """`compute` or `bandwidth`."""


def amount_of(task: Task) -> Amount:
    """What one run of a task takes."""
    return _AMOUNTS[task.phase](task)


def _prefill(task: Task) -> Amount:
    graph, length = task.graph, task.length
    flops, in_pieces = prefill_flops(graph, task.workload), graph.is_causal and not graph.opens_prefix
    if graph.encoder:  # the source is read, and one token after it
        read = sum(layer.flops(length).useful for layer in graph.encoder)
        flops, in_pieces = task.batch * (read + graph.flops(length).useful // length), False
    elif not graph.is_causal:
        head, scope = graph.architecture.head, graph.scope
        flops -= task.batch * (head.flops(scope, length).useful - head.flops(scope, 1).useful)
    pieces = -(-length // PREFILL) if in_pieces else 1
    moved = pieces * weights_bytes(graph, task.dtype) + _state(task)
    return Amount(tokens=task.batch * length, calls=pieces, flops=flops, exact=_is_sure(task), moved=moved)


def _decode(task: Task) -> Amount:
    """The step that makes a context of `length` out of one less."""
    return Amount(
        tokens=task.batch,
        calls=1,
        flops=decode_flops(task.graph, task.workload),
        exact=_is_sure(task),
        moved=decode_traffic(task.graph, task.workload).total,
    )


def _train(task: Task) -> Amount:
    """Forward, backward and update."""
    count = sum(tensor.count for tensor in task.graph.tensors().values())
    passes, states = 4 * bytes_per_value(task.dtype), 16 if task.dtype == "fp32" else 24
    return Amount(
        tokens=task.batch * task.length,
        calls=1,
        flops=round(sum(train_flops(task.graph, task.workload))) * task.batch,
        exact=_is_sure(task),
        moved=count * (passes + states),
    )


_AMOUNTS: dict[str, Callable[[Task], Amount]] = {"prefill": _prefill, "decode": _decode, "train": _train}


def _is_sure(task: Task) -> bool:
    return not task.graph.encoder and task.graph.flops(task.length).unsure == 0


def _state(task: Task) -> int:
    numbers = (task.graph, task.length, task.batch, task.dtype)
    return kv_cache_bytes(*numbers) + state_bytes(*numbers)


def bound_of(task: Task, device: Device) -> Bound | None:
    """The roofline of a task as sizing has it; None where sizing asks another question than the bench."""
    if task.graph.encoder and task.phase == "prefill":
        return None
    speed = speed_of(task.graph, task.workload, device)
    if task.phase == "train":
        phases = speed.train
    else:
        phase = speed.prefill if task.phase == "prefill" else speed.decode
        phases = () if phase is None else (phase,)
    if not phases:
        return None
    return Bound(
        seconds=sum(phase.seconds for phase in phases),
        expected_seconds=sum(phase.expected_seconds for phase in phases),
        by=max(phases, key=lambda phase: phase.seconds).bound_by,
    )


def held_bytes(task: Task) -> int:
    """Bytes that exist before a run starts: weights and decode state, or weights, masters and moments. Exact."""
    if task.phase != "train":
        return weights_bytes(task.graph, task.dtype) + _state(task)
    count = sum(tensor.count for tensor in task.graph.tensors().values())
    return count * (bytes_per_value(task.dtype) + (8 if task.dtype == "fp32" else 12))


def sized_peak(task: Task) -> tuple[int, int]:
    """The most that all tensors take, as sizing predicts it, and how far off it says that may be; in bytes."""
    memory = memory_of(task.graph, task.workload)
    if task.phase != "decode":
        return memory.peak, memory.unsure
    step = inference_activations(task.graph, task.workload)  # the peak of inference is the prompt's, not the step's
    return memory.peak - memory.activations + step.decode, step.unsure
