"""Baselines: counting models and gzip, against figures worked out by hand and by brute force."""

from __future__ import annotations

import gzip
import math
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from vitruvius.data import PrepareOptions, TokenShards, prepare
from vitruvius.data.baselines import (
    DISCOUNT,
    baselines,
    gzip_bits_per_byte,
    held_out_text,
    trigram_bits_per_byte,
    unigram_bits_per_byte,
)
from vitruvius.data.packing.shards import dtype_for
from vitruvius.data.packing.writing import SplitWriter

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("numpy")

TRAIN = [[1, 2, 3, 1, 2, 4, 0], [1, 2, 3, 3, 0], [5, 0]]
HELD_OUT = [[1, 2, 3, 0], [4, 1, 2, 5, 0]]


def open_split(folder: Path, split: str, documents: list[list[int]], vocab: int = 6) -> TokenShards:
    writer = SplitWriter(folder, split, vocab_size=vocab, shard_tokens=10**9)
    for ids in documents:
        writer.add(ids, text_bytes=3 * (len(ids) - 1))
    index = {"vocab_size": vocab, "dtype": dtype_for(vocab), "eos_id": 0, "fingerprint": "0" * 64}
    return TokenShards(folder, split, index | {"splits": {split: writer.close()}})


@pytest.fixture
def splits(tmp_path):
    return open_split(tmp_path, "train", TRAIN), open_split(tmp_path, "validation", HELD_OUT)


def flat(documents: list[list[int]]) -> list[int]:
    return [token for ids in documents for token in ids]


def test_the_unigram_counts_plus_one(splits):
    counts = Counter(flat(TRAIN))
    total = sum(counts.values()) + 6
    expected = -sum(math.log2((counts[token] + 1) / total) for token in flat(HELD_OUT)) / (3 * 7)
    assert unigram_bits_per_byte(*splits) == pytest.approx(expected, rel=1e-12)


def slow_trigram(train: list[int], vocab: int):
    """P(token | the two before) by its recursive definition, over plain lists."""
    padded = [0, 0, *train]

    def probability(context: tuple[int, ...], token: int) -> float:
        if not context:
            return (padded.count(token) + 1) / (len(padded) + vocab)
        shorter = probability(context[1:], token)
        size = len(context)
        after = [padded[i] for i in range(2, len(padded)) if tuple(padded[i - size : i]) == context]
        if not after:
            return shorter
        kept = max(after.count(token) - DISCOUNT, 0) / len(after)
        return kept + DISCOUNT * len(set(after)) / len(after) * shorter

    return probability


def test_the_trigram_equals_its_definition(splits):
    probability = slow_trigram(flat(TRAIN), 6)
    asked = [0, 0, *flat(HELD_OUT)]
    bits = -sum(math.log2(probability((asked[i - 2], asked[i - 1]), asked[i])) for i in range(2, len(asked)))
    assert trigram_bits_per_byte(*splits) == pytest.approx(bits / (3 * 7), rel=1e-12)


def test_the_trigram_is_a_distribution():
    probability = slow_trigram(flat(TRAIN), 6)
    for context in ((1, 2), (2, 3), (5, 5), (0, 0)):
        assert sum(probability(context, token) for token in range(6)) == pytest.approx(1)


def test_the_trigram_takes_the_largest_vocabulary(tmp_path):
    vocab = 2**24
    documents = [[vocab - 1, vocab - 2, vocab - 3, 0]] * 5
    train, held = open_split(tmp_path, "train", documents, vocab), open_split(tmp_path, "validation", documents, vocab)
    assert trigram_bits_per_byte(train, held) < unigram_bits_per_byte(train, held)


def test_gzip_is_what_the_program_gives():
    text = b"abcabcabc" * 100
    assert gzip_bits_per_byte(text) == 8 * len(gzip.compress(text, 9, mtime=0)) / 900
    assert gzip_bits_per_byte(b"") > 0


def test_on_real_text_each_baseline_beats_the_one_before(tmp_path):
    for number in range(30):
        lines = [
            f"    def method_{number}_{i}(self, value):\n        return self.items[{i}] + value\n" for i in range(60)
        ]
        (tmp_path / f"{number}.py").write_text("".join(lines))
    prepare([tmp_path], tmp_path / "out", PrepareOptions(vocab=400, held_out=0.2))
    train, held = TokenShards.open(tmp_path / "out"), TokenShards.open(tmp_path / "out", "validation")
    found = baselines(train, held)
    assert found["uniform"] > found["unigram"] > found["trigram"] > 0
    assert 0 < found["gzip"] < 8
    assert len(held_out_text(held)) == held.text_bytes
    assert held_out_text(held).startswith(b"    def method_")
