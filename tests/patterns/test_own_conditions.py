from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_texts import conditions, holds, own_sees

from vitruvius.errors import PatternError
from vitruvius.patterns import (
    Clause,
    Pattern,
    around,
    block,
    dilated,
    global_,
    parse,
    plan,
    sinks,
    sliding,
    stride,
    to_text,
)
from vitruvius.patterns.segments import fold, full_tile, segments

N = 29


@pytest.mark.slow
@given(conditions())
def test_a_condition_means_what_python_makes_of_it(text):
    pattern = parse(f"where({text})")
    for q in range(N):
        for k in range(N):
            assert pattern.allows(q, k) is holds(text, q, k), (q, k, str(pattern))


@given(own_sees())
def test_ints_and_arrays_agree_and_a_negative_position_is_never_allowed(text):
    pattern = parse(text)
    q, k = np.arange(N)[:, None], np.arange(-3, N)[None, :]
    mask = pattern.allows(q, k)
    assert mask.dtype == bool
    assert np.array_equal(mask, [[pattern.allows(i, j) for j in range(-3, N)] for i in range(N)])
    assert not mask[:, :3].any()


@given(own_sees(), own_sees())
def test_own_conditions_join_like_any_other_pattern(a, b):
    one, other = parse(a), parse(b)
    q, k = np.arange(N)[:, None], np.arange(N)[None, :]
    try:
        both, either = one & other, one | other
    except PatternError as error:
        assert "alternatives" in error.what
        return
    assert np.array_equal(both.allows(q, k), one.allows(q, k) & other.allows(q, k))
    assert np.array_equal(either.allows(q, k), one.allows(q, k) | other.allows(q, k))


@given(own_sees())
def test_equal_texts_give_equal_patterns_with_equal_hashes(text):
    parse_again = parse.__wrapped__ if hasattr(parse, "__wrapped__") else parse
    again = parse_again(" " + text)
    assert parse(text) == again
    assert hash(parse(text)) == hash(again)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("0 <= q - k < 8", sliding(8)),
        ("q - k < 8 and k <= q", sliding(8)),
        ("abs(q - k) < 8", around(8)),
        ("max(q - k, k - q) <= 7", around(8)),
        ("not (q - k >= 8 or q < k)", sliding(8)),
        ("k < 4", sinks(4)),
        ("q % 1 == 0 & k < 4", sinks(4)),
        ("k % 128 == 3", global_(128, 3)),
        ("(k + 125) % 128 == 0", global_(128, 3)),
        ("2 * k % 8 == 4", global_(4, 2)),
        ("(q - k) % 7 == 0", stride(7)),
        ("(k - q) % 7 == 0", stride(7)),
        ("(q - k) % 7 < 1", stride(7)),
        ("(q - k) % 7 == 0 & 0 <= q - k < 29", dilated(5, 7)),
        ("q // 64 == k // 64", block(64)),
        ("k // 64 - q // 64 == 0", block(64)),
        ("(q - k) // 8 == 0", sliding(8)),
        ("k // 4 <= 0", sinks(4)),
        ("3 * (q - k) <= 22 and q >= k", sliding(8)),
        ("q == k", sliding(1)),
        ("q != k and q >= k", Pattern((Clause(distance_low=1),))),
        ("q % 16 == 15", Pattern((Clause(query_step=16, query_residue=15),))),
        ("q >= 0", Pattern((Clause(),))),
        ("1 < 2", Pattern((Clause(),))),
        ("q < 0", Pattern(())),
        ("k % 8 < 2", global_(8) | global_(8, 1)),
        ("(q - k) % 7 == 0 | k < 4", stride(7) | sinks(4)),
    ],
)
def test_what_the_normal_form_can_say_is_said_in_it(text, pattern):
    assert parse(f"where({text})") == pattern


@pytest.mark.parametrize(
    ("text", "window", "is_causal"),
    [
        ("0 <= q // 64 - k // 64 <= 1 and q >= k", 128, True),
        ("abs(q // 8 - k // 8) <= 2 and abs(q % 8 - k % 8) <= 2 and k <= q", 24, True),
        ("(q + 1) // 2 == k + 1", None, True),
        ("k * 2 <= q", None, True),
        ("(q - k) % 7 == 3", None, False),
        ("q // 64 - k // 64 <= 1 and (q * k) % 3 == 0", 128, False),
    ],
)
def test_an_own_condition_is_bounded_by_what_follows_from_it(text, window, is_causal):
    pattern = parse(f"where({text})")
    assert any(clause.predicates for clause in pattern.clauses)
    assert (pattern.widest_window, pattern.is_causal) == (window, is_causal)


