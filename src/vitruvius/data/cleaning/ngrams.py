"""How much of a text is n-grams of words that occur more than once."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST: Final = 10
"""The longest n-grams that are looked at."""


class Repeats(NamedTuple):
    """What repeated n-grams of one length cover, in characters."""

    top: int
    """The most frequent n-gram, spaces between its words, times how often it occurs; of equals the first."""
    duplicates: int
    """What lies in n-grams that occurred before, read from left to right without overlap."""


def repeats(words: list[str]) -> dict[int, Repeats]:
    """n -> what repeated n-grams cover, for 2 to `LARGEST`; lengths that the text is too short for are left out.

    An n-gram that repeats starts and ends with (n-1)-grams that repeat, so only places where those do are looked at:
    of ordinary text few are left after n = 3, and any text takes time linear in its words.
    """
    ends = list(accumulate(map(len, words), initial=0))
    found: dict[int, Repeats] = {}
    # Places, in order, where a repeated n-gram starts, and the number of that n-gram.
    starts: Sequence[int] = range(len(words) - 1)
    grams: list[Any] = list(pairwise(words))
    for n in range(2, min(LARGEST, len(words)) + 1):
        if n > 2:  # noqa: PLR2004 (pairs of words start the chain)
            joined = [
                (start, (gram, next_gram))
                for start, next_start, gram, next_gram in zip(starts, starts[1:], grams, grams[1:], strict=False)
                if next_start - start == 1
            ]
            starts, grams = [start for start, _ in joined], [gram for _, gram in joined]
        counts = Counter(grams)
        most = max(counts.values(), default=1)
        place = 0
        if most > 1:
            place = starts[grams.index(next(gram for gram, count in counts.items() if count == most))]
        numbers = {gram: number for number, (gram, count) in enumerate(counts.items()) if count > 1}
        starts = [start for start, gram in zip(starts, grams, strict=True) if gram in numbers]
        grams = [numbers[gram] for gram in grams if gram in numbers]
        top = (ends[place + n] - ends[place] + n - 1) * most
        found[n] = Repeats(top, _duplicates(starts, grams, n, ends))
    return found


def _duplicates(starts: Sequence[int], grams: list[int], n: int, ends: list[int]) -> int:
    covered, free = 0, 0
    seen: set[int] = set()
    for start, gram in zip(starts, grams, strict=True):
        if start < free:
            continue
        if gram in seen:
            covered += ends[start + n] - ends[start]
            free = start + n
        else:
            seen.add(gram)
    return covered
