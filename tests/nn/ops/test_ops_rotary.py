"""Rotation of pairs of channels, in either pairing, of all channels or the first ones."""

from __future__ import annotations

import pytest
import torch

from vitruvius.nn.ops import apply_rotary
from vitruvius.nn.ops.rotary import PAIRINGS


def _pairs(pairing: str, count: int) -> list[tuple[int, int]]:
    return [(i, i + count) if pairing == "halves" else (2 * i, 2 * i + 1) for i in range(count)]


def _case(width: int, pairs: int):
    generator = torch.Generator().manual_seed(width + pairs)
    x = torch.randn(2, 3, 5, width, generator=generator, dtype=torch.float64)
    angles = torch.randn(5, pairs, generator=generator, dtype=torch.float64)
    return x, angles


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(("width", "pairs"), [(8, 4), (8, 2), (10, 1), (6, 3)])
def test_each_pair_turns_by_its_angle_and_the_rest_passes(pairing, width, pairs):
    x, angles = _case(width, pairs)
    turned = apply_rotary(x, angles.cos(), angles.sin(), pairing)
    expected = x.clone()
    for i, (a, b) in enumerate(_pairs(pairing, pairs)):
        number = torch.complex(x[..., a], x[..., b]) * torch.polar(torch.ones(5, dtype=torch.float64), angles[:, i])
        expected[..., a], expected[..., b] = number.real, number.imag
    assert (turned - expected).abs().max() < 1e-12
    assert turned.stride() == x.stride()


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_gradient_is_that_of_the_definition(pairing):
    x, angles = _case(10, 3)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: apply_rotary(x, angles.cos(), angles.sin(), pairing), (x,))


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_rows_may_stand_at_different_positions(pairing):
    x, _ = _case(8, 4)
    angles = torch.randn(2, 1, 5, 4, dtype=torch.float64)
    together = apply_rotary(x, angles.cos(), angles.sin(), pairing)
    alone = [apply_rotary(x[i], angles[i].cos(), angles[i].sin(), pairing) for i in range(2)]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_compiled_form_computes_the_same(pairing, monkeypatch):
    x, angles = _case(10, 3)
    eager = apply_rotary(x, angles.cos(), angles.sin(), pairing)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert (apply_rotary(x, angles.cos(), angles.sin(), pairing) - eager).abs().max() < 1e-12


def test_the_two_pairings_are_one_model_up_to_the_order_of_channels():
    x, angles = _case(8, 4)
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    halves = apply_rotary(x, angles.cos(), angles.sin(), "halves")
    interleaved = apply_rotary(x[..., order], angles.cos(), angles.sin(), "interleaved")
    assert (halves[..., order] - interleaved).abs().max() < 1e-12
