"""What a model of pairs must beat: the most frequent target, and that of the training source most alike. No torch.

Alike is the cosine of TF-IDF vectors over the words of the sources: log(1 + count) * log((1 + N) / (1 + n)) for a word
in n of N training sources, as in BM25's ancestors (Salton and Buckley, 1988). Ties go to the earlier pair.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a source, in lower case."""
    return _WORD.findall(text.lower())


def most_frequent(targets: Sequence[str]) -> str:
    """The target that stands most often; of several, the first in the alphabet.

    Raises ValueError when there is none.
    """
    if not targets:
        raise ValueError("there is no target")
    counts = Counter(targets)
    return min(counts, key=lambda target: (-counts[target], target))


@final
class Nearest:
    """The nearest of some training pairs, by their sources' words."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Take (source, target) pairs. Raises ValueError when there is none."""
        if not pairs:
            raise ValueError("there is no pair to look among")
        self._targets = [target for _, target in pairs]
        counted = [Counter(words(source)) for source, _ in pairs]
        spread = Counter(word for counts in counted for word in counts)
        self._weights = {word: math.log((1 + len(pairs)) / (1 + number)) for word, number in spread.items()}
        self._places: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, counts in enumerate(counted):
            for word, value in self._vector(counts).items():
                self._places[word].append((number, value))

    def target(self, source: str) -> str:
        """The target of the training source most like this one; of none alike, that of the first pair."""
        scores: dict[int, float] = defaultdict(float)
        for word, value in self._vector(Counter(words(source))).items():
            for number, other in self._places[word]:
                scores[number] += value * other
        nearest = min(scores, key=lambda number: (-scores[number], number), default=0)
        return self._targets[nearest]

    def _vector(self, counts: Counter[str]) -> dict[str, float]:
        """The words that training knows, weighed, of length 1."""
        values = {
            word: math.log1p(count) * self._weights[word]
            for word, count in counts.items()
            if self._weights.get(word, 0.0) > 0
        }
        length = math.sqrt(math.fsum(value * value for value in values.values()))
        return {word: value / length for word, value in values.items()} if length else {}