def test_an_own_condition_alone_is_never_taken_to_be_causal():
    assert not parse("where((q * k) % 7 < 3 or q == k)").is_causal
    assert parse("causal & where((q * k) % 7 < 3 or q == k)").is_causal


@given(own_sees(), st.integers(0, N - 1), st.integers(0, N - 1))
def test_segments_hold_every_key_that_some_query_reads(text, start, stop):
    pattern = parse(text)
    start, stop = min(start, stop), max(start, stop) + 1
    listed = [k for run in segments(pattern, start, stop, N) for k in range(run.start, run.stop, run.step)]
    assert len(listed) == len(set(listed))
    assert {k for q in range(start, stop) for k in range(N) if pattern.allows(q, k)} <= set(listed)


@given(own_sees(), st.tuples(*[st.integers(0, 12)] * 4))
def test_a_tile_that_is_called_full_needs_no_mask(text, corners):
    pattern = parse(text)
    q0, k0, height, width = corners
    if full_tile(pattern, q0, q0 + height, k0, k0 + width):
        assert all(pattern.allows(q, k) for q in range(q0, q0 + height) for k in range(k0, k0 + width))


@given(own_sees())
def test_folding_keeps_the_pattern(text):
    pattern = parse(text)
    step, folded = fold(pattern)
    for q in range(N):
        for k in range(N):
            together = (q - k) % step == 0 and folded.allows(q // step, k // step)
            assert pattern.allows(q, k) == together


@given(own_sees(), st.integers(1, N))
def test_the_cache_holds_every_key_that_is_read(text, capacity):
    pattern = parse(text)
    stores = plan(pattern, capacity)
    held: dict[tuple[int, int], int] = {}
    for t in range(capacity):
        leaving = t - stores.ring
        for i, archive in enumerate(stores.archives, start=1):
            if leaving >= 0 and archive.holds(leaving):
                held[i, archive.slot(leaving)] = leaving
        if stores.ring:
            held[0, t % stores.ring] = t
        assert {k for k in range(t + 1) if pattern.allows(t, k)} <= set(held.values())


@given(own_sees(), st.integers(0, N))
def test_last_readers_and_live_keys_are_never_fewer_than_there_are(text, t):
    pattern = parse(text)
    readers = {k: [q for q in range(3 * N) if pattern.allows(q, k)] for k in range(t + 1)}
    assert all(pattern.last_reader(k) >= max(found, default=-1) for k, found in readers.items())
    assert pattern.live(t) >= sum(any(q >= t for q in found) for found in readers.values())


def test_a_picture_shows_an_own_condition():
    assert to_text(parse("causal & where((q - k) % 3 == 1 | q == k)"), 8, "ascii").split("\n") == [
        "#",
        "# #",
        ". # #",
        ". . # #",
        "# . . # #",
        ". # . . # #",
        ". . # . . # #",
        "# . . # . . # #",
    ]


def test_str_names_the_condition():
    assert str(parse("causal & where((q - k) % 7 == 3)")) == "0 <= q - k, (q - k) % 7 == 3"


@pytest.mark.parametrize(
    ("text", "character", "what", "fix"),
    [
        ("causal & where", 15, "needs a condition in parentheses", "as in where("),
        ("where()", 7, "expected q, k or a number, found ')'", "as in"),
        ("where(q)", 7, "a number stands where a condition is due", "compare it"),
        ("where(q - k)", 7, "a number stands where a condition is due", "compare it"),
        ("where(q < 4", 12, "opened at character 6 is not closed", "add a )"),
        ("where(q < 4 k)", 13, "expected an operator or ) before 'k'", "& or |"),
        ("where((q < 4) + 1 < 2)", 7, "a condition stands where a number is due", "& and |"),
        ("where(q < 4 & k)", 15, "a number stands where a condition is due", "compare it"),
        ("where(q < 4 & k < 4 | q == k)", 21, "& and | are mixed", "( )"),
        ("where(q < 4 and k < 4 or q == k)", 23, "& and | are mixed", "( )"),
        ("where(q ** k < 4)", 9, "powers are not computed", "q * q"),
        ("where(q / 2 < 4)", 9, "does not stay whole", "use //"),
        ("where(q = k)", 9, "one = compares nothing", "=="),
        ("where(!(q < k))", 7, "means nothing alone", "not"),
        ("where(q < 4 && k < 4)", 13, "&& is not how", "write &"),
        ("where(q < 4 || k < 4)", 13, "|| is not how", "write |"),
        ("where(q ^ k < 4)", 9, "^ is not computed", "& and |"),
        ("where(q << 2 < 4)", 9, "<< is not computed", "multiply"),
        ("where(q // 0 < 4)", 9, "a division by zero", "above 0"),
        ("where(q % (k - k) < 4)", 9, "the divisor may be zero", "max(..., 1)"),
        ("where(q % k == 0)", 9, "the divisor may be zero", "max(..., 1)"),
        ("where(q < 1.5)", 11, "'1.5' is not a whole number", "all its digits"),
        ("where(q < 1099511627776)", 11, "2**40 or more", "smaller"),
        ("where(q < " + "9" * 400 + ")", 11, "2**40 or more", "smaller"),
        ("where(q * q * q < 4)", 13, "grow past 2**62", "remainders"),
        ("where(Q < 4)", 7, "there is no 'Q' in a condition", "did you mean 'q'?"),
        ("where(length < 4)", 7, "there is no 'length' in a condition", "use q, k"),
        ("where(__import__(q))", 7, "there is no '__import__' in a condition", "use q, k"),
        ("where(q.real < 4)", 8, "'.' means nothing in a condition", "q, k, whole numbers"),
        ("where(q[0] < 4)", 8, "'[' means nothing in a condition", "q, k, whole numbers"),
        ("where('q' < 4)", 7, '"\'" means nothing in a condition', "q, k, whole numbers"),
        ("where(q < 4; k < 4)", 12, "';' means nothing in a condition", "q, k, whole numbers"),
        ("where(q ≤ k)", 9, "'≤' (U+2264) means nothing", "q, k, whole numbers"),
        ("where(ｑ < k)", 7, "(U+FF51) means nothing", "q, k, whole numbers"),
        ("where(q < ４)", 11, "(U+FF14) means nothing", "q, k, whole numbers"),
        ("where(lambda q: q)", 15, "':' means nothing in a condition", "q, k, whole numbers"),
        ("where(sliding(4))", 7, "there is no 'sliding' in a condition", "q, k"),
        ("where(abs(q, k) < 4)", 7, "abs takes 1 numbers, not 2", "leave"),
        ("where(min(q) < 4)", 7, "min takes 2 to 16 numbers, not 1", "leave"),
        ("where(abs q < 4)", 11, "expected ( after abs", "as in abs(q - k)"),
        ("where(min < 4)", 11, "expected ( after min", "as in min(q - k, 8)"),
        ("where(" + "(" * 40 + "q", 39, "more than 32 parentheses", "nest less"),
        ("where(" + "-" * 200 + "q < 4)", 39, "more than 32 parentheses or signs", "nest less"),
        ("where(" + "q + " * 100 + "q < 4)", 261, "more than 64 operations", "nest less"),
        ("causal & where(q < 4) - 1", 23, "'-' means nothing in a pattern", "inside where"),
        ("where = 4", 7, "needs a condition in parentheses", "as in where("),
    ],
)
def test_a_mistake_in_a_condition_is_shown_where_it_stands(text, character, what, fix):
    with pytest.raises(PatternError) as caught:
        parse(text)
    error = caught.value
    assert what in error.what
    assert fix in error.fix
    assert error.position == character - 1


@pytest.mark.parametrize(
    "text",
    [
        "where(" + "q < 4 & " * 125_000 + "k < 4)",
        "where(" + "(" * 500_000,
        "where(" + "not " * 240 + "q < 4)",
        "where(" + " | ".join(f"q * {i} < k * {i + 1}" for i in range(1, 45)) + ")",
        "where(" + " & ".join(f"(q % {i} == 0 | k % {i} == 0)" for i in range(2, 30)) + ")",
        "where(" + " & ".join(f"(q != {i})" for i in range(60)) + ")",
        "where(" + " + ".join(["abs(q - k)"] * 40) + " < 9)",
        "where(abs(" * 25 + "q" + ") < 4)" * 25,
        "where(" + "max(q," * 30 + "k" + ") " * 30 + "< 4)",
        "where(((q % 99991) * (k % 99991)) % 4096 == 1 | q % 65537 * 99991 % 65537 < 3)",
        "where(" + "9" * 900 + " < q)",
        "causal & where(\x00)",
    ],
    ids=range(12),
)
def test_hostile_conditions_are_answered(text):
    try:
        pattern = parse(text)
    except PatternError as error:
        assert error.fix
        assert error.position is not None or len(text) > 1000
    else:
        assert pattern.allows(5, 3) in {True, False}
