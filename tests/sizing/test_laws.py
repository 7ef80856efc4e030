"""Scaling laws: what is published of them, and what follows."""

from __future__ import annotations

from math import inf, log, sqrt
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.sizing import laws
from vitruvius.sizing.laws import CHINCHILLA_REFIT, DEFAULT, HOFFMANN, LAWS, law_named

sizes = st.floats(min_value=1e6, max_value=1e13)


def test_the_default_is_the_refit() -> None:
    assert DEFAULT is CHINCHILLA_REFIT
    assert (DEFAULT.irreducible, DEFAULT.a, DEFAULT.b, DEFAULT.alpha, DEFAULT.beta) == (
        *(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
    )


def test_chinchillas_budget_wants_eighteen_tokens_a_parameter_and_by_hoffmanns_rounded_law_ninety() -> None:
    assert round(CHINCHILLA_REFIT.optimal(5.76e23).tokens_per_parameter.value, 1) == 18.4
    assert HOFFMANN.optimal(5.76e23).tokens_per_parameter.value == pytest.approx(92.7, abs=0.06)


def test_beyond_1e26_flops_the_interval_holds_from_4_to_40_tokens_a_parameter() -> None:
    for flops in (1e26, 1e27, 1e28):
        ratio = DEFAULT.optimal(flops).tokens_per_parameter
        assert 4 < ratio.low < ratio.value < ratio.high < 50
    assert DEFAULT.optimal(1e28).tokens_per_parameter.high > 36


def test_sampled_laws_have_the_standard_errors_that_were_published() -> None:
    # Of ln A, ln B, ln E, alpha and beta, as the authors' analysis prints them.
    published = {"a": 0.258, "b": 0.421, "irreducible": 0.014, "alpha": 0.015, "beta": 0.021}
    for name, error in published.items():
        values = [getattr(law, name) for law in laws._sampled(CHINCHILLA_REFIT)]
        values = values if name in {"alpha", "beta"} else [log(value) for value in values]
        middle = fmean(values)
        assert sqrt(fmean((value - middle) ** 2 for value in values)) == pytest.approx(error, rel=0.1), name


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@given(flops=st.floats(min_value=1e15, max_value=1e28), shift=st.floats(min_value=0.2, max_value=5))
def test_no_split_of_a_budget_is_better_than_the_optimal_one(law, flops, shift) -> None:
    parameters, tokens = law.split(flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    assert law.loss_at(parameters, tokens) <= law.loss_at(parameters * shift, tokens / shift) + 1e-12


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@given(flops=st.floats(min_value=1e15, max_value=1e28))
def test_the_questions_of_a_law_are_each_others_answers(law, flops) -> None:
    parameters, tokens = law.split(flops)
    loss = law.loss_at(parameters, tokens)
    assert law.best_tokens(parameters) == pytest.approx(tokens)
    assert law.tokens_for_loss(parameters, loss) == pytest.approx(tokens)
    assert law.least_flops_for_loss(loss) == pytest.approx(flops)


@given(parameters=sizes, tokens=sizes, more=st.floats(min_value=1.01, max_value=100))
def test_more_parameters_and_more_tokens_never_hurt(parameters, tokens, more) -> None:
    loss = DEFAULT.loss_at(parameters, tokens)
    assert DEFAULT.loss_at(parameters * more, tokens) < loss
    assert DEFAULT.loss_at(parameters, tokens * more) < loss


def test_a_loss_that_no_tokens_reach_takes_infinitely_many() -> None:
    floor = DEFAULT.irreducible + DEFAULT.a * 1e9**-DEFAULT.alpha
    assert DEFAULT.tokens_for_loss(1e9, floor) == inf
    assert DEFAULT.tokens_for_loss(1e9, floor + 1e-3) < inf
    assert DEFAULT.least_flops_for_loss(DEFAULT.irreducible) == inf


@pytest.mark.parametrize(("parameters", "tokens"), [(1e8, 2e9), (7e9, 1.4e11), (7e10, 1.4e12), (1e12, 1e13)])
def test_an_interval_holds_its_value_repeats_and_widens_with_the_extrapolation(parameters, tokens) -> None:
    first, second = DEFAULT.loss(parameters, tokens), DEFAULT.loss(parameters, tokens)
    assert first == second
    assert first.low < first.value < first.high
    near, far = DEFAULT.optimal(1e21).tokens_per_parameter, DEFAULT.optimal(1e27).tokens_per_parameter
    assert far.high / far.low > 2 * near.high / near.low


def test_a_law_without_known_uncertainty_has_no_interval() -> None:
    estimate = HOFFMANN.loss(7e9, 1.4e11)
    assert estimate.low == estimate.value == estimate.high


def test_a_law_says_where_there_were_runs() -> None:
    assert DEFAULT.covers(1e9) and not DEFAULT.covers(1e6) and not DEFAULT.covers(1e12)


@pytest.mark.parametrize("wrong", [0, -1, inf, float("nan")])
def test_numbers_that_are_no_sizes_are_refused(wrong) -> None:
    for ask in (
        lambda: DEFAULT.loss(wrong, 1e9),
        lambda: DEFAULT.loss(1e9, wrong),
        lambda: DEFAULT.split(wrong),
        lambda: DEFAULT.best_tokens(wrong),
        lambda: DEFAULT.tokens_for_loss(1e9, wrong),
    ):
        with pytest.raises(UsageError, match="out of range"):
            ask()


def test_an_unknown_law_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="no scaling law 'kaplan'") as raised:
        law_named("kaplan")
    assert "chinchilla-refit, hoffmann-2022" in raised.value.fix
