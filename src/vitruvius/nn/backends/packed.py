"""Plans for packed rows, where documents end and begin anywhere. There are two to choose from:

shared       one plan for all rows: keys by distance alone, and masks that keep documents apart
by document  a plan for each row that reads no key of another document: what names keys (sinks, globals, a prefix)
             needs it to stay linear in time, and long rows of short documents are cheaper with it for any pattern
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch

from vitruvius.nn.backends.plans import (
    BLOCK,
    KEPT_MASKS,
    Keys,
    Rounder,
    Tiler,
    indices,
    joined,
    only_distance,
    open_prefix,
)
from vitruvius.nn.backends.scores import document_runs
from vitruvius.nn.ops import QueryBlock
from vitruvius.nn.place import place_packed
from vitruvius.patterns import Clause, Pattern, Segment, segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_TILE_COST = BLOCK * BLOCK
"""What starting a tile costs, in pairs of one head; for choosing between plans."""
_KEPT_BATCHES = 4
"""Batches whose plans are kept, folded ones apart: all layers of a step share them, forward and backward."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Packed rows, and the plans made for them."""

    documents_BT: Tensor
    """A copy: the caller may fill its buffer anew."""
    runs_BT: Tensor
    """Documents numbered by where they change."""
    positions_BT: Tensor
    """Positions within the documents."""
    source: ref[Tensor]
    """The tensor that it was made of, while that lives."""
    version: int | None
    """How often that had been written to; None where nobody counts."""
    plans: dict[object, Any] = field(default_factory=dict)
    """By pattern, and whatever else a plan is made for."""

    def holds(self, documents_BT: Tensor) -> bool:
        """Whether these are its documents: by value, or without waiting for the device where there is one."""
        if documents_BT.device.type != "cpu":
            return self.source() is documents_BT and self.version is not None and self.version == _writes(documents_BT)
        known = self.documents_BT
        return known.device == documents_BT.device and torch.equal(known, documents_BT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Queries [start, stop) of a document of `length` tokens that begins at `offset` of its row."""

    offset: int
    length: int
    start: int
    stop: int


_BATCHES: OrderedDict[int, Batch] = OrderedDict()


def plan_packed(pattern: Pattern, documents_BT: Tensor, prefix_B: Tensor | None) -> tuple[QueryBlock, ...]:
    """Blocks for packed rows."""
    batch = batch_of(documents_BT)
    prefix = None if prefix_B is None else tuple(prefix_B.tolist())
    if (pattern, prefix) not in batch.plans:
        batch.plans[pattern, prefix] = _plan(pattern, batch, prefix)
    return batch.plans[pattern, prefix]


def batch_of(documents_BT: Tensor) -> Batch:
    """The batch with just these documents, known or new."""
    for key, batch in reversed(_BATCHES.items()):
        if batch.holds(documents_BT):
            _BATCHES.move_to_end(key)
            return batch
    batch = Batch(
        documents_BT.clone(),
        document_runs(documents_BT),
        place_packed(documents_BT),
        ref(documents_BT),
        _writes(documents_BT),
    )
    _BATCHES[id(batch)] = batch
    while len(_BATCHES) > _KEPT_BATCHES:
        _BATCHES.popitem(last=False)
    return batch


def forget_batches() -> None:
    """Give back the masks that are kept for the next call; who measures memory begins with this."""
    _BATCHES.clear()


def _writes(tensor: Tensor) -> int | None:
    """How often a tensor was written to, by torch's own count; in inference mode there is none."""
    return None if tensor.is_inference() else tensor._version  # noqa: SLF001 (public nowhere)


def _plan(pattern: Pattern, batch: Batch, prefix: tuple[int, ...] | None) -> tuple[QueryBlock, ...]:
    """The cheaper of the two plans."""
    rows = [_lengths(runs_T) for runs_T in batch.runs_BT]
    own = [_Own(pattern, batch, row, lengths, prefix) for row, lengths in enumerate(rows)]
    if prefix is None:
        reach = by_distance(pattern)
        length, count = batch.runs_BT.shape[1], len(rows)
        spans = [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
        pairs = sum((stop - start) * _size(segments(reach, start, stop, length)) for start, stop in spans)
        if pairs * count + len(spans) * _TILE_COST <= sum(row.cost() for row in own):
            return _shared(pattern, batch.runs_BT, None if only_distance(pattern) else batch.positions_BT)
    return tuple(block for row in own for block in row.blocks())


# One plan for all rows


@lru_cache(maxsize=64)
def by_distance(pattern: Pattern) -> Pattern:
    """The pattern with only its bounds on distance kept: a superset that does not depend on where a document starts."""
    clauses = (
        Clause(
            distance_low=clause.distance_low,
            distance_high=clause.distance_high,
            distance_multiple=clause.distance_multiple,
        )
        for clause in pattern.clauses
    )
    return Pattern(tuple(clauses))


def _shared(pattern: Pattern, runs_BT: Tensor, positions_BT: Tensor | None) -> tuple[QueryBlock, ...]:
    """Positions are within the document, or None when the pattern looks at distances only."""
    (rows, length), device = runs_BT.shape, runs_BT.device
    reach = by_distance(pattern)
    blocks: list[QueryBlock] = []
    rounder, kept = Rounder(length), 0
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        keys = tuple(s.slice for s in segments(reach, start, stop, length))

        def make(start: int = start, stop: int = stop, keys: tuple[slice, ...] = keys) -> Tensor:
            q, k = torch.arange(start, stop, device=device), indices(keys, device)
            same = runs_BT[:, q].unsqueeze(-1) == runs_BT[:, k].unsqueeze(-2)
            if positions_BT is None:
                return (same & pattern.allows(q.unsqueeze(1), k)).unsqueeze(1)
            q, k = positions_BT[:, q], positions_BT[:, k]
            return (same & pattern.allows(q.unsqueeze(-1), k.unsqueeze(-2))).unsqueeze(1)

        pairs = rows * (stop - start) * sum(len(range(s.start, s.stop, s.step)) for s in keys)
        kept += pairs
        mask = make() if kept <= KEPT_MASKS else make
        blocks.append(rounder(QueryBlock(q_start=start, q_stop=stop, keys=keys, mask=mask)))
    return tuple(blocks)


# A plan for each row


def _lengths(runs_T: Tensor) -> list[int]:
    return torch.unique_consecutive(runs_T, return_counts=True)[1].tolist()


def _size(runs: tuple[Segment, ...]) -> int:
    return sum(run.size for run in runs)


class _Own:
    """The plan of one row, by document."""

    def __init__(
        self, pattern: Pattern, batch: Batch, row: int, lengths: list[int], prefix: tuple[int, ...] | None
    ) -> None:
        self.row, self.lengths = row, lengths
        self.pattern = pattern if prefix is None else open_prefix(pattern, prefix[row])
        self.tiler = Tiler(self.pattern, batch.runs_BT.device)
        self.runs_T, self.positions_T = batch.runs_BT[row], batch.positions_BT[row]
        self._keys: dict[tuple[int, int, int], Keys] = {}

    def cost(self) -> int:
        """Of all its tiles, in pairs of one head."""
        total = 0
        for start, stop, pieces in self._spans():
            total += (stop - start) * sum(self._of(piece).count for piece in pieces) + _TILE_COST
        return total

    def blocks(self) -> Iterator[QueryBlock]:
        """In order."""
        rounder = Rounder(len(self.runs_T))
        for start, stop, pieces in self._spans():
            if len(pieces) == 1:
                piece = pieces[0]
                block = self.tiler.block(piece.start, piece.stop, piece.length, offset=piece.offset, batch_row=self.row)
            else:
                block = self._joint(start, stop, pieces)
            yield rounder(block)

    def _spans(self) -> Iterator[tuple[int, int, list[_Piece]]]:
        """The queries of each block, and the documents that they are of."""
        ends = list(accumulate(self.lengths))
        first = 0
        for start in range(0, ends[-1], BLOCK):
            stop = min(start + BLOCK, ends[-1])
            while ends[first] <= start:
                first += 1
            pieces: list[_Piece] = []
            for length, end in zip(self.lengths[first:], ends[first:], strict=True):
                offset = end - length
                if offset >= stop:
                    break
                low, high = max(start, offset) - offset, min(stop, end) - offset
                pieces.append(_Piece(offset=offset, length=length, start=low, stop=high))
            yield start, stop, pieces

    def _of(self, piece: _Piece) -> Keys:
        at = (piece.start, piece.stop, piece.length)
        if at not in self._keys:
            self._keys[at] = self.tiler.keys(*at)
        return self._keys[at]

    def _joint(self, start: int, stop: int, pieces: list[_Piece]) -> QueryBlock:
        """A block of several documents, kept apart by its mask."""
        device = self.runs_T.device
        keys = joined([_moved(run, piece.offset) for piece in pieces for run in self._of(piece).runs])
        q, k = torch.arange(start, stop, device=device), indices(keys, device)
        same = self.runs_T[q].unsqueeze(1) == self.runs_T[k]
        allowed = self.pattern.allows(self.positions_T[q].unsqueeze(1), self.positions_T[k])
        return QueryBlock(q_start=start, q_stop=stop, keys=keys, batch_row=self.row, mask=same & allowed)


def _moved(run: Segment, offset: int) -> slice:
    return slice(run.start + offset, run.stop + offset, run.step)
