"""Keys and values of one attention layer while decoding, kept where the pattern's store plan says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vitruvius.spec.tracing.attending_stored import mask_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from vitruvius.nn.cache import Step
    from vitruvius.patterns import Pattern
    from vitruvius.patterns.stores import Archive, StorePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """Keys and values that a step attends to."""

    tensors: Mapping[str, Tensor]
    """What is kept for each key, by name, [B, rows, S, width]; `k` and `v` among them."""
    positions: Tensor
    """Positions of the keys: [S], or [B, S] when rows differ; negative where a slot is empty."""
    seen: Tensor | Callable[[slice], Tensor] | None
    """Which keys each query sees, [T, S] or [B, 1, T, S]; None when it is all of them. Where that is large, a function
    makes the rows of some queries."""
    of_queries: bool = False
    """Whether the keys are just those of the queries, from the start of each row: a sequence attends to itself."""
    first_query: int | None = None
    """Where every key of a sequence stands in its place, up to the last query: the place of the first query."""

    @property
    def mask(self) -> Tensor | None:
        """[T, S] or [B, 1, T, S], True = attend; None when every query attends to all."""
        return self.mask_of(slice(None))

    def mask_of(self, queries: slice) -> Tensor | None:
        """The mask of some of the queries."""
        if callable(self.seen):
            return self.seen(queries)
        return None if self.seen is None else self.seen[..., queries, :]

    @property
    def k_BGSK(self) -> Tensor:  # noqa: N802 (shape suffix)
        """The keys."""
        return self.tensors["k"]

    @property
    def v_BGSK(self) -> Tensor:  # noqa: N802 (shape suffix)
        """The values."""
        return self.tensors["v"]


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which slots a single-token step reads."""

    index: Tensor | slice
    positions: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class _Beside:
    """What a step of several tokens reads: the slots as they were beside the new keys."""

    tensors: dict[str, Tensor]
    positions: Tensor
    usable: Tensor | None
    """[S] or [B, S]: False at empty slots and at second copies of a key; None where all are usable."""
    first_query: int | None = None
    """As that of what may be read."""


