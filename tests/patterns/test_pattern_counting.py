from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import PatternError
from vitruvius.patterns import (
    FOREVER,
    NEVER,
    Clause,
    Pattern,
    block,
    causal,
    dilated,
    everything,
    global_,
    parse,
    sinks,
    sliding,
    stride,
)

PATTERNS = st.from_type(Pattern)
N = 40
PERIOD = 2_520
"""The least common multiple of 1 .. 9, and so of every step that the random patterns are made of."""
FAR = 300
"""Past every finite bound of the random patterns: from here on they only repeat."""


def mask(pattern: Pattern, queries: int, keys: int) -> np.ndarray:
    return pattern.allows(np.arange(queries)[:, None], np.arange(keys)[None, :])


def tiles(allowed: np.ndarray, size: int) -> int:
    n = len(allowed)
    return sum(bool(allowed[q : q + size, k : k + size].any()) for q in range(0, n, size) for k in range(0, n, size))


CORNERS = [
    parse("causal & block(9) & stride(4)"),
    parse("causal & ((block(10) & stride(4)) | (sinks(1) & stride(7)))"),
    Pattern((Clause(distance_high=-3),)),
    Pattern((Clause(distance_low=-9, distance_high=-3, key_step=4),)),
    Pattern((Clause(distance_low=7, key_step=5, key_residue=3, distance_multiple=3),)),
    Pattern((Clause(distance_low=7, distance_high=13, distance_multiple=3, chunks=(11,)),)),
    Pattern((Clause(key_step=6, key_residue=1, query_step=4, query_residue=3, distance_multiple=2),)),
    Pattern((Clause(key_step=3, query_step=5, query_low=6, query_high=31, chunks=(8, 12)),)),
    Pattern((Clause(key_low=5, key_high=19, distance_low=2, chunks=(16,)), Clause(query_step=7, distance_high=0))),
]


@pytest.mark.parametrize("pattern", CORNERS, ids=str)
def test_every_count_is_exact_at_every_length_in_the_corners(pattern):
    endless = mask(pattern, FAR + PERIOD, 60)
    for n in range(1, 60):
        allowed = mask(pattern, n, n)
        assert pattern.pairs(n) == allowed.sum()
        assert pattern.blocks(n, 5) == tiles(allowed, 5)
        assert pattern.live(n - 1) == endless[n - 1 :, :n].any(axis=0).sum()
        assert pattern.empty_rows(n, n) == tuple(np.flatnonzero(~allowed.any(axis=1)))
        assert pattern.unread_keys(n, n) == tuple(np.flatnonzero(~allowed.any(axis=0)))


@given(PATTERNS, st.integers(1, 90))
def test_pairs_equal_a_count_of_the_mask(pattern, n):
    assert pattern.pairs(n) == mask(pattern, n, n).sum()


@given(PATTERNS, st.integers(1, 70), st.integers(1, 9))
def test_blocks_equal_a_count_of_tiles_of_the_mask(pattern, n, size):
    assert pattern.blocks(n, size) == tiles(mask(pattern, n, n), size)


@given(PATTERNS)
def test_the_last_reader_is_the_last_query_that_reads_the_key(pattern):
    allowed = mask(pattern, FAR + PERIOD, N)
    for k in range(N):
        readers = np.flatnonzero(allowed[:, k])
        expected = int(readers[-1]) if len(readers) else NEVER
        assert pattern.last_reader(k) == (FOREVER if expected >= FAR else expected)


@pytest.mark.parametrize("pattern", [sliding(8), sinks(3) & sliding(5), dilated(4, every=3), block(6)], ids=str)
def test_a_sliding_window_never_reads_past_its_last_reader(pattern):
    for k in range(N):
        assert not any(pattern.allows(q, k) for q in range(pattern.last_reader(k) + 1, FAR))


@given(PATTERNS, st.integers(0, 80))
def test_live_counts_the_keys_that_this_or_a_later_query_reads(pattern, t):
    future = mask(pattern, FAR + PERIOD, t + 1)[t:]
    assert pattern.live(t) == future.any(axis=0).sum()


@given(PATTERNS, st.integers(0, 60), st.integers(1, 60))
def test_reads_counts_the_keys_of_one_query(pattern, q, n):
    assert pattern.reads(q, n) == mask(pattern, q + 1, n)[q].sum()


@given(PATTERNS, st.integers(1, 200), st.integers(1, 4))
def test_empty_rows_are_the_queries_that_see_nothing(pattern, n, limit):
    seen = mask(pattern, n, n).any(axis=1)
    assert pattern.empty_rows(n, limit) == tuple(np.flatnonzero(~seen)[:limit])


