"""Whose turn it is: sources drawn by weight, so evenly that after any number of samples each has had its share.

Sources are the leaves of a binary tree. At a node, of n samples that come to it, floor(n p + 1/2) went to the left, p
being the left one's part of the node's weight: the spacing of Bresenham's line. Whose sample the n-th is, and how many
each source had before it, follows from n alone in as many steps as the tree is deep, in whole numbers and so without
drift. The tree is Huffman's ("A Method for the Construction of Minimum-Redundancy Codes", 1952): what is at a node is
off by at most half a sample more than its part of what its parent is off, and no inner node has more than 2/3 of its
parent, so a source is never off by 2 samples or more, by 1 among three sources and by 1/2 among two.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

_LARGEST_TOTAL = 2**40
"""Leaves room for batches of a million samples in 64 bits."""
MOST_SAMPLES = 2**20
"""Drawn at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    left: _Tree
    right: _Tree
    left_weight: int
    weight: int


_Tree: TypeAlias = "int | _Node"
"""A leaf is the number of its source."""


@final
class Turns:
    """Which source each sample is drawn from; sample numbers count from 0."""

    __slots__ = ("_tree", "weights")

    def __init__(self, weights: Sequence[int]) -> None:
        """One weight per source, whole numbers from 0; one of them at least is above."""
        assert any(weights)
        assert all(weight >= 0 for weight in weights)
        self.weights = tuple(_within(weights))
        self._tree = _huffman(self.weights)

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of all samples that each source gets."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    def counts(self, samples: int) -> tuple[int, ...]:
        """How many of the first `samples` are each source's."""
        counts = [0] * len(self.weights)
        for leaf, first in self._leaves(self._tree, samples):
            counts[leaf] = first
        return tuple(counts)

    def bounds(self) -> tuple[float, ...]:
        """How far each source may be from its share of any number of samples, in samples: below 2."""
        bounds = [0.0] * len(self.weights)
        waiting: list[tuple[_Tree, Fraction]] = [(self._tree, Fraction(0))]
        while waiting:
            tree, bound = waiting.pop()
            if isinstance(tree, int):
                bounds[tree] = float(bound)
                continue
            left = Fraction(tree.left_weight, tree.weight)
            waiting += [(tree.left, left * bound + Fraction(1, 2)), (tree.right, (1 - left) * bound + Fraction(1, 2))]
        return tuple(bounds)

    def draw(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Source of each of the samples `first` to `first + count`, and how many that source had before: int64."""
        import numpy as np

        assert first >= 0
        if count > MOST_SAMPLES:
            starts = range(first, first + count, MOST_SAMPLES)
            parts = [self.draw(start, min(MOST_SAMPLES, first + count - start)) for start in starts]
            return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        sources, before = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        waiting: list[tuple[_Tree, int, np.ndarray]] = [(self._tree, first, np.arange(count, dtype=np.int64))]
        while waiting:
            tree, start, places = waiting.pop()
            if isinstance(tree, int):
                sources[places] = tree
                before[places] = start + np.arange(len(places), dtype=np.int64)
                continue
            gone, rest = divmod(2 * start * tree.left_weight + tree.weight, 2 * tree.weight)
            steps = rest + 2 * tree.left_weight * np.arange(len(places) + 1, dtype=np.int64)
            left = np.diff(steps // (2 * tree.weight)) == 1
            waiting += [(tree.left, gone, places[left]), (tree.right, start - gone, places[~left])]
        return sources, before

    def _leaves(self, tree: _Tree, samples: int) -> Iterator[tuple[int, int]]:
        if isinstance(tree, int):
            yield tree, samples
            return
        left = (2 * samples * tree.left_weight + tree.weight) // (2 * tree.weight)
        yield from self._leaves(tree.left, left)
        yield from self._leaves(tree.right, samples - left)


def whole_weights(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the proportions of the numbers as they are written: 0.7 and 0.3 are 7 and 3."""
    fractions = [Fraction(repr(weight)) for weight in weights]
    unit = math.lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * unit) for fraction in fractions]


def _within(weights: Sequence[int]) -> list[int]:
    """The weights with a sum of at most about 2**40; none that is above 0 becomes 0."""
    divisor = math.gcd(*weights)
    weights = [weight // divisor for weight in weights]
    total = sum(weights)
    if total <= _LARGEST_TOTAL:
        return weights
    return [max(1, weight * _LARGEST_TOTAL // total) if weight else 0 for weight in weights]


def _huffman(weights: Sequence[int]) -> _Tree:
    """The tree over the sources of a weight above 0; of equal weights the earlier go together."""
    ticket = itertools.count()
    heap: list[tuple[int, int, _Tree]] = [(weight, next(ticket), n) for n, weight in enumerate(weights) if weight]
    heapq.heapify(heap)
    while len(heap) > 1:
        light, _, right = heapq.heappop(heap)
        heavy, _, left = heapq.heappop(heap)
        node = _Node(left=left, right=right, left_weight=heavy, weight=light + heavy)
        heapq.heappush(heap, (node.weight, next(ticket), node))
    return heap[0][2]