class KeyValueStore:
    """Tensors [B, rows, slots, width] with one slot for each key kept: the ring first, then each archive.

    Attributes:
        slots: what is kept for each key, by name; `k` and `v`, and what the position adds.
        running: what is kept once for each row, by name, [B, ...]; zero where a sequence starts.
        is_lent: whether later layers read the keys too (`read`), for which a step's are held until the next.
    """

    def __init__(
        self,
        plan: StorePlan,
        slots: Mapping[str, Tensor],
        running: Mapping[str, Tensor] | None = None,
        *,
        is_lent: bool = False,
    ) -> None:
        self.plan = plan
        self.slots = dict(slots)
        self.running = dict(running or {})
        self.is_lent = is_lent
        self.step: Step
        self._beside: _Beside | None = None

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter(self.slots.values())).device

    def tensors(self) -> Iterator[Tensor]:
        """Everything that takes memory."""
        yield from self.slots.values()
        yield from self.running.values()

    def begin(self) -> None:
        """Forget what runs along in rows that start a sequence; call once before reading `running`."""
        fresh = [row for row, start in enumerate(self.step.starts) if start == 0]
        if fresh:
            for tensor in self.running.values():
                tensor[fresh] = 0

    @property
    def held(self) -> int:
        """How many of the first slots may hold keys of earlier steps."""
        return self._used(max(self.step.starts))

    def extend(self, new: Mapping[str, Tensor], q_positions: Tensor, pattern: Pattern) -> Readable:
        """Take in what the step's tokens leave, [B, rows, T, width] by name, and return what its queries may read.

        A single token per row is written first (evict before append) and read in place, and so are several that evict
        nothing. Otherwise several tokens read the slots as they were beside the new keys, and are written afterwards,
        since the first of them may still need what the last of them evicts.
        """
        in_place = self.step.length == 1 and all(self.step.counts)
        beside = None if in_place or self._evicts_nothing else self._put_beside(new)
        self._write(new)
        if beside is None and not in_place:
            beside = self._in_order()
        self._beside = beside if self.is_lent else None
        return self._readable(beside, q_positions, pattern)

    @property
    def _evicts_nothing(self) -> bool:
        """Whether the step's tokens follow others of their row, and all of them stand in their order in the ring."""
        step = self.step
        return step.aligned and step.starts[0] > 0 and step.starts[0] + step.length <= self.plan.ring

    def _in_order(self) -> _Beside:
        """The slots after the step's tokens were written, where nothing was evicted: views, no copies."""
        start = self.step.starts[0]
        stop = start + self.step.length
        kept = {name: tensor[:, :, :stop] for name, tensor in self.slots.items()}
        return _Beside(kept, torch.arange(stop, device=self.device), None, start)

    def read(self, q_positions: Tensor, pattern: Pattern) -> Readable:
        """What queries of a pattern may read in the step that was extended last; for layers that share these keys."""
        assert self.is_lent
        return self._readable(self._beside, q_positions, pattern)

    def _readable(self, beside: _Beside | None, q_positions: Tensor, pattern: Pattern) -> Readable:
        if beside is None:
            return self._read_one(q_positions, pattern)

        def seen(queries: slice) -> Tensor:
            # Distances are whole numbers of eight bytes: of some queries at a time.
            rows = q_positions[..., queries].split(mask_rows(beside.positions.shape[-1]), dim=-1)
            masks = [pattern.allows(some.unsqueeze(-1), beside.positions.unsqueeze(-2)) for some in rows]
            mask = masks[0] if len(masks) == 1 else torch.cat(masks, dim=-2)
            if beside.usable is not None:
                mask = mask & beside.usable.unsqueeze(-2)
            return mask if beside.positions.dim() == 1 else mask.unsqueeze(1)

        return Readable(
            tensors=beside.tensors,
            positions=beside.positions,
            seen=seen,
            of_queries=beside.usable is None and beside.first_query is None,
            first_query=beside.first_query,
        )

    # Reading

    def _read_one(self, q_positions: Tensor, pattern: Pattern) -> Readable:
        key = (self.plan, pattern)
        selection = self.step.memo.get(key)
        if not isinstance(selection, _Selection):
            selection = self._select(q_positions, pattern)
            self.step.memo[key] = selection
        index = selection.index
        if isinstance(index, slice):
            tensors = {name: tensor[:, :, index] for name, tensor in self.slots.items()}
        else:
            tensors = {name: tensor.index_select(2, index) for name, tensor in self.slots.items()}
        return Readable(tensors=tensors, positions=selection.positions, seen=selection.mask)

    def _select(self, q_positions: Tensor, pattern: Pattern) -> _Selection:
        """Slots to read: a slice without a mask where all of it is seen, few slots by index, else a mask."""
        after = [start + 1 for start in self.step.starts]
        used = self._used(max(after))
        everything = slice(0, used)
        if not self.step.aligned:
            positions = self._slot_positions(after)
            mask = pattern.allows(q_positions.unsqueeze(-1), positions.unsqueeze(-2))
            mask = mask & self._once(positions).unsqueeze(-2)
            return _Selection(everything, positions, mask.unsqueeze(1))
        t = self.step.starts[0]
        if not self.plan.archives and t < self.plan.ring and _sees_the_last(pattern, used):
            return _Selection(everything, torch.arange(used, device=self.device), None)
        positions = self._slot_positions(after[:1])[0]
        seen = pattern.allows(t, positions) & self._once(positions)
        index = seen.nonzero().squeeze(1)
        count = index.numel()
        if count == int(index[-1]) + 1:
            return _Selection(slice(0, count), positions[:count], None)
        if 2 * count <= used:
            return _Selection(index, positions[index], None)
        return _Selection(everything, positions, seen.unsqueeze(0))

    def _used(self, longest: int) -> int:
        """How many of the first slots rows of at most `longest` tokens have written to."""
        return self.plan.slots if self.plan.archives else min(longest, self.plan.ring)

    def _put_beside(self, new: Mapping[str, Tensor]) -> _Beside:
        step, device = self.step, self.device
        if not any(step.starts):
            return _Beside(dict(new), torch.arange(step.length, device=device), None)
        old, used = self._slot_positions(step.starts), self._used(max(step.starts))
        usable = self._once(old)
        ahead = torch.tensor(step.starts, device=device).unsqueeze(1) + torch.arange(step.length, device=device)
        if step.aligned:
            old, usable, ahead = old[0], usable[0], ahead[0]
        else:
            old, usable = old.expand(len(ahead), -1), usable.expand(len(ahead), -1)
        kept = {name: tensor[:, :, :used] for name, tensor in self.slots.items()}
        return _Beside(
            {name: torch.cat([tensor, new[name].to(tensor.dtype)], dim=2) for name, tensor in kept.items()},
            torch.cat([old, ahead], dim=-1),
            torch.cat([usable, torch.ones_like(ahead, dtype=torch.bool)], dim=-1),
        )

    def _slot_positions(self, lengths: list[int]) -> Tensor:
        """Position held by each slot in use when rows hold `lengths` tokens: [B, slots], negative where empty.

        One row is enough when all lengths agree.
        """
        plan, device = self.plan, self.device
        distinct = lengths[:1] if len(set(lengths)) == 1 else lengths
        last = torch.tensor(distinct, device=device).unsqueeze(1) - 1
        parts = []
        if plan.ring:
            used = min(self._used(max(lengths)), plan.ring)
            parts.append(plan.ring_position(torch.arange(used, device=device), last))
        parts += [a.position(torch.arange(a.slots, device=device), last, plan.ring) for a in plan.archives]
        return torch.cat([part.expand(len(distinct), -1) for part in parts], dim=1)

    def _once(self, positions: Tensor) -> Tensor:
        """False where an archive holds a key that an earlier archive holds too."""
        once = torch.ones_like(positions, dtype=torch.bool)
        start = self.plan.ring
        for i, archive in enumerate(self.plan.archives):
            part = positions[..., start : start + archive.slots]
            for earlier in self.plan.archives[:i]:
                once[..., start : start + archive.slots] &= ~earlier.holds(part)
            start += archive.slots
        return once

    # Writing

    def _write(self, new: Mapping[str, Tensor]) -> None:
        step = self.step
        if step.aligned:
            self._append(slice(None), new, step.starts[0])
            return
        for row, (start, count) in enumerate(zip(step.starts, step.counts, strict=True)):
            if count:
                chosen = slice(row, row + 1)
                self._append(chosen, {name: tensor[chosen, :, :count] for name, tensor in new.items()}, start)

    def _append(self, rows: slice, new: Mapping[str, Tensor], start: int) -> None:
        """Append positions start, start + 1, ... to some rows: archives take what leaves the ring, then the ring."""
        stop = start + next(iter(new.values())).shape[2]
        ring, offset = self.plan.ring, self.plan.ring
        for archive in self.plan.archives:
            self._archive(archive, offset, rows, new, start, stop)
            offset += archive.slots
        first = max(start, stop - ring)
        if first >= stop:
            return
        at, count = first % ring, stop - first
        for name, store in self.slots.items():
            coming = new[name][:, :, first - start :]
            before = min(count, ring - at)
            store[rows, :, at : at + before] = coming[:, :, :before]
            if before < count:
                store[rows, :, : count - before] = coming[:, :, before:]

    def _archive(
        self, archive: Archive, offset: int, rows: slice, new: Mapping[str, Tensor], start: int, stop: int
    ) -> None:
        """Move the archive's keys that leave the ring between `start` and `stop` into its slots."""
        ring = self.plan.ring
        low = max(start - ring, archive.first)
        low += (archive.first - low) % archive.step
        keys = range(low, min(stop - ring, archive.end), archive.step)
        keys = keys[-archive.slots :]
        if not keys:
            return
        device = self.device
        leaving = [k for k in keys if k < start]
        coming = [k for k in keys if k >= start]
        for name, store in self.slots.items():
            target = store[rows]
            if leaving:
                source = torch.tensor([k % ring for k in leaving], device=device)
                moved = target.index_select(2, source)
                target.index_copy_(2, torch.tensor([offset + archive.slot(k) for k in leaving], device=device), moved)
            if coming:
                taken = new[name].index_select(2, torch.tensor([k - start for k in coming], device=device))
                to = torch.tensor([offset + archive.slot(k) for k in coming], device=device)
                target.index_copy_(2, to, taken.to(store.dtype))


def _sees_the_last(pattern: Pattern, count: int) -> bool:
    """Whether every query surely sees the last `count` keys, its own included."""
    return any(
        clause.distance_low <= 0
        and clause.distance_high >= count - 1
        and clause.distance_multiple == 1
        and not (clause.restricts_keys or clause.restricts_queries or clause.chunks or clause.predicates)
        for clause in pattern.clauses
    )
