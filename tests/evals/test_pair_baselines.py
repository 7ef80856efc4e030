"""The two baselines: the most frequent target, and the nearest source by TF-IDF against a plain computation."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from vitruvius.evals.pair_baselines import Nearest, most_frequent, words


def test_the_most_frequent_target_and_ties_by_the_alphabet():
    assert most_frequent(["b", "a", "b", "c"]) == "b"
    assert most_frequent(["c", "a", "b"]) == "a"
    with pytest.raises(ValueError, match="no target"):
        most_frequent([])


def test_the_nearest_source_is_that_of_dense_tf_idf_vectors():
    draw = random.Random(4)
    vocabulary = [f"w{number}" for number in range(30)]
    pairs = [(" ".join(draw.choices(vocabulary, k=draw.randrange(1, 9))), f"t{number}") for number in range(60)]
    nearest = Nearest(pairs)
    spread = Counter(word for source, _ in pairs for word in set(words(source)))

    def vector(source):
        counts = Counter(words(source))
        values = [
            math.log1p(counts[word]) * math.log(61 / (1 + spread[word])) if spread[word] else 0.0 for word in vocabulary
        ]
        length = math.sqrt(sum(value * value for value in values))
        return [value / length for value in values] if length else values

    known = [vector(source) for source, _ in pairs]
    for _ in range(40):
        asked = " ".join(draw.choices([*vocabulary, "unknown"], k=draw.randrange(1, 9)))
        mine = vector(asked)
        scores = [sum(a * b for a, b in zip(mine, other, strict=True)) for other in known]
        found = scores[[target for _, target in pairs].index(nearest.target(asked))]
        assert found == pytest.approx(max(scores), abs=1e-12)


def test_a_source_of_unknown_words_gets_the_first_target():
    assert Nearest([("alpha beta", "first"), ("gamma", "second")]).target("delta") == "first"
    assert Nearest([("alpha beta", "first"), ("gamma", "second")]).target("GAMMA!") == "second"
