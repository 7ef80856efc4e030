"""Which changes make a workload fit: tried in order of how little they change, each with the bill it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.sizing.changes import Candidate, candidates, more_devices, shorter_context, smaller_batch
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.room import (
    available_bytes,
    enough_devices,
    largest_batch,
    largest_context,
    needed_bytes,
)
from vitruvius.spec.rules import findings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.memory import Memory
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Architecture

_SAME_RESULTS = frozenset({"batch", "attention", "loss", "checkpointing"})
"""Families that leave every result as it is, but for rounding."""
MOST_DEVICES = 1024
"""More are not proposed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that makes a workload fit, with the bill that it leads to."""

    what: str
    """In words, such as `keep only the stream between layers and compute each layer again`."""
    flags: tuple[str, ...]
    """What to add to the command: `--checkpointing layers`, `--set blocks.full.mixer.kv_heads=4`."""
    costs: str
    """What it costs besides: `a third more compute`; empty where nothing is known."""
    architecture: Architecture
    """The spec after it."""
    workload: Workload
    """What it does after it."""
    count: int
    """Devices after it."""
    memory: Memory
    needed_bytes: int
    spare_bytes: int


class Remedies:
    """Looks for changes with which a workload fits `count` of a device."""

    def __init__(self, graph: Graph, workload: Workload, device: Device, count: int) -> None:
        self._graph, self._workload, self._device, self._count = graph, workload, device, count
        self._available = available_bytes(device, count)

    def found(self, memory: Memory, *, context: int, batch: int) -> Iterator[Change]:
        """Single changes that are enough, each family's mildest; without one, the fewest together; then less of it.

        memory: the bill that does not fit. context, batch: the largest that do.
        """
        families = candidates(self._graph, self._workload)
        fewer = smaller_batch(self._workload, batch)
        if fewer is not None:
            families.insert(0, [fewer])
        singles = [self._mildest(family) for family in families]
        enough = [change for change in singles if change is not None and self._is_sound(change)]
        yield from enough
        together = None if enough else self._together(families)
        if together is not None and self._is_sound(together):
            yield together
        free = [family[0] for family in families if family[0].family in _SAME_RESULTS]
        joined = _join(free) if free else None
        if not enough and together is None and joined is not None:
            yield from self._fewer(joined)
        if not enough and joined is not None:
            yield from self._longer(joined, context)
        yield from self._tried(shorter_context(self._graph, self._workload, context))
        yield from self._more(joined, memory)

    def _tried(self, candidate: Candidate | None, *, count: int | None = None) -> Iterator[Change]:
        change = None if candidate is None else self._bill(candidate, count=count)
        if change is not None:
            yield change

    def _fewer(self, joined: Candidate) -> Iterator[Change]:
        """As few sequences at once as fit with all that leaves results as they are."""
        applied = joined.applied(self._graph, self._workload)
        if applied is not None:
            few = smaller_batch(self._workload, largest_batch(*applied, self._available, self._count))
            yield from self._tried(None if few is None else joined.then(few))

    def _longer(self, joined: Candidate, context: int) -> Iterator[Change]:
        """As many tokens as fit with all that leaves results as they are."""
        applied = joined.applied(self._graph, self._workload)
        if applied is not None:
            most = largest_context(*applied, self._available, self._count)
            short = shorter_context(*applied, most) if most > context else None
            yield from self._tried(None if short is None else joined.then(short))

    def _more(self, joined: Candidate | None, memory: Memory) -> Iterator[Change]:
        """More of the device; where no number is enough, with all that leaves results as they are."""
        number, first = enough_devices(memory, self._workload, self._device), list[Candidate]()
        if number is None and joined is not None:
            first = [joined]
            applied = joined.applied(self._graph, self._workload)
            number = None if applied is None else enough_devices(memory_of(*applied), applied[1], self._device)
        if number is not None and self._count < number <= MOST_DEVICES:
            yield from self._tried(_join([*first, more_devices(number)]), count=number)

    def _is_sound(self, change: Change) -> bool:
        """Whether no rule speaks against the changed spec."""
        if change.architecture is self._graph.architecture:
            return True
        return not any(finding.severity == "error" for finding in findings(change.architecture))

    def _mildest(self, family: list[Candidate]) -> Change | None:
        """The first of a family that is enough, if the last one is."""
        last = self._bill(family[-1])
        if last is None or len(family) == 1:
            return last
        tried = (self._bill(candidate) for candidate in family[:-1])
        return next((change for change in tried if change is not None), last)

    def _together(self, families: list[list[Candidate]]) -> Change | None:
        """Changes of several families at once: stronger ones only where milder ones of all are not enough."""
        if not families or self._joined(families, [len(family) for family in families]) is None:
            return None
        levels = [0] * len(families)
        for level in range(1, max(map(len, families)) + 1):
            for place, family in enumerate(families):
                levels[place] = min(level, len(family))
                if self._joined(families, levels) is not None:
                    return self._fewest(families, levels)
        return None

    def _fewest(self, families: list[list[Candidate]], levels: list[int]) -> Change | None:
        """Without what turns out not to be needed, the largest changes left out first."""
        for place in reversed(range(len(families))):
            for level in range(levels[place]):
                milder = [*levels[:place], level, *levels[place + 1 :]]
                if self._joined(families, milder) is not None:
                    levels = milder
                    break
        return self._joined(families, levels)

    def _joined(self, families: list[list[Candidate]], levels: list[int]) -> Change | None:
        chosen = [family[level - 1] for family, level in zip(families, levels, strict=True) if level]
        return self._bill(_join(chosen)) if chosen else None

    def _bill(self, candidate: Candidate, *, count: int | None = None) -> Change | None:
        """The change, if it is enough: its bill is worked out anew."""
        applied = candidate.applied(self._graph, self._workload)
        if applied is None:
            return None
        graph, workload = applied
        number = self._count if count is None else count
        memory = memory_of(graph, workload)
        needed, available = needed_bytes(memory, workload, number), available_bytes(self._device, number)
        if needed > available:
            return None
        return Change(
            what=candidate.what,
            flags=candidate.flags,
            costs=candidate.costs,
            architecture=graph.architecture,
            workload=workload,
            count=number,
            memory=memory,
            needed_bytes=needed,
            spare_bytes=available - needed,
        )


def _join(chosen: list[Candidate]) -> Candidate:
    whole, *rest = chosen
    for candidate in rest:
        whole = whole.then(candidate)
    return whole
