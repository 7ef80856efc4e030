"""The tape reshapes, copies, keeps and frees as torch does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.spec.costs import Activations, Work
from vitruvius.spec.tracing.strides import contiguous, dense, viewed
from vitruvius.spec.tracing.tape import Tape

WORK = Work(batch=2, tokens=3, value_bytes=2)


@st.composite
def reshapes(draw):
    """A tensor with permuted axes, and another shape of as many numbers."""
    shape = draw(st.lists(st.sampled_from([1, 1, 2, 3, 4, 6]), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(shape))))
    count = 1
    for size in shape:
        count *= size
    new, left = [], count
    while left > 1 and len(new) < 4:
        size = draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0]))
        new.append(size)
        left //= size
    return shape, order, [*new, left]


@given(reshapes())
def test_a_reshape_is_a_view_exactly_where_torch_makes_one(drawn):
    shape, order, new = drawn
    x = torch.empty(shape).permute(*order)
    strides = viewed(tuple(x.shape), x.stride(), new)
    y = x.reshape(new)
    shares = y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert shares == (strides is not None)
    if strides is not None:
        assert contiguous(new, strides) == y.is_contiguous()
        assert all(a == b for a, b, size in zip(strides, y.stride(), new, strict=True) if size > 1)
    assert contiguous(tuple(x.shape), x.stride()) == x.is_contiguous()
    assert dense(new) == torch.empty(new).stride() or 0 in new


def test_a_value_follows_views_and_copies_only_where_it_must():
    tape = Tape(WORK)
    x = tape.given("stream", (2, 3, 8))
    heads = x.unflatten(2, (4, -1)).transpose(1, 2)
    assert heads.storage is x.storage
    assert heads.shape == (2, 4, 3, 2)
    folded = heads.flatten(0, 1)
    assert folded.storage is not x.storage
    assert [op.name for op in tape.ops] == ["copy"]
    assert heads.transpose(1, 2).flatten(2).storage is x.storage


def test_what_nobody_keeps_is_free_after_its_last_reader_and_names_live_until_the_function_returns():
    def forward(*, named):
        tape = Tape(WORK)
        x = tape.given("stream", (2, 3, 8))
        with tape.call():
            a = tape.scaled(x)
            if named:
                tape.hold(a)
            b = tape.scaled(a)
            y = tape.scaled(b)
        return tape.replay(y)

    size = 2 * 3 * 8 * 2
    assert forward(named=False).forward == 2 * size
    assert forward(named=True).forward == 3 * size
    assert forward(named=False).saved == 0
    assert forward(named=False).leaves == {"output": size}


def test_a_storage_kept_twice_counts_once_and_an_input_is_told_apart():
    tape = Tape(WORK)
    x = tape.given("stream", (2, 3, 8))
    (h,) = tape.linear(x, [8])
    y = tape.product(h, h)
    found = tape.replay(y)
    assert found.saved == h.size
    assert found.keeps == {"stream": x.size}
    assert found.weights == 8 * 8 * 2
    assert found.as_activations().saved == h.size + x.size


def test_gradients_wait_for_their_taker_and_sums_are_made_in_place():
    tape = Tape(WORK)
    x = tape.given("stream", (2, 3, 8))
    branch = tape.scaled(x)
    y = tape.add(x, branch)
    found = tape.replay(y)
    # The sum's gradient goes to both; the branch makes one of its own, which is added to the other.
    assert found.backward == 2 * x.size
    assert found.gives == {"stream": x.size}


def test_numbers_in_place_of_a_tape_stand_on_it_as_they_are():
    tape = Tape(WORK)
    x = tape.given("stream", (2, 3, 8))
    y = tape.account(x, Activations(saved=1000, forward=500, backward=700, unsure=40), weights=64)
    found = tape.replay(y)
    assert found.as_activations(tape.unsure) == Activations(saved=1000, forward=500, backward=700, unsure=40)
    assert found.weights == 64


def test_frozen_weights_get_no_gradients():
    tape = Tape(Work(batch=2, tokens=3, weights="frozen"))
    (y,) = tape.linear(tape.given("stream", (2, 3, 8)), [8])
    assert tape.replay(y).weights == 0


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (5,)])
def test_axes_come_and_go_without_a_copy(size):
    tape = Tape(WORK)
    x = tape.given("x", size)
    assert x.unsqueeze(0).squeeze(0).shape == x.shape
    assert x.unsqueeze(-1).shape == (*size, 1)
    assert not tape.ops
