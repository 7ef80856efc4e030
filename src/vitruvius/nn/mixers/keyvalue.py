"""Keys and values of one attention layer while decoding, kept where the pattern's store plan says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.cache import Step
    from vitruvius.patterns.stores import Archive, StorePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """Keys and values that a step attends to."""

    k_BGSK: Tensor
    v_BGSK: Tensor
    positions: Tensor
    """Positions of the keys: [S], or [B, S] when rows differ; negative where a slot is empty."""
    mask: Tensor | None
    """[T, S] or [B, 1, T, S], True = attend; None when every query attends to all."""


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which slots a single-token step reads."""

    index: Tensor | slice
    positions: Tensor
    mask: Tensor | None


class KeyValueStore:
    """One tensor of keys and one of values, [B, G, slots, K]: the ring first, then each archive."""

    def __init__(self, plan: StorePlan, k_BGSK: Tensor, v_BGSK: Tensor) -> None:
        self.plan = plan
        self.k, self.v = k_BGSK, v_BGSK
        self.step: Step

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Everything that takes memory."""
        return self.k, self.v

    def extend(self, k_BGTK: Tensor, v_BGTK: Tensor, q_positions: Tensor) -> Readable:
        """Take in the step's keys and values and return what its queries may read.

        A single token per row is written first (evict before append) and read in place. Several tokens read the
        slots as they were beside the new keys, and are written afterwards, since the first of them may still need
        what the last of them evicts.
        """
        step = self.step
        if step.length == 1 and all(step.counts):
            self._write(k_BGTK, v_BGTK)
            return self._read_one(q_positions)
        readable = self._read_many(k_BGTK, v_BGTK, q_positions)
        self._write(k_BGTK, v_BGTK)
        return readable

    # Reading

    def _read_one(self, q_positions: Tensor) -> Readable:
        selection = self.step.memo.get(id(self.plan))
        if not isinstance(selection, _Selection):
            selection = self._select(q_positions)
            self.step.memo[id(self.plan)] = selection
        if isinstance(selection.index, slice):
            k, v = self.k[:, :, selection.index], self.v[:, :, selection.index]
        else:
            k, v = self.k.index_select(2, selection.index), self.v.index_select(2, selection.index)
        return Readable(k_BGSK=k, v_BGSK=v, positions=selection.positions, mask=selection.mask)

    def _select(self, q_positions: Tensor) -> _Selection:
        """Slots to read: a slice without a mask where all of it is seen, few slots by index, else a mask."""
        everything = slice(0, self.plan.slots)
        if not self.step.aligned:
            after = [start + 1 for start in self.step.starts]
            positions = self._slot_positions(after)
            mask = self.plan.pattern.allows(q_positions.unsqueeze(-1), positions.unsqueeze(-2))
            mask = mask & self._once(positions).unsqueeze(-2)
            return _Selection(everything, positions, mask.unsqueeze(1))
        t = self.step.starts[0]
        positions = self._slot_positions([t + 1])[0]
        seen = self.plan.pattern.allows(t, positions) & self._once(positions)
        index = seen.nonzero().squeeze(1)
        count = index.numel()
        if count == int(index[-1]) + 1:
            return _Selection(slice(0, count), positions[:count], None)
        if 2 * count <= self.plan.slots:
            return _Selection(index, positions[index], None)
        return _Selection(everything, positions, seen.unsqueeze(0))

    def _read_many(self, k_BGTK: Tensor, v_BGTK: Tensor, q_positions: Tensor) -> Readable:
        step = self.step
        if not any(step.starts):
            positions = torch.arange(step.length, device=self.k.device)
            mask = self.plan.pattern.allows(positions.unsqueeze(-1), positions)
            return Readable(k_BGSK=k_BGTK, v_BGSK=v_BGTK, positions=positions, mask=mask)
        old = self._slot_positions(step.starts)
        usable = self._once(old)
        new = torch.tensor(step.starts, device=self.k.device).unsqueeze(1) + torch.arange(
            step.length, device=self.k.device
        )
        if step.aligned:
            old, usable, new = old[0], usable[0], new[0]
        else:
            old, usable = old.expand(len(new), -1), usable.expand(len(new), -1)
        positions = torch.cat([old, new], dim=-1)
        mask = self.plan.pattern.allows(q_positions.unsqueeze(-1), positions.unsqueeze(-2))
        usable = torch.cat([usable, torch.ones_like(new, dtype=torch.bool)], dim=-1)
        mask = mask & usable.unsqueeze(-2)
        return Readable(
            k_BGSK=torch.cat([self.k, k_BGTK], dim=2),
            v_BGSK=torch.cat([self.v, v_BGTK], dim=2),
            positions=positions,
            mask=mask if step.aligned else mask.unsqueeze(1),
        )

    def _slot_positions(self, lengths: list[int]) -> Tensor:
        """Position held by each slot when rows hold `lengths` tokens: [B, slots], negative where empty.

        One row is enough when all lengths agree.
        """
        plan, device = self.plan, self.k.device
        distinct = lengths[:1] if len(set(lengths)) == 1 else lengths
        last = torch.tensor(distinct, device=device).unsqueeze(1) - 1
        parts = []
        if plan.ring:
            parts.append(plan.ring_position(torch.arange(plan.ring, device=device), last))
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

    def _write(self, k_BGTK: Tensor, v_BGTK: Tensor) -> None:
        step = self.step
        if step.aligned:
            self._append(slice(None), k_BGTK, v_BGTK, step.starts[0])
            return
        for row, (start, count) in enumerate(zip(step.starts, step.counts, strict=True)):
            if count:
                chosen = slice(row, row + 1)
                self._append(chosen, k_BGTK[chosen, :, :count], v_BGTK[chosen, :, :count], start)

    def _append(self, rows: slice, k_BGTK: Tensor, v_BGTK: Tensor, start: int) -> None:
        """Append positions start, start + 1, ... to some rows: archives take what leaves the ring, then the ring."""
        stop = start + k_BGTK.shape[2]
        ring, offset = self.plan.ring, self.plan.ring
        for archive in self.plan.archives:
            self._archive(archive, offset, rows, (k_BGTK, v_BGTK), start, stop)
            offset += archive.slots
        first = max(start, stop - ring)
        if first >= stop:
            return
        slots = torch.arange(first, stop, device=self.k.device) % ring
        for store, new in ((self.k, k_BGTK), (self.v, v_BGTK)):
            if stop - first == 1:
                at = first % ring
                store[rows, :, at : at + 1] = new[:, :, first - start :]
            else:
                store[rows].index_copy_(2, slots, new[:, :, first - start :])

    def _archive(
        self, archive: Archive, offset: int, rows: slice, new: tuple[Tensor, Tensor], start: int, stop: int
    ) -> None:
        """Move the archive's keys that leave the ring between `start` and `stop` into its slots."""
        ring = self.plan.ring
        low = max(start - ring, archive.first)
        low += (archive.first - low) % archive.step
        keys = range(low, min(stop - ring, archive.end), archive.step)
        keys = keys[-archive.slots :]
        if not keys:
            return
        device = self.k.device
        leaving = [k for k in keys if k < start]
        coming = [k for k in keys if k >= start]
        for store, fresh in zip((self.k, self.v), new, strict=True):
            target = store[rows]
            if leaving:
                source = torch.tensor([k % ring for k in leaving], device=device)
                moved = target.index_select(2, source)
                target.index_copy_(2, torch.tensor([offset + archive.slot(k) for k in leaving], device=device), moved)
            if coming:
                taken = fresh.index_select(2, torch.tensor([k - start for k in coming], device=device))
                target.index_copy_(2, torch.tensor([offset + archive.slot(k) for k in coming], device=device), taken)