@given(PATTERNS, st.integers(1, 200), st.integers(1, 4))
def test_unread_keys_are_the_keys_that_no_query_reads(pattern, n, limit):
    read = mask(pattern, n, n).any(axis=0)
    assert pattern.unread_keys(n, limit) == tuple(np.flatnonzero(~read)[:limit])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("causal & sliding(8) & global(every=16)", (8, 9, 10)),
        ("causal & global(every=16, offset=5)", (0, 1, 2)),
        ("causal & global(every=16)", ()),
        ("causal & sinks(100000)", ()),
        ("causal & (sliding(64) | global(every=128))", ()),
        ("global(every=4) & global(every=4, offset=1)", (0, 1, 2)),
    ],
)
def test_empty_rows_are_found_at_full_length(text, rows):
    assert parse(text).empty_rows(131_072) == rows


def test_a_rare_empty_row_is_found_in_every_period():
    pattern = parse("causal & block(10) & global(every=21)")
    rows = pattern.empty_rows(1_000, limit=1_000)
    assert rows == tuple(q for q in range(1_000) if not any(pattern.allows(q, k) for k in range(q + 1)))
    assert 0 < len(rows) < 1_000


# The numbers of the LongContext layout at its real size.


def test_the_window_of_4096_attends_to_as_many_pairs_as_the_sum_says():
    n, window = 131_072, 4_096
    assert sliding(window).pairs(n) == sum(min(q + 1, window) for q in range(n))


def test_a_causal_stack_attends_to_half_the_square_and_its_diagonal():
    assert causal.pairs(102_400) == 102_400 * 102_401 // 2
    assert everything.pairs(102_400) == 102_400**2


def test_dilation_attends_to_one_key_in_every_step():
    n, window, every = 65_536, 1_024, 4
    assert dilated(window, every).pairs(n) == sum(min(q // every + 1, window) for q in range(n))


def test_globals_are_counted_once_where_the_window_holds_them_too():
    n, window, every = 20_000, 512, 128
    expected = sum(min(q + 1, window) + (-(-(q + 1 - window) // every) if q >= window else 0) for q in range(n))
    assert (causal & (sliding(window) | global_(every))).pairs(n) == expected


def test_blocks_of_128_are_kept_by_globals_and_dropped_by_windows():
    n, causal_blocks = 131_072, 1_024 * 1_025 // 2
    assert causal.blocks(n) == causal_blocks
    assert (causal & (sliding(4_096) | global_(128))).blocks(n) == causal_blocks  # one global lies in every tile
    assert sliding(4_096).blocks(n) == sum(min(row + 1, 33) for row in range(1_024))
    assert dilated(1_024, every=4).blocks(n) == sum(min(row + 1, 33) for row in range(1_024))
    assert block(512).blocks(n) == 256 * 16


@pytest.mark.parametrize(
    "text",
    [
        "stride2d(20, 170)",
        "stride(300) | sinks(3)",
        "causal & (stride2d(64, 33) | global(every=130, offset=7))",
        "causal & (block(300) | block(170)) & stride(7)",
        "causal & global(every=9) & stride(200)",
        "causal & (sliding(100) | dilated(9, every=150) | sinks(200))",
        "around(257) & block(1000)",
    ],
)
def test_counts_at_a_length_of_several_tiles_equal_the_mask(text):
    pattern, n = parse(text), 1_430
    allowed = mask(pattern, n, n)
    assert pattern.pairs(n) == allowed.sum()
    assert pattern.blocks(n) == tiles(allowed, 128)


@pytest.mark.parametrize(("clauses", "t"), [(12, 500), (30, 2_000)])
def test_many_overlapping_globals_are_still_counted_once(clauses, t):
    steps = [p for p in range(2, 200) if all(p % d for d in range(2, p))][:clauses]
    pattern = causal & parse(" | ".join(f"global(every={p})" for p in steps))
    assert pattern.live(t) == sum(any(k % p == 0 for p in steps) for k in range(t + 1))
    assert pattern.reads(t, t + 1) == pattern.live(t)


def test_pairs_that_cannot_be_counted_exactly_are_refused_with_a_way_out():
    steps = [p for p in range(2, 200) if all(p % d for d in range(2, p))][:20]
    pattern = parse(" | ".join(f"global(every={p})" for p in steps))
    with pytest.raises(PatternError, match="too many ways") as caught:
        pattern.pairs(1_000)
    assert caught.value.fix


def test_a_key_is_live_until_its_own_clause_lets_go_of_it():
    pattern = causal & (sliding(4) | dilated(3, every=5))
    assert [pattern.last_reader(k) for k in range(3)] == [10, 11, 12]
    assert (causal & sinks(2)).last_reader(1) == FOREVER
    assert (causal & sinks(2)).last_reader(2) == NEVER
    assert (block(4) & causal & stride(2)).last_reader(1) == 3
