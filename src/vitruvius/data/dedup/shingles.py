"""A text as the set of its word n-grams, and how alike two such sets are."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from vitruvius.data.dedup.words import word_hashes

if TYPE_CHECKING:
    import numpy as np

_MASK = 2**64 - 1


def shingles(text: str, *, ngram: int) -> np.ndarray:
    """The set of the text's word n-grams as 64-bit hashes: sorted, each once, uint64.

    A text of fewer than `ngram` words has one shingle, of all its words, so two such texts have Jaccard similarity 1 or
    0. Two n-grams that differ have the same hash with probability 2**-64.
    """
    import numpy as np

    hashes = shingle_hashes(text, ngram=ngram)
    hashes.sort()
    new = np.ones(len(hashes), dtype=np.bool_)
    np.not_equal(hashes[1:], hashes[:-1], out=new[1:])
    return hashes[new]


def shingle_hashes(text: str, *, ngram: int) -> np.ndarray:
    """As `shingles`, but in the order of the text and with repetitions: enough where only the minimum counts."""
    import numpy as np

    words = word_hashes(text)
    if len(words) < ngram:
        if len(words) == 0:
            return np.empty(0, dtype=np.uint64)
        # Its length is in the hash, so that a short text and an n-gram of other words cannot meet.
        short = constant("short", len(words))
        for word in words.tolist():
            short = (short * _BASE + word) & _MASK
        return np.array([short], dtype=np.uint64)
    count = len(words) - ngram + 1
    sums = words[:count].copy()
    for place in range(1, ngram):
        sums *= np.uint64(_BASE)
        sums += words[place : place + count]
    return sums


def constant(name: str, number: int, *, seed: int = 0) -> int:
    """An odd 64-bit number that looks random and is the same everywhere, always."""
    key = f"{name} {number} {seed}"
    if key not in _constants:
        _constants[key] = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") | 1
    return _constants[key]


_constants: dict[str, int] = {}
_BASE = constant("shingle", 0)
"""An n-gram's hash is the polynomial in this number whose coefficients are the hashes of its words."""


def intersection(a: np.ndarray, b: np.ndarray) -> int:
    """How many hashes two sets (sorted, each once) share."""
    import numpy as np

    both = np.concatenate((a, b))
    both.sort()
    return int(np.count_nonzero(both[1:] == both[:-1]))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Exact Jaccard similarity of two sets: what they share over what either has. 0 where both are empty."""
    shared = intersection(a, b)
    union = len(a) + len(b) - shared
    return shared / union if union else 0.0
