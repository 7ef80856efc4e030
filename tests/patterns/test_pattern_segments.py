from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.patterns import (
    Pattern,
    Segment,
    causal,
    dilated,
    everything,
    fold,
    full_tile,
    parse,
    segments,
    sliding,
    stride,
)

PATTERNS = st.from_type(Pattern)
N = 48


def mask(pattern: Pattern, n: int) -> np.ndarray:
    return pattern.allows(np.arange(n)[:, None], np.arange(n)[None, :])


def positions(runs: tuple[Segment, ...]) -> list[int]:
    return [k for run in runs for k in range(N)[run.slice]]


@given(PATTERNS, st.integers(0, 47), st.integers(1, 16), st.integers(1, N))
def test_segments_hold_every_key_that_is_read_and_none_twice(pattern, start, length, n_keys):
    stop = min(start + length, N)
    listed = positions(segments(pattern, start, stop, n_keys))
    needed = np.flatnonzero(mask(pattern, N)[start:stop, :n_keys].any(axis=0))
    assert len(listed) == len(set(listed))
    assert set(needed) <= set(listed) <= set(range(n_keys))
    assert sum(run.size for run in segments(pattern, start, stop, n_keys)) == len(listed)


@given(PATTERNS, st.integers(0, 47))
def test_the_segments_of_one_query_are_exactly_its_keys(pattern, q):
    assert sorted(positions(segments(pattern, q, q + 1, N))) == np.flatnonzero(mask(pattern, N)[q]).tolist()


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("causal", [(0, 640, 1)]),
        ("everything", [(0, 1_000, 1)]),
        ("causal & sliding(100)", [(413, 640, 1)]),
        ("around(10)", [(503, 649, 1)]),
        ("causal & (sliding(100) | sinks(4))", [(0, 4, 1), (413, 640, 1)]),
        ("causal & (sliding(100) | global(every=128))", [(0, 385, 128), (413, 640, 1)]),
        ("causal & (sliding(100) | global(every=128) | sinks(4))", [(0, 4, 1), (128, 385, 128), (413, 640, 1)]),
        ("causal & block(512)", [(512, 640, 1)]),
        ("block(600)", [(0, 1_000, 1)]),
        ("global(every=4, offset=1) & global(every=4)", []),
    ],
)
def test_a_block_of_128_queries_needs_its_window_its_block_and_the_globals(text, runs):
    found = segments(parse(text), 512, 640, 1_000)
    assert [(run.start, run.stop, run.step) for run in found] == runs


@given(PATTERNS, st.integers(0, 30), st.integers(0, 12), st.integers(0, 30), st.integers(0, 12))
def test_a_full_tile_needs_no_mask(pattern, q0, rows, k0, columns):
    if full_tile(pattern, q0, q0 + rows, k0, k0 + columns):
        assert mask(pattern, N)[q0 : q0 + rows, k0 : k0 + columns].all()


@pytest.mark.parametrize(
    ("text", "tile", "full"),
    [
        ("causal", (8, 16, 0, 8), True),
        ("causal", (8, 16, 0, 9), True),
        ("causal", (8, 16, 0, 10), False),
        ("sliding(16)", (15, 16, 0, 16), True),
        ("sliding(16)", (8, 17, 0, 8), False),
        ("everything", (0, 40, 0, 40), True),
        ("block(8)", (8, 16, 8, 16), True),
        ("block(8)", (8, 17, 8, 16), False),
        ("causal & (sliding(4) | sinks(8))", (20, 40, 0, 8), True),
        ("global(every=4)", (0, 4, 0, 4), False),
        ("causal", (4, 4, 0, 40), True),
    ],
)
def test_full_tiles_of_plain_patterns_are_recognised(text, tile, full):
    assert full_tile(parse(text), *tile) is full


@given(PATTERNS)
def test_folding_computes_the_same_pairs_within_each_residue(pattern):
    r, folded = fold(pattern)
    expected, inner = mask(pattern, N), mask(folded, N)
    q, k = np.arange(N)[:, None], np.arange(N)[None, :]
    assert (expected == ((q % r == k % r) & inner[q // r, k // r])).all()


@given(PATTERNS, st.integers(2, 5))
def test_stretching_a_pattern_by_a_dilation_folds_back(pattern, r):
    stretched, folded = pattern & stride(r), fold(pattern & stride(r))[0]
    restricted = any(clause.restricts_keys or clause.restricts_queries for clause in stretched.clauses)
    chunked = any(size % r for clause in stretched.clauses for size in clause.chunks)
    if stretched.clauses and not restricted and not chunked and stretched != sliding(1):
        assert folded % r == 0


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (causal & dilated(5, every=4), (4, sliding(5))),
        (causal & stride(6), (6, causal)),
        (stride(6), (6, everything)),
        (dilated(5, every=4) | dilated(3, every=6), (2, dilated(5, every=2) | dilated(3, every=3))),
        (parse("causal & stride(4) & block(16)"), (4, parse("causal & block(4)"))),
        (parse("causal & stride(4) & block(6)"), (2, parse("causal & stride(2) & block(3)"))),
        (sliding(5), (1, sliding(5))),
        (sliding(1), (1, sliding(1))),
        (causal, (1, causal)),
        (parse("dilated(5, every=4) | sinks(4)"), (1, parse("dilated(5, every=4) | sinks(4)"))),
        (parse("dilated(5, every=4) | sliding(2)"), (1, parse("dilated(5, every=4) | sliding(2)"))),
    ],
    ids=str,
)
def test_the_largest_fold_is_found(pattern, expected):
    assert fold(pattern) == expected
