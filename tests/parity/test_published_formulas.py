"""Positions against the formulas of their papers, written out here a second time."""

from __future__ import annotations

from math import cos, exp, log, pi, sin, sqrt

import pytest
import torch

from vitruvius.nn.place import Place, Signals
from vitruvius.nn.positions.alibi import ALiBiModule
from vitruvius.nn.positions.gated import GatedAdditivePositionModule
from vitruvius.nn.positions.rope import RotaryPositionModule
from vitruvius.nn.positions.tables import SinusoidalPositionModule
from vitruvius.spec import Scope
from vitruvius.spec.node import Heads
from vitruvius.spec.positions.alibi import ALiBi
from vitruvius.spec.positions.gated import GatedAdditivePosition
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.spec.positions.scalings import LinearScaling, YarnScaling
from vitruvius.spec.positions.tables import SinusoidalPosition

SCOPE = Scope(width=16, vocab_size=61, context=64, depth=2)
HEADS = Heads(queries=2, groups=2, width=8)
FP64 = {"device": torch.device("cpu"), "dtype": torch.float64}


def test_alibi_slopes_are_those_of_the_paper():
    assert ALiBi().slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert ALiBi().slopes(4) == (0.25, 0.0625, 0.015625, 0.00390625)


def test_alibi_slopes_between_powers_of_two_follow_the_authors_code():
    # github.com/ofirpress/attention_with_linear_biases, get_slopes(12): eight of eight, then every other of sixteen.
    assert ALiBi().slopes(12) == (*(2.0**-i for i in range(1, 9)), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5)


def test_alibi_takes_slope_times_distance_off_each_score():
    bias = ALiBiModule(ALiBi(), HEADS, SCOPE, FP64).bias(torch.arange(5), torch.arange(5), 2)
    assert bias.shape == (2, 5, 5)
    assert bias[0, 4, 1].item() == -(2.0**-4) * 3
    assert bias[1, 3, 3].item() == 0


def test_sinusoids_are_the_sines_and_cosines_of_the_paper_up_to_the_order_of_channels():
    module = SinusoidalPositionModule(SinusoidalPosition(), SCOPE, FP64)
    table = module.embed(torch.zeros(1, 50, 16, dtype=torch.float64), Place(positions=torch.arange(50)))[0]
    for position in (0, 1, 7, 49):
        angles = [position / 10_000 ** (2 * i / 16) for i in range(8)]
        expected = [*(sin(a) for a in angles), *(cos(a) for a in angles)]
        assert table[position].tolist() == pytest.approx(expected, abs=1e-12)


def test_gated_positions_are_sigmoid_times_table_on_top_of_the_embedding():
    module = GatedAdditivePositionModule(GatedAdditivePosition(), SCOPE, FP64)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(1, 9, 16, generator=generator, dtype=torch.float64)
    signals = Signals()
    placed = module.embed(x, Place(positions=torch.arange(9), signals=signals))
    gates = []
    for t in range(9):
        gate = [1 / (1 + exp(-v)) for v in (module.gate.weight @ x[0, t] + module.gate.bias).tolist()]
        angles = [t / 10_000 ** (2 * i / 16) for i in range(8)]
        table = [*(sin(a) for a in angles), *(cos(a) for a in angles)]
        expected = [e + g * p for e, g, p in zip(x[0, t].tolist(), gate, table, strict=True)]
        assert placed[0, t].tolist() == pytest.approx(expected, abs=1e-12)
        gates += gate
    mean = sum(gates) / len(gates)
    spread = sqrt(sum((gate - mean) ** 2 for gate in gates) / len(gates))
    assert [v.item() for v in signals.metrics["position_gate_mean"]] == pytest.approx([mean], abs=1e-6)
    assert [v.item() for v in signals.metrics["position_gate_std"]] == pytest.approx([spread], abs=1e-6)


@pytest.mark.parametrize("distance", [0, 1, 5, 40])
def test_a_rotation_makes_scores_depend_on_distance_alone(distance):
    module = RotaryPositionModule(RotaryPosition(), HEADS, SCOPE, FP64)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator, dtype=torch.float64)

    def score(at: int) -> float:
        turned_q, _ = module.rotate(q, k, torch.tensor([at + distance]))
        _, turned_k = module.rotate(q, k, torch.tensor([at]))
        return (turned_q * turned_k).sum().item()

    assert score(0) == pytest.approx(score(23), abs=1e-12)
    if distance:
        assert score(0) != pytest.approx((q * k).sum().item(), abs=1e-6)


def test_each_pair_of_channels_turns_by_its_own_frequency():
    frequencies = RotaryPosition(theta=10_000.0).frequencies(8)
    assert frequencies == pytest.approx([1.0, 0.1, 0.01, 0.001])
    assert RotaryPosition(scaling=LinearScaling(factor=4.0)).frequencies(8) == pytest.approx(
        [0.25, 0.025, 0.0025, 0.00025]
    )


def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones():
    width, original, factor = 64, 2048, 16.0
    plain = RotaryPosition().frequencies(width)
    yarn = YarnScaling(factor=factor, original_context=original)
    scaled = yarn.frequencies(plain, 10_000.0, width)
    turns = [original * frequency / (2 * pi) for frequency in plain]
    for before, after, count in zip(plain, scaled, turns, strict=True):
        if count > 40:
            assert after == before
        elif count < 0.8:
            assert after == pytest.approx(before / factor)
        else:
            assert before / factor <= after <= before
    assert yarn.attention_factor == pytest.approx(0.1 * log(factor) + 1)


def test_the_default_scale_of_scores_is_one_over_the_root_of_the_head_width():
    from vitruvius.spec.mixers.attention import Attention

    assert Attention(heads=2).scale(SCOPE) == 1 / sqrt(8)
