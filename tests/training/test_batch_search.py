"""Which batch sizes are tried and which is chosen, from times that were made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.training.batch_search import Tried, choose, divisors_of, ladder, noise, search

if TYPE_CHECKING:
    from collections.abc import Callable


def fits(tried: Tried) -> bool:
    return tried.status == "measured"


def played(
    rate: Callable[[int], float],
    *,
    room: int = 10**9,
    whole: int | None = None,
    least: int | None = None,
    most: int = 1024,
) -> tuple[list[int], int | None]:
    """The sizes that were tried, in order, and the one that was chosen; those above `room` run out of memory."""
    order: list[int] = []

    def measure(size: int) -> Tried:
        order.append(size)
        if size > room:
            return Tried(batch=size, status="out-of-memory")
        return Tried(batch=size, status="measured", rates=(rate(size),) * 3)

    tried = search(ladder(whole=whole, least=least, most=most), measure, within=0.05, fits=fits)
    assert order == list(tried), "a size was tried twice"
    chosen = choose(tried.values(), within=0.05, fits=fits)
    return order, None if chosen is None else chosen.batch


def saturating(size: int) -> float:
    return 1000 * size / (size + 8)


def test_sizes_double_until_throughput_stops_growing_and_the_middle_is_looked_at() -> None:
    order, chosen = played(saturating)
    assert order[:7] == [8, 16, 32, 64, 128, 256, 512]
    assert chosen is not None
    assert saturating(chosen) >= 0.95 * max(map(saturating, order))
    assert not any(saturating(size) >= 0.95 * max(map(saturating, order)) for size in order if size < chosen)


def test_two_sizes_that_are_no_faster_end_the_climb() -> None:
    order, chosen = played(lambda size: min(size, 32.0))
    assert order == [8, 16, 32, 64, 128, 24]
    assert chosen == 32


def test_where_memory_ends_the_middle_is_tried_while_it_gets_faster() -> None:
    assert played(float, room=50) == ([8, 16, 32, 64, 48, 40], 48)
    assert played(float, room=40) == ([8, 16, 32, 64, 48, 24], 32)


def test_where_the_first_size_does_not_fit_smaller_ones_are_tried() -> None:
    assert played(float, room=3) == ([8, 4, 2, 3], 3)


def test_where_nothing_fits_nothing_is_chosen() -> None:
    assert played(float, room=0) == ([8, 4, 2, 1], None)


def test_where_small_is_as_fast_the_smallest_is_chosen() -> None:
    assert played(lambda _: 100.0) == ([8, 16, 32, 4, 2, 1], 1)


def test_sizes_divide_a_batch_that_is_given() -> None:
    assert played(float, whole=48) == ([8, 16, 48, 24], 48)
    assert played(float, whole=48, room=30) == ([8, 16, 48, 24], 24)
    assert played(float, whole=7) == ([7, 1], 7)
    assert played(float, whole=1) == ([1], 1)


@given(
    whole=st.none() | st.integers(1, 400),
    least=st.none() | st.integers(1, 60),
    most=st.integers(1, 400),
    room=st.integers(0, 500),
    knee=st.floats(0.1, 200),
)
def test_whatever_is_chosen_was_measured_fits_and_is_allowed(
    whole: int | None, least: int | None, most: int, room: int, knee: float
) -> None:
    try:
        order, chosen = played(lambda n: n / (n + knee), room=room, whole=whole, least=least, most=most)
    except UsageError:
        assert most < (least or 1) or whole is not None
        return
    assert all((least or 1) <= size <= most for size in order)
    assert all(whole is None or whole % size == 0 for size in order)
    good = [size for size in order if size <= room]
    assert chosen == (None if not good else chosen)
    if chosen is not None:
        assert chosen in good
        assert chosen / (chosen + knee) >= 0.95 * max(size / (size + knee) for size in good)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"whole": None, "least": 0, "most": 8}, "0 is no batch size"),
        ({"whole": None, "least": 9, "most": 8}, "--max 8 is below --min 9"),
        ({"whole": 7, "least": 2, "most": 6}, "no size from 2 to 6 divides the batch of 7"),
        ({"whole": 4, "least": 8, "most": 16}, "no size from 8 to 16 divides the batch of 4"),
        ({"whole": None, "least": None, "most": 0}, "--max 0 is below --min 1"),
    ],
)
def test_limits_that_leave_nothing_are_refused(asked: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ladder(**asked)


@given(st.integers(1, 3000))
def test_divisors_are_all_there_in_order(number: int) -> None:
    assert divisors_of(number) == tuple(n for n in range(1, number + 1) if number % n == 0)


def test_the_divisors_of_the_largest_batch_are_found_at_once() -> None:
    assert divisors_of(2**31 - 1) == (1, 2**31 - 1)


def test_noise_is_what_updates_and_rounds_of_one_size_differ_by() -> None:
    calm = Tried(batch=8, status="measured", rates=(100.0,) * 8, medians=(100.0, 100.0))
    torn = Tried(batch=16, status="measured", rates=(50.0,) * 4 + (150.0,) * 4, medians=(50.0, 150.0))
    assert noise([calm]) == (0.0, 0.0)
    own, between = noise([torn])
    assert own == pytest.approx(1.0)
    assert between == 0.0
    assert noise([]) == (0.0, 0.0)
