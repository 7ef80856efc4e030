"""Whether a workload fits a device, by how much, what would just fit, and which changes make it fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.remedies import Change, Remedies
from vitruvius.sizing.room import available_bytes, context_limit, largest_batch, largest_context, needed_bytes
from vitruvius.spec.rules import ensure

if TYPE_CHECKING:
    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.memory import Memory
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Architecture

__all__ = ["Change", "Fit", "available_bytes", "fit", "fit_of", "needed_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a workload fits on `count` of a device, which hold it together."""

    device: str
    count: int
    fits: bool
    needed_bytes: int
    """The peak, and the margin for fragmentation, of all devices together."""
    available_bytes: int
    """Of all devices together."""
    largest_context: int
    """Tokens of each sequence that just fit at this batch; 0 where not even one does."""
    largest_batch: int
    """Sequences that just fit at this context; 0 where not even one does."""
    context_limit: int
    """The longest that was tried: a context that reaches it is not limited by memory."""
    changes: tuple[Change, ...]
    """What makes it fit, the smallest changes first; empty where it fits."""

    @property
    def spare_bytes(self) -> int:
        """What is left; below 0 what is missing."""
        return self.available_bytes - self.needed_bytes


def fit(architecture: Architecture, workload: Workload, device: Device, count: int = 1) -> Fit:
    """Whether a workload fits on `count` devices, what would, and what to change.

    Limits are exact: they fit, and one more token, or one more sequence, does not. Raises SpecError when the
    architecture does not fit together, UsageError for formats that there are not.
    """
    graph = ensure(architecture)
    return fit_of(graph, workload, device, count, memory_of(graph, workload))


def fit_of(graph: Graph, workload: Workload, device: Device, count: int, memory: Memory) -> Fit:
    """As `fit`, of a graph and a bill that are known already."""
    available, needed = available_bytes(device, count), needed_bytes(memory, workload, count)
    context = largest_context(graph, workload, available, count)
    batch = largest_batch(graph, workload, available, count)
    changes: tuple[Change, ...] = ()
    if needed > available:
        changes = tuple(Remedies(graph, workload, device, count).found(memory, context=context, batch=batch))
    return Fit(
        device=device.name,
        count=count,
        fits=needed <= available,
        needed_bytes=needed,
        available_bytes=available,
        largest_context=context,
        largest_batch=batch,
        context_limit=context_limit(graph),
        changes=changes,
    )
