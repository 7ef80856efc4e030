"""Rows of clauses with own conditions: whether they are empty, and after how many queries that repeats."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vitruvius.patterns.arithmetic import FOREVER
from vitruvius.patterns.expressions import Q, Truth, at, cost, values
from vitruvius.patterns.periods import COLUMN, DIAGONAL, period
from vitruvius.patterns.sums import simplified

if TYPE_CHECKING:
    from vitruvius.patterns.clause import Clause

_TRIED_FIRST: Final = 16
_BEGINNING: Final = 32
"""Beginning a loop takes as long as so many of its rounds."""


class OwnRows:
    """Whether queries read anything through a clause with own conditions, and the operations that took so far."""

    def __init__(self, clause: Clause, n: int) -> None:
        self.clause, self.condition, self.n = clause, clause.condition, n
        self.cost = cost(self.condition)
        self.tried = 0

    def reads(self, q: int) -> bool:
        """Whether query q reads a key; those near it and the first ones are tried before the others."""
        keys = self.clause.keys_of(q, self.n)
        if keys is None:
            return False
        row = range(keys.first, keys.last + 1, keys.step)
        for piece in (row[-_TRIED_FIRST:], row[:_TRIED_FIRST], row[_TRIED_FIRST:-_TRIED_FIRST]):
            if not piece:
                continue
            held = values(self.condition, q, piece)
            self.tried += self.cost * (len(piece) + _BEGINNING)
            if bool(held) if isinstance(held, int) else any(held):
                return True
        return False


def sees_itself(clause: Clause) -> bool:
    """Whether every query is known to read the key at its own position."""
    own = simplified(at(clause.condition, Q, Q))
    return own == Truth(value=True) and replace(clause, predicates=()).sees_itself


def repeats_after(clause: Clause) -> int | None:
    """After how many queries the rows are empty or not as before, the clause's bounds aside; None when not known.

    Rows that move along with the query repeat along the diagonals; rows among a few fixed keys, along the columns.
    """
    return period(clause.condition, DIAGONAL if clause.key_high >= FOREVER else COLUMN)
