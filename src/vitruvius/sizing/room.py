"""How much room devices have, how much of it a workload takes, and the most that still fits: exact."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vitruvius.sizing.memory import context_of, memory_of
from vitruvius.sizing.search import largest

if TYPE_CHECKING:
    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.memory import Memory
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph

LONGEST = 2**40 - 1
"""The longest context that is tried."""
LARGEST_BATCH = 2**31


def available_bytes(device: Device, count: int = 1) -> int:
    """What `count` devices have for a model together."""
    return device.usable_bytes * count


def needed_bytes(memory: Memory, workload: Workload, count: int = 1) -> int:
    """What `count` devices need together: the peak, and the margin for fragmentation.

    Inference is dealt out in equal parts. In training weights, gradients and states are (ZeRO-3, FSDP), while each
    device has the activations of a micro-batch of its own.
    """
    if workload.mode == "inference":
        return memory.total
    return memory.total + (count - 1) * (memory.activations + memory.margin)


def enough_devices(memory: Memory, workload: Workload, device: Device) -> int | None:
    """How many of a device hold a workload together; None where no number does."""
    usable = device.usable_bytes
    if workload.mode == "inference":
        return -(-memory.total // usable) if usable > 0 else None
    each = memory.activations + memory.margin
    return -(-(memory.total - each) // (usable - each)) if usable > each else None


def context_limit(graph: Graph) -> int:
    """The longest context that an architecture can have at all: learned positions end somewhere."""
    position = graph.architecture.embedding.position
    longest = None if position is None else position.longest_sequence(graph.scope)
    return LONGEST if longest is None else min(longest, LONGEST)


def largest_context(graph: Graph, workload: Workload, available: int, count: int = 1) -> int:
    """The most tokens of each sequence for which `count` devices with so many bytes in all are enough; 0 for none."""

    def needed(context: int) -> int:
        return needed_bytes(memory_of(graph, replace(workload, context=context)), workload, count)

    return largest(needed, available, start=context_of(graph, workload), most=context_limit(graph))


def largest_batch(graph: Graph, workload: Workload, available: int, count: int = 1) -> int:
    """The most sequences for which `count` devices with so many bytes in all are enough; 0 for none."""

    def needed(batch: int) -> int:
        return needed_bytes(memory_of(graph, replace(workload, batch=batch)), workload, count)

    return largest(needed, available, start=workload.batch, most=LARGEST_BATCH)
