"""Training a Unigram vocabulary: the pieces of which the words of a text are most likely made.

The algorithm is that of Kudo (2018, https://arxiv.org/abs/1804.10959) as SentencePiece has it: start from all frequent
substrings, then alternate between expected counts (forward-backward) and dropping the pieces that are missed least.

The result is the same on every machine: likelihoods are added and multiplied element by element in a fixed order, sums
are exactly rounded, and logarithms are computed here, since those of a C library differ in the last bit.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    import numpy as np

LONGEST_PIECE = 16
"""Bytes."""
_LONGEST_WORD = 32
"""Bytes of a word in training; longer ones are cut. The product of that many likelihoods is far from zero."""
_MOST_BYTES = 2**22
"""Bytes of different words that are looked at, the most frequent first."""
_MOST_SEEDS, _SEEDS_PER_PIECE, _FEWEST_SEEDS = 1_000_000, 8, 30_000
_SHRINK = 0.75
"""Share of the pieces that is kept each time."""
_SPARE = 1.1
"""Where dropping ends, over the pieces that are wanted; the likeliest of the rest are taken."""
_ROUNDS = 2
"""Expected counts between two droppings."""
_LEAST = 1e-9
"""Likelihood of a byte that the text lacks."""


def unigram_pieces(counts: Counter[bytes], room: int) -> list[tuple[bytes, float]]:
    """At most `room` pieces with their log-likelihoods, likeliest first; all 256 bytes are among them.

    `counts` says how often each word occurs.
    """
    import numpy as np

    words = _Words(counts)
    lattice = _Lattice(words, room)
    likelihood = lattice.first_guess()
    while True:
        expected = likelihood
        for _ in range(_ROUNDS):
            expected = lattice.expected(likelihood)
            likelihood = lattice.likelihoods(expected)
        alive = int(np.count_nonzero(likelihood))
        if alive <= max(256, int(room * _SPARE)):
            break
        likelihood = lattice.without_least(likelihood, expected, max(int(alive * _SHRINK), int(room * _SPARE), 256))
    return lattice.best(likelihood, room)


@final
class _Words:
    """Words of equal length together, the first bytes of all of them, then the second bytes, and so on.

    In that order the next byte of a word lies `stride` further on.
    """

    def __init__(self, counts: Counter[bytes]) -> None:
        import numpy as np

        cut: Counter[bytes] = Counter()
        for word, count in counts.items():
            for start in range(0, len(word), _LONGEST_WORD):
                cut[word[start : start + _LONGEST_WORD]] += count
        taken: dict[int, list[tuple[bytes, int]]] = {}
        size = 0
        for word, count in sorted(cut.items(), key=lambda item: (-item[1], item[0])):
            size += len(word)
            if size > _MOST_BYTES:
                break
            taken.setdefault(len(word), []).append((word, count))
        self.groups: list[tuple[int, int, int]] = []
        """Start, length of the words, and their number."""
        text: list[np.ndarray] = []
        weight: list[np.ndarray] = []
        stride: list[np.ndarray] = []
        left: list[np.ndarray] = []
        at = 0
        for length in sorted(taken):
            number = len(taken[length])
            self.groups.append((at, length, number))
            block = np.frombuffer(b"".join(word for word, _ in taken[length]), dtype=np.uint8)
            text.append(block.reshape(number, length).T.reshape(-1))
            weight.append(np.tile(np.array([count for _, count in taken[length]], dtype=np.float64), length))
            stride.append(np.full(number * length, number, dtype=np.int64))
            left.append(np.repeat(np.arange(length, 0, -1, dtype=np.int64), number))
            at += number * length
        self.size = at
        self.text = _joined(text, np.uint8)
        self.weight = _joined(weight, np.float64)
        self.stride = _joined(stride, np.int64)
        self.left = _joined(left, np.int64)


def _joined(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    import numpy as np

    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


@final
class _Lattice:
    """Which piece starts at each byte with each length, and what follows from the pieces' likelihoods.

    Piece 0 to 255 are the bytes; `none` stands for no piece, with likelihood 0.
    """

    def __init__(self, words: _Words, room: int) -> None:
        import numpy as np

        self.words = words
        self.at: list[np.ndarray] = [np.zeros(0, dtype=np.int32)] * (LONGEST_PIECE + 1)
        """For each length the piece that starts at each byte, or -1."""
        self.at[1] = words.text.astype(np.int32)
        lengths = [np.ones(256, dtype=np.int64)]
        self.score = [np.bincount(words.text, weights=words.weight, minlength=256)]
        first = [np.zeros(256, dtype=np.int64)]
        number = 256
        for length in range(2, LONGEST_PIECE + 1):
            self.at[length], score, places = self._substrings(length, number)
            self.score.append(score * length)
            first.append(places)
            lengths.append(np.full(len(score), length, dtype=np.int64))
            number += len(score)
        self.lengths, self.first = np.concatenate(lengths), np.concatenate(first)
        score = np.concatenate(self.score)
        self._keep_best(score, min(_MOST_SEEDS, max(_FEWEST_SEEDS, _SEEDS_PER_PIECE * room)))

    def _substrings(self, length: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The substrings that occur more than once: the pieces, their counts, and where each is found first."""
        import numpy as np

        words, before = self.words, self.at[length - 1]
        found = np.full(words.size, -1, dtype=np.int32)
        starts = np.flatnonzero((words.left >= length) & (before >= 0))
        last = words.text[starts + (length - 1) * words.stride[starts]]
        keys, first, which = np.unique(
            before[starts].astype(np.int64) * 256 + last, return_index=True, return_inverse=True
        )
        count = np.bincount(which, weights=words.weight[starts], minlength=len(keys))
        often = count >= 2
        numbers = np.where(often, np.cumsum(often) - 1 + number, -1)
        found[starts] = numbers[which]
        return found, count[often], starts[first[often]]

    def _keep_best(self, score: np.ndarray, most: int) -> None:
        """Only the bytes and the pieces with the highest scores."""
        import numpy as np

        order = np.lexsort((np.arange(len(score)), -score))
        order = order[order >= 256][: max(0, most - 256)]
        kept = np.concatenate([np.arange(256), np.sort(order)])
        numbers = np.full(len(score) + 1, -1, dtype=np.int32)
        numbers[kept] = np.arange(len(kept), dtype=np.int32)
        self.none = len(kept)
        numbers[numbers < 0] = self.none
        self.at = [numbers[pieces] for pieces in self.at]
        self.lengths, self.first = self.lengths[kept], self.first[kept]
        self._guess = score[kept]

    def first_guess(self) -> np.ndarray:
        """Likelihoods from how often the pieces occur."""
        return _normal(self._guess)

    def likelihoods(self, expected: np.ndarray) -> np.ndarray:
        """From expected counts, by exp(digamma(x)) as x - 1/2 + 1/(24 x); pieces expected less than half a time go."""
        import numpy as np

        kept = np.where(expected >= 0.5, expected, 1.0)
        return _normal(np.where(expected >= 0.5, kept - 0.5 + 1 / (24 * kept), 0.0))

    def expected(self, likelihood: np.ndarray) -> np.ndarray:
        """How often each piece is expected in the words: forward-backward over all segmentations."""
        import numpy as np

        chance = np.append(likelihood, 0.0)
        sizes = [int(size) for size in np.unique(self.lengths[likelihood > 0])]
        chances = {size: chance[self.at[size]] for size in sizes}
        parts = {size: np.zeros(self.words.size) for size in sizes}
        for start, length, number in self.words.groups:
            block = slice(start, start + length * number)
            arcs = {size: chances[size][block].reshape(length, number) for size in sizes if size <= length}
            forward, backward = _forward(arcs, length, number), _backward(arcs, length, number)
            scale = self.words.weight[start : start + number] / forward[length]
            for size, arc in arcs.items():
                rows = length - size + 1
                part = parts[size][block].reshape(length, number)
                part[:rows] = forward[:rows] * arc[:rows] * backward[size:] * scale
        total = np.zeros(len(chance))
        for size in sizes:
            total += np.bincount(self.at[size], weights=parts[size], minlength=len(chance))
        return total[:-1]

    def without_least(self, likelihood: np.ndarray, expected: np.ndarray, keep: int) -> np.ndarray:
        """Drop the pieces whose uses are spelled by others at the smallest loss of likelihood."""
        import numpy as np

        score = np.append(_log(likelihood), -np.inf)
        loss = np.where(likelihood > 0, np.inf, -np.inf)
        loss[:256] = np.inf
        for length in range(2, LONGEST_PIECE + 1):
            which = np.flatnonzero((self.lengths == length) & (likelihood > 0))
            other = self._best_other(which, length, score)
            loss[which] = expected[which] * (score[which] - other)
        order = np.lexsort((np.arange(len(loss)), -loss))
        kept = np.zeros(len(loss), dtype=bool)
        kept[order[:keep]] = True
        kept[:256] = True
        return _normal(np.where(kept, likelihood, 0.0))

    def _best_other(self, which: np.ndarray, length: int, score: np.ndarray) -> np.ndarray:
        """The log-likelihood of the best way to spell each piece by others."""
        import numpy as np

        start, stride = self.first[which], self.words.stride[self.first[which]]
        best = [np.zeros(len(which))]
        for end in range(1, length + 1):
            found = np.full(len(which), -np.inf)
            for size in range(1, end + 1):
                if size < length:
                    begin = end - size
                    found = np.maximum(found, best[begin] + score[self.at[size][start + begin * stride]])
            best.append(found)
        return best[length]

    def best(self, likelihood: np.ndarray, room: int) -> list[tuple[bytes, float]]:
        """The bytes, and the likeliest other pieces there is room for."""
        import numpy as np

        order = np.lexsort((np.arange(len(likelihood)), -likelihood))
        order = order[(order >= 256) & (likelihood[order] > 0)][: room - 256]
        kept = np.concatenate([np.arange(256), order])
        scores = _log(likelihood[kept]).tolist()
        pieces = [self._bytes(int(piece)) for piece in kept]
        found = [(piece, round(score, 6)) for piece, score in zip(pieces, scores, strict=True)]
        return sorted(found, key=lambda each: (-each[1], each[0]))

    def _bytes(self, piece: int) -> bytes:
        if piece < 256:
            return bytes([piece])
        start, length = int(self.first[piece]), int(self.lengths[piece])
        stride = int(self.words.stride[start])
        return self.words.text[start : start + (length - 1) * stride + 1 : stride].tobytes()


