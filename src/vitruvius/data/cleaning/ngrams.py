"""How much of a text is n-grams of words that occur more than once."""

from __future__ import annotations

from itertools import accumulate
from typing import Final, NamedTuple

from vitruvius.data.extras import require

LARGEST: Final = 10
"""The longest n-grams that are looked at."""


class Repeats(NamedTuple):
    """What repeated n-grams of one length cover, in characters."""

    top: int
    """The most frequent n-gram, spaces between its words, times how often it occurs; of equals the first."""
    duplicates: int
    """What lies in n-grams that occurred before, read from left to right without overlap."""


def repeats(words: list[str]) -> dict[int, Repeats]:
    """By n, what repeated n-grams cover, for 2 to `LARGEST`; lengths that the text is too short for are left out.

    An n-gram that repeats starts and ends with (n-1)-grams that repeat, so only places where those do are looked at:
    of ordinary text few are left after n = 3.

    Raises:
        MissingExtraError: numpy is not installed.
    """
    require("numpy")
    import numpy as np

    ends = [0, *accumulate(map(len, words))]
    vocabulary: dict[str, int] = {}
    found: dict[int, Repeats] = {}
    # Where a repeated n-gram starts, in order, and the number of that n-gram.
    starts = np.arange(len(words))
    grams = np.fromiter((vocabulary.setdefault(word, len(vocabulary)) for word in words), np.int64, len(words))
    for n in range(2, min(LARGEST, len(words)) + 1):
        joined = np.flatnonzero(starts[1:] - starts[:-1] == 1)
        if not len(joined):
            found[n] = Repeats(ends[n] + n - 1, 0)
            starts, grams = starts[:0], grams[:0]
            continue
        # A number is less than the number of words, so that two of them fit into 64 bits.
        pairs = grams[joined] * len(words) + grams[joined + 1]
        starts = starts[joined]
        order = pairs.argsort(kind="stable")
        ordered = pairs[order]
        borders = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        counts = np.diff(borders, prepend=0, append=len(ordered))
        most = int(counts.max())
        place = 0
        if most > 1:
            # The sort is stable: the first of a group is the one that comes first in the text.
            firsts = order[np.concatenate(([0], borders))[counts == most]]
            place = int(starts[firsts.min()])
        numbers = np.empty_like(pairs)
        numbers[order] = np.repeat(np.arange(len(counts)), counts)
        repeated = counts[numbers] > 1
        starts, grams = starts[repeated], numbers[repeated]
        top = (ends[place + n] - ends[place] + n - 1) * most
        found[n] = Repeats(top, _duplicates(starts.tolist(), grams.tolist(), n, ends))
    return found


def _duplicates(starts: list[int], grams: list[int], n: int, ends: list[int]) -> int:
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
