"""A shuffle without a table: where each number goes is computed, so an epoch of any size costs no memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_ROUNDS = 6


def shuffled(positions: np.ndarray, size: int, *, seed: int, epoch: int, of: str = "") -> np.ndarray:
    """Where `positions` (int64, each below `size`) go in the permutation of `size` numbers for this seed and epoch.

    of: the name of what is shuffled; other names have other orders.

    A Feistel network over the next even power of two, walked until the number is below `size` again
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). It uses integer arithmetic only,
    so the order is the same on every machine and with every version of numpy.
    """
    import numpy as np

    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch, of)
    places = _feistel(positions.astype(np.uint64), half, keys)
    # The power of two is less than 4 * size, so a walk takes less than four steps on average.
    while (outside := places >= np.uint64(size)).any():
        places[outside] = _feistel(places[outside], half, keys)
    return places.astype(np.int64)


def _round_keys(seed: int, epoch: int, of: str) -> list[int]:
    digest = hashlib.shake_128(f"{seed}/{epoch}{f'/{of}' if of else ''}".encode()).digest(8 * _ROUNDS)
    return [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS)]


def _feistel(numbers: np.ndarray, half: int, keys: list[int]) -> np.ndarray:
    import numpy as np

    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = numbers >> shift, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ np.uint64(key)) & mask)
    return (left << shift) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: every output bit depends on every input bit."""
    import numpy as np

    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
