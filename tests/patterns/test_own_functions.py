from __future__ import annotations

from functools import partial
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vitruvius.errors import PatternError
from vitruvius.patterns import (
    FOREVER,
    NAMED,
    Count,
    Pattern,
    causal,
    names,
    parse,
    plan,
    register_predicate,
    shrink_text,
    sliding,
    smaller_by,
    unregister,
)


@pytest.fixture(autouse=True)
def _tidy():
    known = set(NAMED)
    yield
    for name in set(NAMED) - known:
        unregister(name)


def tree(q, k, depth):
    """The query's ancestors in a binary tree laid out level by level."""
    allowed = q == k
    for level in range(1, depth + 1):
        allowed = allowed | ((q + 1) // 2**level == k + 1)
    return allowed


def powers(q, k):
    """Distances that are powers of two."""
    distance = q - k
    return (distance == 0) | (distance > 0) & (distance & (distance - 1) == 0)


def test_a_function_is_used_by_its_name():
    register_predicate("tree", tree)
    pattern = parse("causal & tree(depth=2)")
    for q in range(40):
        seen = {k for k in range(40) if pattern.allows(q, k)}
        assert seen == {q, (q + 1) // 2 - 1, (q + 1) // 4 - 1} - {-1}
    assert pattern.count(102_400) == Count.exactly(102_400 * 3 - 1 - 3)


def test_a_decorator_registers_too_and_gives_the_function_back():
    @register_predicate("near", meaning="close by", example="near(reach=9)", least={"reach": 2})
    def near(q, k, *, reach=4):
        return abs(q - k) < reach

    assert near(3, 1) is True
    entry = NAMED["near"]
    assert (entry.meaning, entry.example) == ("close by", "near(reach=9)")
    assert [(p.name, p.default, p.least) for p in entry.parameters] == [("reach", 4, 2)]
    assert parse("near") == parse("near(4)") == parse("near(reach=4)")
    with pytest.raises(PatternError, match="at least 2"):
        parse("near(1)")


def test_meaning_and_example_come_from_the_function():
    register_predicate("tree", tree)
    assert NAMED["tree"].meaning == "The query's ancestors in a binary tree laid out level by level"
    assert NAMED["tree"].example == "tree(depth=4)"


def test_a_function_that_the_normal_form_can_say_becomes_one():
    register_predicate("window", lambda q, k, size: (q - k < size) & (q >= k))
    assert parse("window(8)") == sliding(8)


def any_of(conditions):
    found = False
    for condition in conditions:
        found = condition | found
    return found


def endless(q, k):
    return endless(k, q)


@pytest.mark.parametrize("function", [tree, powers])
def test_ints_arrays_and_tensors_get_the_same_answers(function):
    register_predicate("mine", function)
    pattern = parse("causal & mine(3)" if function is tree else "causal & mine")
    q, k = np.arange(50), np.arange(-2, 50)
    expected = [[pattern.allows(i, j) for j in range(-2, 50)] for i in range(50)]
    assert np.array_equal(pattern.allows(q[:, None], k), expected)
    tensor = pattern.allows(torch.arange(50)[:, None], torch.arange(-2, 50))
    assert tensor.dtype == torch.bool
    assert tensor.tolist() == expected
    arguments = (3,) if function is tree else ()
    assert [[j >= 0 and i >= j and function(i, j, *arguments) for j in range(-2, 50)] for i in range(50)] == expected


def test_divisors_that_depend_on_positions_never_meet_an_empty_slot():
    register_predicate("sieve", lambda q, k: q % (k + 1) == 0)
    pattern = parse("causal & (sieve | sliding(1))")
    mask = pattern.allows(torch.arange(9)[:, None], torch.arange(-1, 9))
    expected = [[0 <= k <= q and (q % (k + 1) == 0 or q == k) for k in range(-1, 9)] for q in range(9)]
    assert mask.tolist() == expected


@pytest.mark.parametrize(
    ("function", "what", "fix"),
    [
        (lambda q, k: q - k, "returned a number", "return a comparison"),
        (lambda q, k: None, "returned None", "return a comparison"),
        (lambda q, k: q < 4 and k < 4, "while q and k are not known yet", "& | ~"),
        (lambda q, k: 0 <= q - k < 4, "while q and k are not known yet", "(a < b) & (b < c)"),
        (lambda q, k: not q < k, "while q and k are not known yet", "& | ~"),
        (lambda q, k: k < 4 if q > 3 else q == k, "while q and k are not known yet", "no if"),
        (lambda q, k: q < 4 & k, "", ""),
        (lambda q, k: (q < 4) & k, "between a truth value and a number", "(q < 4) & (k < 4)"),
        (lambda q, k: (q < 4) + (k < 4) > 1, "TypeError", "operators"),
        (lambda q, k: q * (k < 4) > 1, "a truth value is used as a number", "by & and |"),
        (lambda q, k: q / 2 < k, "a division with /", "//"),
        (lambda q, k: q**2 < k, "a power", "q * q"),
        (lambda q, k: q < 2.5, "2.5 is no whole number", "whole numbers"),
        (lambda q, k: q < "a", "'a' is no whole number", "whole numbers"),
        (lambda q, k: q // 0 < k, "a division by zero", "above 0"),
        (lambda q, k: q // k < 2, "the divisor may be zero", "max"),
        (lambda q, k: q << k < 2, "a shift by a number that may lie outside", "constant"),
        (lambda q, k: q * q * q < k, "grow past 2**62", "remainders"),
        (lambda q, k: [True, False][q], "needs a plain int", "operators"),
        (lambda q, k: max(q, k) < 4, "while q and k are not known yet", "& | ~"),
        (lambda q, k: q.item() < 4, "AttributeError", "operators"),
        (lambda q, k: hash(q) < 4, "TypeError", "operators"),
        (lambda q, k: (q < k) if not isinstance(q, int) else k < q, "answers ints", "in the same way"),
        (lambda q, k: (q < k) if not isinstance(q, int) else 7, "returned 7 for q=0", "True or False"),
        (lambda q, k: sum(q - j for j in range(2000)) < k, "more than", ""),
        (lambda q, k: any_of(q == k + j for j in range(2000)), "more than", "shorter"),
        (lambda q, k: 1 / 0, "ZeroDivisionError", "operators"),
        (endless, "never ends", "operators"),
        (lambda q, k: q < 2**50, "2**40 or more", "smaller"),
    ],
)
def test_a_function_that_cannot_be_read_is_refused_with_the_reason(function, what, fix):
    register_predicate("mine", function)
    if not what:
        parse("causal & mine")
        return
    with pytest.raises(PatternError) as caught:
        parse("causal & mine")
    assert caught.value.what.startswith("mine")
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.position == 9


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: register_predicate("causal", tree), "registered already"),
        (lambda: register_predicate("where", tree), "registered already"),
        (lambda: register_predicate("Tree", tree), "cannot name"),
        (lambda: register_predicate("mine", lambda q: q < 4), "does not take q and k first"),
        (lambda: register_predicate("mine", lambda q, k, *more: q < k), "takes *args or **kwargs"),
        (lambda: register_predicate("mine", lambda q, k, a=1.5: q < k), "a default that is no int"),
        (lambda: register_predicate("mine", 5), "is not a function"),
    ],
)
def test_what_cannot_be_registered_is_refused(make, what):
    before = dict(NAMED)
    with pytest.raises(PatternError) as caught:
        make()
    assert what in caught.value.what
    assert before == NAMED


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_truths_are_combined_as_python_combines_them():
    register_predicate("odd", lambda q, k: ((q % 2 == 1) ^ ((k % 3 == 1) != (q > 9))) ^ ((q < k) | ~(True & (k < 4))))
    pattern = parse("odd")
    for q in range(20):
        for k in range(20):
            said = ((q % 2 == 1) ^ ((k % 3 == 1) != (q > 9))) ^ ((q < k) | (not k < 4))
            assert pattern.allows(q, k) is said


def test_every_operator_is_recorded():
    def all_of_them(q, k):
        """All operators."""
        left = (7 - q) * 3 // 2 % 5 + (q >> 1) + (k << 2) + (q ^ k) + (q & 12) + (k | 3) - abs(k - q) + (-q) + (~k)
        return (left > 9) | (100 // (q + 1) < 3) & (50 % (k + 1) != 0) | (1 << (q % 5) <= k)

    register_predicate("mine", all_of_them)
    pattern = parse("mine")
    assert all(pattern.allows(q, k) == all_of_them(q, k) for q in range(40) for k in range(40))


def test_a_last_reader_bounds_the_cache():
    def echo(q, k, period):
        """Keys at the same place of the period before, and in the current one."""
        return (q // period - k // period <= 1) & ((q - k) % 3 != 1)

    register_predicate("echo", echo)
    free = plan(parse("causal & echo(8)"), 100)
    assert free.slots == 16

    def parents(q, k):
        return ((q + 1) // 2 == k + 1) | (q == k)

    register_predicate("parents", parents, last_reader=lambda k: 2 * k + 2)
    pattern = parse("causal & (parents | sliding(2))")
    assert pattern.last_reader(10) == 22
    assert plan(pattern, 101).ring == 52
    unregister("parents")
    register_predicate("parents", parents)
    assert parse("causal & (parents | sliding(2))").last_reader(10) == FOREVER
    assert plan(parse("causal & (parents | sliding(2))"), 101).ring == 101


def test_keys_of_few_positions_go_to_an_archive_as_long_as_they_are_read():
    def summaries(q, k, size):
        """The last position of each finished block, for the eight blocks after it."""
        return (k % size == size - 1) & (k < q // size * size) & (q // size - k // size <= 8)

    register_predicate("summaries", summaries)
    pattern = parse("causal & (block(16) | summaries(16))")
    stores = plan(pattern, 4096)
    assert stores.ring == 16
    assert [archive.slots for archive in stores.archives] == [8]
    assert pattern.count(4096).is_exact


@pytest.mark.parametrize(
    ("last_reader", "what"),
    [
        (lambda k: k, "lets query 1 read key 0, and last_reader says 0"),
        (lambda k: "late", "last_reader of mine returned 'late'"),
        (lambda k: 1.0, "returned 1.0"),
    ],
)
def test_a_wrong_last_reader_is_found_out(last_reader, what):
    register_predicate("mine", lambda q, k: (q + 1) // 2 == k + 1, last_reader=last_reader)
    with pytest.raises(PatternError) as caught:
        parse("causal & mine")
    assert what in caught.value.what


def test_two_readings_of_the_same_text_are_equal_with_a_last_reader_too():
    register_predicate("parents", lambda q, k, n: (q + 1) // 2 == k + n, last_reader=lambda k, n: 2 * k + 2 * n + 9)
    one, other, third = parse("causal & parents(1)"), parse("causal&parents(n=1)"), parse("causal & parents(2)")
    assert one == other
    assert hash(one) == hash(other)
    assert one != third


def test_arguments_that_reach_are_shrunk_and_others_are_kept():
    register_predicate("ring", lambda q, k, window, phase: (q - k < window) & ((q * k) % 5 != phase))
    assert shrink_text("causal & ring(4096, phase=4)", 64) == "causal & ring(64, phase=4)"
    register_predicate("tree", tree)
    assert shrink_text("causal & tree(depth=3)", 64) == "causal & tree(depth=2)"
    register_predicate("mine", tree, smaller=smaller_by(depth=1))
    assert shrink_text("causal & mine(depth=30)", 8) == "causal & mine(depth=3)"


def test_taking_a_pattern_back_forgets_what_was_read():
    register_predicate("mine", lambda q, k: q == k)
    assert parse("causal & mine") == sliding(1)
    unregister("mine")
    with pytest.raises(PatternError, match="no pattern named 'mine'"):
        parse("causal & mine")
    register_predicate("mine", lambda q, k: q - k < 3)
    assert parse("causal & mine") == sliding(3)


def test_a_notebook_may_run_a_cell_again_and_nobody_else_takes_the_name():
    for size in (3, 5):

        def mine(q, k, size=size):
            return (q >= k) & (q - k < size)

        register_predicate("mine", mine)
        assert parse("mine") == sliding(size)
    with pytest.raises(PatternError, match="registered already"):
        register_predicate("mine", tree)
    assert parse("mine") == sliding(5)


def test_anything_that_can_be_called_will_do():
    class Window:
        def __call__(self, q, k, size):
            return (q >= k) & (q - k < size)

    register_predicate("window", Window())
    register_predicate("four", partial(Window(), size=4))
    assert parse("window(4)") == sliding(4)
    assert parse("four(size=6)") == sliding(6)


def test_only_own_patterns_can_be_taken_back():
    for name in ("causal", "nobodys"):
        with pytest.raises(PatternError, match="no pattern of your own"):
            unregister(name)
    assert parse("causal") == causal


class _Point:
    """An entry point of an installed package."""

    name, value = "mine", "their_package.patterns"

    def __init__(self, load):
        self.load = load
        self.dist = SimpleNamespace(name="their-package")


@pytest.fixture
def installed(monkeypatch):
    """Pretend that a package is installed; the argument is what importing it does."""

    def install(load):
        names.load_patterns.cache_clear()
        monkeypatch.setattr(metadata, "entry_points", lambda group: [_Point(load)] * (group == "vitruvius.patterns"))

    yield install
    names.load_patterns.cache_clear()


def test_an_installed_package_is_asked_for_names_that_are_not_known(installed):
    installed(lambda: register_predicate("mine", powers))
    assert isinstance(parse("causal & mine"), Pattern)
    assert parse("causal") == causal


def test_a_package_that_fails_to_load_is_named(installed):
    def broken():
        raise ImportError("no module named tensorpuddle")

    installed(broken)
    assert parse("causal") == causal
    with pytest.raises(PatternError) as caught:
        parse("causal & mine")
    assert "their-package" in caught.value.what
    assert "tensorpuddle" in caught.value.what
    assert "their-package" in caught.value.fix
