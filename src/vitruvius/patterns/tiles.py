"""Tiles of the score matrix that hold at least one allowed pair, found row by row with one bit per tile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vitruvius.patterns.arithmetic import Progression, progression

if TYPE_CHECKING:
    from vitruvius.patterns.clause import Clause


def blocks(clauses: tuple[Clause, ...], n: int, size: int) -> int:
    """The number of size x size tiles of the n x n score matrix with at least one allowed pair."""
    painters = [_Painter(clause=clause, n=n, size=size) for clause in clauses]
    total = 0
    for row in range(-(-n // size)):
        touched = 0
        for painter in painters:
            touched |= painter.row(row)
        total += touched.bit_count()
    return total


def _bits(first: int, last: int) -> int:
    """The bits first..last set; none when last < first."""
    return (1 << (last + 1)) - (1 << first) if first <= last else 0


@dataclass(slots=True, kw_only=True)
class _Painter:
    """Marks, for one clause, the tiles in a row of tiles; bit j stands for keys [j * size, (j + 1) * size)."""

    clause: Clause
    n: int
    size: int
    key_tiles: int = field(init=False)
    diagonals: dict[tuple[int, int], int] = field(init=False, default_factory=dict[tuple[int, int], int])

    def __post_init__(self) -> None:
        """Mark the tiles that hold a key of the clause's key range at all."""
        clause = self.clause
        keys = progression(clause.key_low, min(clause.key_high, self.n) - 1, clause.key_residue, clause.key_step)
        self.key_tiles = 0 if keys is None else self._tiles_of(keys)

    def row(self, row: int) -> int:
        """The tiles touched by queries [row * size, (row + 1) * size)."""
        clause = self.clause
        start = max(clause.query_low, row * self.size)
        stop = min(clause.query_high, self.n, (row + 1) * self.size)
        if start >= stop:
            return 0
        if not clause.chunks:
            return self._piece(start, stop)
        touched = self._piece(start, min(stop, clause.chunk_stop(start)))
        last = max(start, clause.chunk_start(stop - 1))
        touched |= self._piece(last, stop)
        # A chunk between these two lies inside the row, so it can only touch the tile on the diagonal.
        start = clause.chunk_stop(start)
        while start < last and not touched >> row & 1:
            touched |= self._piece(start, min(last, clause.chunk_stop(start)))
            start = clause.chunk_stop(start)
        return touched

    def _piece(self, start: int, stop: int) -> int:
        """The tiles touched by queries [start, stop), at most a row of tiles, which share every chunk."""
        clause = self.clause
        low = max(clause.key_low, clause.chunk_start(start), start - clause.distance_high)
        high = min(clause.key_high, clause.chunk_stop(start), self.n, stop - clause.distance_low) - 1
        keys = progression(low, high, clause.key_residue, clause.key_step)
        if keys is None:
            return 0
        if clause.query_step > 1:
            return self._query_by_query(start, stop)
        if clause.distance_multiple <= stop - start:
            # Any `distance_multiple` queries in a row hold a reader for every key within the distance bounds.
            return self.key_tiles & _bits(keys.first // self.size, keys.last // self.size)
        if clause.key_step == 1:
            return self._along_diagonals(start, stop, low, high)
        return self._distance_by_distance(start, stop, low, high)

    def _tiles_of(self, keys: Progression) -> int:
        if keys.step <= self.size:
            return _bits(keys.first // self.size, keys.last // self.size)
        touched = 0
        for key in range(keys.first, keys.last + 1, keys.step):
            touched |= 1 << key // self.size
        return touched

    def _query_by_query(self, start: int, stop: int) -> int:
        clause, touched = self.clause, 0
        for q in range(start + (clause.query_residue - start) % clause.query_step, stop, clause.query_step):
            keys = clause.keys_of(q, self.n)
            touched |= 0 if keys is None else self._tiles_of(keys)
        return touched

    def _distances(self, low: int, high: int) -> range:
        """The allowed distances between low and high."""
        multiple = self.clause.distance_multiple
        low, high = max(low, self.clause.distance_low), min(high, self.clause.distance_high)
        return range(-(-low // multiple) * multiple, high + 1, multiple)

    def _distance_by_distance(self, start: int, stop: int, low: int, high: int) -> int:
        clause, touched = self.clause, 0
        for distance in self._distances(start - high, stop - 1 - low):
            keys = progression(
                max(low, start - distance), min(high, stop - 1 - distance), clause.key_residue, clause.key_step
            )
            if keys is not None:
                touched |= 1 << keys.first // self.size | 1 << keys.last // self.size
        return touched

    def _along_diagonals(self, start: int, stop: int, low: int, high: int) -> int:
        """Far-apart diagonals look the same in every row of tiles: draw them once, shift, and mend both ends."""
        size, first, last = self.size, low // self.size, high // self.size
        phase, columns = start % size, -(-self.n // size)
        drawn = self.diagonals.get((phase, stop - start))
        if drawn is None:
            drawn = 0
            for distance in self._distances(-self.n, self.n):
                nearest = phase - distance
                drawn |= 1 << nearest // size + columns | 1 << (nearest + stop - start - 1) // size + columns
            self.diagonals[phase, stop - start] = drawn
        shift = columns - start // size
        inner = (drawn >> shift if shift >= 0 else drawn << -shift) & _bits(first + 1, last - 1)
        for column in {first, last}:
            key_low, key_high = max(low, column * size), min(high, column * size + size - 1)
            if self._distances(start - key_high, stop - 1 - key_low):
                inner |= 1 << column
        return inner