def _forward(arcs: dict[int, np.ndarray], length: int, number: int) -> np.ndarray:
    """The likelihood of each word up to each byte."""
    import numpy as np

    found = np.zeros((length + 1, number))
    found[0] = 1
    for end in range(1, length + 1):
        for size, arc in arcs.items():
            if size <= end:
                found[end] += found[end - size] * arc[end - size]
    return found


def _backward(arcs: dict[int, np.ndarray], length: int, number: int) -> np.ndarray:
    """The likelihood of each word from each byte on."""
    import numpy as np

    found = np.zeros((length + 1, number))
    found[length] = 1
    for start in range(length - 1, -1, -1):
        for size, arc in arcs.items():
            if start + size <= length:
                found[start] += arc[start] * found[start + size]
    return found


def _normal(weights: np.ndarray) -> np.ndarray:
    """Likelihoods that add up to one, apart from the bytes, which never vanish."""
    import numpy as np

    found = weights / max(math.fsum(weights.tolist()), 1.0e-300)
    found[:256] = np.maximum(found[:256], _LEAST)
    return found


def _log(x: np.ndarray) -> np.ndarray:
    """The natural logarithm from additions, multiplications and divisions alone; -inf for 0. Off by less than 1e-14."""
    import numpy as np

    mantissa, exponent = np.frexp(x)
    small = mantissa < 0.7071067811865476
    mantissa, exponent = np.where(small, mantissa * 2, mantissa), np.where(small, exponent - 1, exponent)
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = np.zeros_like(ratio)
    for odd in range(25, 0, -2):
        series = series * square + 1 / odd
    return np.where(x > 0, exponent * 0.6931471805599453 + 2 * ratio * series, -np.inf)
