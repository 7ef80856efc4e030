"""Mutual information: closed forms on planted routers, no more than chance on random ones."""

from __future__ import annotations

from math import log2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from vitruvius.evals.inspecting.information import mutual_information, shared_information
from vitruvius.evals.inspecting.routing import log_odds, token_tables


def chosen(expert_N, experts=4):
    return one_hot(expert_N, experts).bool()


def test_a_router_that_goes_by_the_token_says_all_its_entropy_about_it() -> None:
    token = torch.arange(8).repeat(32)
    found = mutual_information(chosen(token % 4), token, shuffles=50)
    assert found.plain == pytest.approx(2, abs=1e-12)
    assert found.of_choice == pytest.approx(2, abs=1e-12)
    assert found.p == pytest.approx(1 / 51)


def test_a_noisy_router_has_the_closed_form_of_its_channel() -> None:
    # Of each of 4 tokens, 3/4 go to its own expert and 1/12 to each of the others: 24 of each, by exact counts.
    token = torch.arange(4).repeat_interleave(24)
    expert = torch.cat([torch.tensor([t] * 18 + [o for o in range(4) if o != t for _ in range(2)]) for t in range(4)])
    found = mutual_information(chosen(expert), token, shuffles=50)
    noise = -(0.75 * log2(0.75) + 3 * (1 / 12) * log2(1 / 12))
    assert found.plain == pytest.approx(2 - noise, abs=1e-12)
    cells = 4 + 4 - 16 - 1
    assert found.miller_madow == pytest.approx(found.plain + cells / (2 * 96) * log2(2.718281828459045), abs=1e-9)


def test_a_full_table_of_token_and_place_says_nothing_about_the_place() -> None:
    token, place = (x.flatten() for x in torch.meshgrid(torch.arange(8), torch.arange(6), indexing="ij"))
    found = mutual_information(chosen(token % 4), place, shuffles=50)
    assert found.plain == pytest.approx(0, abs=1e-12)
    assert found.p == 1.0


def test_the_bias_of_few_draws_is_taken_off() -> None:
    generator = torch.Generator().manual_seed(0)
    estimates = []
    plain = []
    for seed in range(40):
        label = torch.randint(0, 50, (300,), generator=generator)
        expert = torch.randint(0, 8, (300,), generator=generator)
        found = mutual_information(chosen(expert, 8), label, shuffles=30, seed=seed)
        estimates.append(found.bits)
        plain.append(found.plain)
    assert sum(plain) / 40 > 0.5, "counts alone claim half a bit where there is none"
    assert abs(sum(estimates) / 40) < 0.02


def test_p_values_of_a_random_router_are_not_small_too_often() -> None:
    generator = torch.Generator().manual_seed(1)
    low = 0
    for seed in range(60):
        label = torch.randint(0, 5, (120,), generator=generator)
        expert = torch.randint(0, 4, (120,), generator=generator)
        low += mutual_information(chosen(expert), label, shuffles=39, seed=seed).p <= 0.05
    assert low <= 8  # 3 are expected; more than 8 come once in 300 times


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=60), st.permutations(range(6)))
def test_names_of_labels_change_nothing(pairs, names) -> None:
    expert = chosen(torch.tensor([e for e, _ in pairs]))
    label = torch.tensor([x for _, x in pairs])
    renamed = torch.tensor(names)[label] * 1000 - 7
    plain, other = (mutual_information(expert, x, shuffles=3) for x in (label, renamed))
    assert plain.plain == pytest.approx(other.plain, abs=1e-12)
    assert 0 <= plain.plain <= plain.of_choice + 1e-12


def test_pairs_of_choices_count_once_each() -> None:
    # Tokens 0 and 1 both go to expert 0 and to one of their own: 4 pairs of (choice, token), entropy by hand.
    flags = torch.tensor([[1, 1, 0], [1, 0, 1]]).bool().repeat(16, 1)
    found = mutual_information(flags, torch.tensor([0, 1]).repeat(16), shuffles=5)
    assert found.of_choice == pytest.approx(1.5)
    assert found.plain == pytest.approx(0.5)
    assert found.miller_madow is None


def test_layers_that_choose_alike_share_their_whole_entropy_whatever_their_experts_are_called() -> None:
    expert = torch.arange(4).repeat(50)
    same = shared_information(chosen(expert), chosen((expert + 1) % 4), shuffles=5)
    apart = shared_information(chosen(expert), chosen(torch.arange(200) // 50), shuffles=5)
    assert same.plain == pytest.approx(2)
    assert apart.plain == pytest.approx(0.0, abs=0.01)


def test_a_router_that_chooses_nobody_says_nothing() -> None:
    assert mutual_information(torch.zeros(5, 3).bool(), torch.arange(5)) is None


def test_specific_tokens_are_those_that_an_expert_gets_more_often_than_others_do() -> None:
    token = torch.cat([torch.full((90,), 7), torch.full((30,), 3), torch.full((2,), 5)])
    expert = torch.cat([torch.arange(90) % 3, torch.zeros(30, dtype=torch.long), torch.full((2,), 1)])
    tables = token_tables(chosen(expert, 3), token, str)
    assert tables[0]["frequent"][0]["text"] in {"3", "7"}
    assert [row["text"] for row in tables[0]["specific"]] == ["3"]
    assert tables[0]["specific"][0]["share_of_token"] == 1.0
    assert all(row["text"] != "5" for row in tables[1]["specific"]), "two occurrences are no evidence"
    assert sum(row["count"] for row in tables[1]["frequent"]) == 32


def test_log_odds_are_antisymmetric_between_two_experts() -> None:
    z = log_odds(torch.tensor([[30.0, 5.0, 10.0], [4.0, 28.0, 10.0]]))
    assert torch.allclose(z[0], -z[1], atol=1e-9)
    assert z[0, 0] > 2 > abs(z[0, 2]) and z[0, 1] < -2
