"""Banded MinHash signatures."""

from __future__ import annotations

import random
from hashlib import blake2b

import numpy as np
import pytest

from vitruvius.data.dedup.settings import NearSettings
from vitruvius.data.dedup.shingles import jaccard, shingle_hashes, shingles
from vitruvius.data.dedup.signing import NO_BAND, Signer, mix

SETTINGS = NearSettings(bands=3, rows=2, ngram=2, seed=7)


def test_a_signature_is_the_same_everywhere_and_always():
    signature = Signer(SETTINGS).sign("To be, or not to be: that is the question")
    assert signature.dtype == np.dtype("<u8")
    assert signature.tolist() == FIXED


FIXED = [14994568749339818279, 15770557500640914449, 17050002995392518385]


def drawn(name: str, number: int, seed: int) -> int:
    key = f"{name} {number} {seed}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") | 1


def test_a_band_is_the_hash_of_the_minima_of_its_rows_over_the_shingles():
    """The definition once more, in Python's own integers."""
    text = "one two three two one four five one"
    upper = [int(value) >> 32 for value in shingles(text, ngram=SETTINGS.ngram)]
    minima = [
        min((((drawn("multiply", i, 7) >> 32) | 1) * value + (drawn("add", i, 7) >> 32)) % 2**32 for value in upper)
        for i in range(SETTINGS.permutations)
    ]
    for band in range(SETTINGS.bands):
        total = drawn("band", band, 7) + sum(
            minima[band * SETTINGS.rows + row] * drawn("row", row, 7) for row in range(SETTINGS.rows)
        )
        value = total % 2**64
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            value = (value ^ value >> 33) * factor % 2**64
        assert Signer(SETTINGS).sign(text)[band] == value ^ value >> 33


def test_repetition_and_order_of_shingles_do_not_matter():
    signer = Signer(NearSettings(ngram=1))
    assert np.array_equal(signer.sign("a b c"), signer.sign("c B a, b; a"))


def test_another_seed_draws_other_functions():
    a, b = (
        Signer(NearSettings(seed=0)).sign("some text or other"),
        Signer(NearSettings(seed=1)).sign("some text or other"),
    )
    assert not (a == b).any()


def test_a_text_without_shingles_has_no_band_and_a_text_with_some_has_all():
    assert (Signer(NearSettings()).sign(" \n") == NO_BAND).all()
    assert (Signer(NearSettings()).sign("word") != NO_BAND).all()
    assert len(set(Signer(NearSettings()).sign("word").tolist())) == 20


def test_long_texts_are_signed_in_pieces_without_a_difference():
    signer = Signer(NearSettings(bands=4, rows=2, ngram=1))
    hashes = shingle_hashes(" ".join(map(str, range(50_000))), ngram=1)
    pieces = [signer.minima(hashes[start : start + 999]) for start in range(0, len(hashes), 999)]
    assert np.array_equal(signer.minima(hashes), np.min(pieces, axis=0))


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8, 0.95])
def test_minima_agree_as_often_as_the_sets_are_alike(similarity: float):
    """The mean over many pairs is within five standard errors, and its spread is that of independent functions."""
    signer = Signer(NearSettings(bands=20, rows=6, ngram=1))
    rng = random.Random(int(similarity * 100))
    size, pairs = 200, 300
    shared = round(2 * size * similarity / (1 + similarity))
    agreed, exact = [], []
    for _ in range(pairs):
        words = [f"w{rng.getrandbits(48):x}" for _ in range(2 * size - shared)]
        left, right = " ".join(words[:size]), " ".join(words[size - shared :])
        exact.append(jaccard(shingles(left, ngram=1), shingles(right, ngram=1)))
        a, b = (signer.minima(shingle_hashes(text, ngram=1)) for text in (left, right))
        agreed.append(float((a == b).mean()))
    true = float(np.mean(exact))
    sigma = (true * (1 - true) / signer.settings.permutations) ** 0.5
    assert abs(np.mean(agreed) - true) < 5 * sigma / pairs**0.5
    assert 0.8 < np.std(agreed) / sigma < 1.2


def test_pairs_share_a_band_as_often_as_the_curve_says():
    settings = NearSettings(bands=6, rows=4, ngram=1)
    signer = Signer(settings)
    rng = random.Random(1)
    size, shared, pairs = 90, 60, 2000
    hits = 0
    for _ in range(pairs):
        words = [f"w{rng.getrandbits(48):x}" for _ in range(2 * size - shared)]
        a, b = signer.sign(" ".join(words[:size])), signer.sign(" ".join(words[size - shared :]))
        hits += bool((a == b).any())
    expected = settings.recall_at(shared / (2 * size - shared))
    assert abs(hits / pairs - expected) < 5 * (expected * (1 - expected) / pairs) ** 0.5


def test_mixing_is_a_permutation_that_spreads_small_numbers():
    mixed = mix(np.arange(100_000, dtype=np.uint64))
    assert len(np.unique(mixed)) == 100_000
    counts = np.bincount((mixed >> np.uint64(60)).astype(np.int64), minlength=16)
    assert counts.min() > 5900 and counts.max() < 6600
