"""How much of a text is n-grams of words that occur more than once."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

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
    # Places, in order, where a repeated (n-1)-gram starts -> where that first occurs.
    places: dict[int, int] = {}
    for n in range(2, min(LARGEST, len(words)) + 1):
        if n == 2:  # noqa: PLR2004 (pairs of words start the chain)
            counts = Counter(pairwise(words))
            pairs = ((place, pair) for place, pair in enumerate(pairwise(words)) if counts[pair] > 1)
        else:
            following = [(place, (places[place], places[place + 1])) for place in places if place + 1 in places]
            counts = Counter(pair for _, pair in following)
            pairs = ((place, pair) for place, pair in following if counts[pair] > 1)
        most = max(counts.values(), default=1)
        first: dict[Any, int] = {}
        places = {place: first.setdefault(pair, place) for place, pair in pairs}
        start = 0 if most == 1 else next(place for pair, place in first.items() if counts[pair] == most)
        top = (ends[start + n] - ends[start] + n - 1) * most
        found[n] = Repeats(top, _duplicates(places, n, ends))
    return found


def _duplicates(places: dict[int, int], n: int, ends: list[int]) -> int:
    covered, free = 0, 0
    seen: set[int] = set()
    for place, first in places.items():
        if place < free:
            continue
        if first in seen:
            covered += ends[place + n] - ends[place]
            free = place + n
        else:
            seen.add(first)
    return covered
