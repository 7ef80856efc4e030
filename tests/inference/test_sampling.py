"""How a token is drawn from logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import RunError, UsageError
from vitruvius.inference import Sampler


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_temperature_zero_takes_the_likeliest_token_whatever_the_other_settings() -> None:
    logits = torch.tensor([[0.1, 3.0, 2.9], [5.0, 4.0, 4.9]])
    drawn = Sampler(temperature=0, top_k=3, top_p=0.5, min_p=0.9).sample(logits, _generator())
    assert drawn.tolist() == [1, 0]


def test_top_k_keeps_exactly_the_k_likeliest() -> None:
    logits = torch.tensor([[1.0, 4.0, 3.0, 2.0]])
    assert (Sampler(top_k=2).probabilities(logits) > 0).tolist() == [[False, True, True, False]]


def test_top_p_keeps_the_fewest_tokens_that_reach_the_mass() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert (Sampler(top_p=0.8).probabilities(logits) > 0).sum() == 2
    assert (Sampler(top_p=0.81).probabilities(logits) > 0).sum() == 3
    assert (Sampler(top_p=1e-6).probabilities(logits) > 0).sum() == 1


def test_min_p_drops_tokens_below_a_fraction_of_the_likeliest() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert (Sampler(min_p=0.25).probabilities(logits) > 0).tolist() == [[True, True, True, False]]


@given(
    seed=st.integers(0, 2**20),
    top_k=st.none() | st.integers(1, 12),
    top_p=st.none() | st.floats(0.01, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
    temperature=st.floats(0.05, 10.0),
)
def test_probabilities_sum_to_one_and_always_keep_the_likeliest(seed, top_k, top_p, min_p, temperature) -> None:
    logits = torch.randn(3, 9, generator=_generator(seed)) * 4
    kept = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p).probabilities(logits)
    assert torch.allclose(kept.sum(dim=-1), torch.ones(3), atol=1e-5)
    assert torch.equal(kept.argmax(dim=-1), logits.argmax(dim=-1))


def test_equal_seeds_draw_equal_tokens_and_the_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([0.6, 0.3, 0.1]).log().expand(4000, 3)
    first, again = (Sampler().sample(logits, _generator(5)) for _ in range(2))
    assert torch.equal(first, again)
    shares = torch.bincount(first, minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.04)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 1e308},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"min_p": float("inf")},
    ],
)
def test_settings_without_meaning_are_refused_by_name(settings) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        Sampler(**settings)


@pytest.mark.parametrize("temperature", [1e-300, 1e-44, 1e-30, 1e-9])
def test_a_temperature_near_zero_leaves_the_likeliest_token_alone(temperature) -> None:
    logits = torch.tensor([[1.0, 30.0, 29.0], [-50.0, 0.0, -0.5]])
    sampler = Sampler(temperature=temperature)
    assert torch.equal(sampler.probabilities(logits), torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    assert sampler.sample(logits, _generator()).tolist() == [1, 1]


def test_a_model_that_gives_nan_is_said_to() -> None:
    with pytest.raises(RunError, match="NaN"):
        Sampler().sample(torch.tensor([[0.0, float("nan")]]), _generator())
