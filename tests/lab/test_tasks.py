"""Synthetic tasks are what their papers define."""

from __future__ import annotations

import pytest
import torch

from vitruvius.lab.tasks import IGNORE, IGNORED, READ, WRITE, ZERO, flip_flop, parity


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ignore", [0.1, 0.8, 0.98])
def test_a_read_gives_the_bit_written_last_and_nothing_else_is_asked(ignore):
    drawn = flip_flop(50, _generator(), length=64, ignore=ignore)
    assert drawn.inputs.shape == drawn.targets.shape == (50, 63)
    for inputs, targets in zip(drawn.inputs.tolist(), drawn.targets.tolist(), strict=True):
        assert inputs[0] == WRITE
        assert inputs[-1] == READ
        memory = None
        for at in range(0, 63, 2):
            bit = inputs[at + 1] if at < 62 else targets[at]
            assert bit in {ZERO, ZERO + 1}
            if inputs[at] == WRITE:
                memory = bit
            if inputs[at] == READ:
                assert bit == memory
            assert targets[at] == (memory if inputs[at] == READ else IGNORED)
        assert all(target == IGNORED for target in targets[1::2])


@pytest.mark.parametrize("ignore", [0.1, 0.8, 0.98])
def test_instructions_have_their_shares(ignore):
    between = flip_flop(2000, _generator(1), length=64, ignore=ignore).inputs[:, 2:62:2]
    shares = [float((between == instruction).float().mean()) for instruction in (WRITE, READ, IGNORE)]
    assert shares == pytest.approx([(1 - ignore) / 2, (1 - ignore) / 2, ignore], abs=0.01)


def test_bits_are_even():
    drawn = flip_flop(2000, _generator(2), length=64, ignore=0.8)
    bits = drawn.inputs[:, 1::2]
    assert float((bits == ZERO).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_parity_is_that_of_all_bits_so_far():
    drawn = parity(20, _generator(), length=33)
    for bits, parities in zip(drawn.inputs.tolist(), drawn.targets.tolist(), strict=True):
        assert parities == [sum(bits[: t + 1]) % 2 for t in range(33)]


def test_a_seed_draws_the_same_sequences():
    first, again = (flip_flop(4, _generator(7), length=64, ignore=0.8) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
