"""How near written names or short texts come to the right ones: exact match, and F1 over their subtokens. No torch.

Subtokens are what naming conventions join: `read_jsonLines2` is read, json, lines, 2. Over all pairs together
(code2vec, Alon et al., 2019):

    precision = shared subtokens / subtokens written        recall = shared subtokens / right subtokens
    f1        = 2 precision recall / (precision + recall)

A subtoken that stands twice counts twice; order does not count. `pair_f1` is the mean of each pair's own F1 (as SQuAD
takes it), where two texts without a subtoken agree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vitruvius.data.pairs.subtokens import subtokens

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How many pairs, and how near they are."""

    pairs: int
    exact_match: float
    """Share of the pairs whose texts are equal, but for white space at either end."""
    precision: float
    """Share of the written subtokens that are right."""
    recall: float
    """Share of the right subtokens that are written."""
    f1: float
    """Harmonic mean of the two."""
    pair_f1: float
    """Mean over the pairs of each one's F1."""

    def to_dict(self) -> dict[str, int | float]:
        """As JSON data."""
        return asdict(self)


def match(pairs: Iterable[tuple[str, str]]) -> Match:
    """Hold written texts against the right ones: (written, right).

    Raises ValueError when there are none.
    """
    number = exact = shared = written_parts = right_parts = 0
    each = 0.0
    for written, right in pairs:
        number += 1
        exact += written.strip() == right.strip()
        mine, due = Counter(subtokens(written)), Counter(subtokens(right))
        both = (mine & due).total()
        shared, written_parts, right_parts = shared + both, written_parts + mine.total(), right_parts + due.total()
        each += _f1(both, mine.total(), due.total())
    if not number:
        raise ValueError("there is no pair to hold against another")
    return Match(
        pairs=number,
        exact_match=exact / number,
        precision=shared / written_parts if written_parts else 0.0,
        recall=shared / right_parts if right_parts else 0.0,
        f1=_f1(shared, written_parts, right_parts),
        pair_f1=each / number,
    )


def _f1(shared: int, written: int, right: int) -> float:
    return 2 * shared / (written + right) if written + right else 1.0
