from __future__ import annotations

from functools import reduce
from operator import or_

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import PatternError
from vitruvius.patterns import (
    FOREVER,
    Clause,
    Pattern,
    around,
    block,
    causal,
    dilated,
    everything,
    global_,
    parse,
    sinks,
    sliding,
    stride,
    stride2d,
)

PATTERNS = st.from_type(Pattern)
CLAUSES = st.from_type(Clause)
NOTHING = Pattern(())
N = 36

DEFINITIONS = [
    ("causal", lambda q, k: k <= q),
    ("everything", lambda q, k: True),
    ("sliding(1)", lambda q, k: q == k),
    ("sliding(5)", lambda q, k: 0 <= q - k < 5),
    ("around(3)", lambda q, k: abs(q - k) < 3),
    ("sinks(4)", lambda q, k: k < 4),
    ("global(every=6)", lambda q, k: k % 6 == 0),
    ("global(6, offset=2)", lambda q, k: k % 6 == 2),
    ("dilated(4, every=3)", lambda q, k: q - k in (0, 3, 6, 9)),
    ("stride(4)", lambda q, k: (q - k) % 4 == 0),
    ("block(7)", lambda q, k: q // 7 == k // 7),
    ("stride2d(3, 4)", lambda q, k: q // 12 == k // 12 and (q // 4 == k // 4 or q % 4 == k % 4)),
]


@st.composite
def expressions(draw, depth=2):
    """A text and, built beside it from the definitions alone, the predicate it should mean."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(DEFINITIONS))
    parts = draw(st.lists(expressions(depth=depth - 1), min_size=2, max_size=3))
    operator, fold = draw(st.sampled_from([("&", all), ("|", any)]))
    text = f" {operator} ".join(f"({text})" for text, _ in parts)
    return text, lambda q, k: fold(predicate(q, k) for _, predicate in parts)


def mask(pattern: Pattern, n: int = N) -> np.ndarray:
    positions = np.arange(n)
    return pattern.allows(positions[:, None], positions[None, :])


@pytest.mark.parametrize(("text", "predicate"), DEFINITIONS, ids=[text for text, _ in DEFINITIONS])
def test_a_named_pattern_allows_exactly_what_its_definition_says(text, predicate):
    pattern = parse(text)
    assert all(pattern.allows(q, k) is predicate(q, k) for q in range(N) for k in range(N))


@given(expressions())
def test_a_text_means_what_its_operators_say(expression):
    text, predicate = expression
    expected = np.array([[predicate(q, k) for k in range(N)] for q in range(N)])
    assert (mask(parse(text)) == expected).all()


@given(PATTERNS, PATTERNS)
def test_and_allows_what_both_allow_and_or_what_either_allows(a, b):
    assert (mask(a & b) == (mask(a) & mask(b))).all()
    assert (mask(a | b) == (mask(a) | mask(b))).all()


@given(st.lists(CLAUSES, max_size=4))
def test_the_normal_form_changes_no_pair(clauses):
    positions = np.arange(N)
    expected = np.zeros((N, N), dtype=bool)
    for clause in clauses:
        expected |= clause.allows(positions[:, None], positions[None, :])
    assert (mask(Pattern(tuple(clauses))) == expected).all()


@given(PATTERNS)
def test_the_normal_form_of_a_normal_form_is_itself(pattern):
    assert Pattern(pattern.clauses) == pattern
    assert pattern | pattern == pattern
    assert pattern | NOTHING == pattern
    assert pattern & everything == pattern


@given(PATTERNS, PATTERNS)
def test_joining_does_not_depend_on_the_order(a, b):
    assert a | b == b | a
    assert hash(a & b) == hash(b & a)


@given(CLAUSES, CLAUSES)
def test_a_clause_within_another_allows_nothing_more(a, b):
    a, b = a.tightened(), b.tightened()
    if a is not None and b is not None and a.within(b):
        assert (mask(Pattern((a,))) <= mask(Pattern((b,)))).all()


@given(CLAUSES)
def test_transposing_a_clause_transposes_its_mask(clause):
    assert (mask(Pattern((clause.transposed(),))) == mask(Pattern((clause,))).T).all()


@given(PATTERNS)
def test_ints_arrays_and_tensors_get_the_same_answer(pattern):
    expected = [[pattern.allows(q, k) for k in range(20)] for q in range(20)]
    assert all(type(allowed) is bool for row in expected for allowed in row)
    positions = torch.arange(20)
    for dtype in (torch.int64, torch.int32):
        tensor = pattern.allows(positions[:, None].to(dtype), positions[None, :].to(dtype))
        assert tensor.dtype == torch.bool and tensor.tolist() == expected
    for dtype in (np.int64, np.int32):
        assert mask(pattern, 20).tolist() == expected
        narrow = np.arange(20, dtype=dtype)
        assert pattern.allows(narrow[:, None], narrow[None, :]).tolist() == expected


@pytest.mark.parametrize(
    "text", ["causal & (sliding(8) | sinks(3) | global(every=16))", "stride2d(4, 8)", "everything"]
)
def test_a_pattern_serves_as_the_mask_function_of_flex_attention(text):
    from torch.nn.attention.flex_attention import create_mask

    pattern = parse(text)
    made = create_mask(lambda b, h, q, k: pattern.allows(q, k), 1, 1, 64, 64, device="cpu")
    assert (made[0, 0].numpy() == mask(pattern, 64)).all()


@given(PATTERNS, st.integers(0, 30))
def test_a_negative_position_is_never_allowed(pattern, q):
    assert not pattern.allows(q, -1)


@given(PATTERNS)
def test_a_causal_pattern_never_reads_the_future(pattern):
    assert (causal & pattern).is_causal
    if pattern.is_causal:
        assert not np.triu(mask(pattern), 1).any()


@pytest.mark.parametrize(
    ("text", "is_causal"),
    [
        ("causal", True),
        ("sliding(8)", True),
        ("dilated(8, every=2)", True),
        ("causal & (sliding(8) | sinks(3))", True),
        ("(causal & sliding(8)) | sinks(3)", False),
        ("around(1)", True),
        ("around(2)", False),
        ("block(4)", False),
        ("stride(3)", False),
        ("sinks(1)", True),
        ("everything", False),
    ],
)
def test_is_causal_says_whether_a_later_key_can_be_read(text, is_causal):
    assert parse(text).is_causal is is_causal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (causal & around(4), sliding(4)),
        (sliding(4) | sliding(9), sliding(9)),
        (dilated(5, every=1), sliding(5)),
        (sliding(10) & stride(4), dilated(3, every=4)),
        (dilated(1, every=7), sliding(1)),
        (block(4) & block(8), block(4)),
        (block(4) | block(8), block(8)),
        (block(1), sliding(1)),
        (block(4) & stride(4), sliding(1)),
        (block(8) & around(8), block(8)),
        (stride2d(1, 8), block(8)),
        (stride2d(8, 1), block(8)),
        (global_(1), everything),
        (global_(2, 0) & global_(2, 1), NOTHING),
        (sinks(3) & global_(4), sinks(1)),
        (causal & everything, causal),
    ],
    ids=str,
)
def test_patterns_that_mean_the_same_compare_equal(one, other):
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (causal, "0 <= q - k"),
        (sliding(1), "q - k = 0"),
        (dilated(4, every=3), "0 <= q - k < 10, (q - k) % 3 = 0"),
        (causal & (sliding(8) | global_(16, 3)), "0 <= q - k < 8 | 0 <= q - k, 3 <= k, k % 16 = 3"),
        (block(4), "-3 <= q - k < 4, q // 4 = k // 4"),
        (everything, "always"),
        (NOTHING, "never"),
    ],
    ids=str,
)
def test_a_pattern_prints_as_conditions(pattern, written):
    assert str(pattern) == written


def test_too_many_alternatives_are_refused_with_a_way_out():
    primes = [p for p in range(2, 400) if all(p % d for d in range(2, p))]
    with pytest.raises(PatternError, match="more than 64 alternatives") as caught:
        reduce(or_, map(stride, primes))
    assert caught.value.fix


def test_a_product_of_unions_is_refused_before_it_grows_without_end():
    left = parse(" | ".join(f"stride({p})" for p in (101, 103, 107, 109, 113, 127, 131, 137, 139, 149)))
    right = parse(" | ".join(f"global(every={p})" for p in (151, 157, 163, 167, 173, 179, 181, 191, 193, 197)))
    with pytest.raises(PatternError, match="more than 64 alternatives"):
        _ = left & right


def test_steps_whose_common_multiple_no_longer_fits_are_refused():
    with pytest.raises(PatternError, match="least common multiple"):
        _ = stride(2**39) & stride(2**39 - 1)


@pytest.mark.parametrize(
    "numbers",
    [{"distance_multiple": 0}, {"key_step": 4, "key_residue": 4}, {"key_low": -1}, {"chunks": (0,)}],
    ids=str,
)
def test_a_clause_of_senseless_numbers_is_refused(numbers):
    with pytest.raises(PatternError) as caught:
        Clause(**numbers)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ({"query_step": 6, "query_residue": 4}, {"query_step": 3, "query_residue": 1}),
        ({"query_low": 4, "query_high": 5}, {"query_step": 3, "query_residue": 1}),
        ({"key_step": 4, "key_residue": 2, "key_low": 6}, {"key_step": 2}),
        ({"distance_low": 6, "distance_high": 6}, {"distance_multiple": 3}),
        ({"chunks": (4,), "distance_low": 0}, {"chunks": (12, 8)}),
    ],
    ids=str,
)
def test_a_clause_inside_another_is_dropped_and_the_other_way_round_kept(small, large):
    small, large = Clause(**small), Clause(**large)
    assert Pattern((small, large)) == Pattern((large,)) != Pattern((small,))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"query_step": 4}, {"query_step": 3}),
        ({"query_step": 4, "query_residue": 1}, {"query_step": 2}),
        ({"key_step": 4}, {"key_step": 6}),
        ({"distance_multiple": 4}, {"distance_multiple": 6}),
        ({"chunks": (4,)}, {"chunks": (6,)}),
    ],
    ids=str,
)
def test_clauses_that_only_overlap_are_both_kept(one, other):
    assert len(Pattern((Clause(**one), Clause(**other))).clauses) == 2


def test_an_unlimited_bound_stays_unlimited_under_and():
    (clause,) = (causal & stride(7)).clauses
    assert clause.distance_high == FOREVER and clause.distance_low == 0
