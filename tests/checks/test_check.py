"""What `check` says, and about what."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import vitruvius as vt
from vitruvius.checks import PROBES, check, check_callable
from vitruvius.checks.compare import gap, worst_in, worst_of
from vitruvius.checks.learning import chance_in_few_tokens
from vitruvius.checks.numerics import bf16_bound
from vitruvius.checks.subject import LARGEST_BYTES, is_too_big, longest_reach, probe_length, subject_of
from vitruvius.errors import UsageError
from vitruvius.nn import build
from vitruvius.spec import preset, resolve

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = preset("tiny-simple-transformer")


def test_it_is_what_the_package_exports():
    assert vt.check is check


def test_every_probe_says_what_it_does_what_a_failure_means_and_where_to_look():
    for probe in PROBES:
        assert probe.about.endswith(".")
        assert probe.means
        assert probe.look_at


def test_names_are_unique_and_can_be_typed():
    names = [probe.name for probe in PROBES]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and " " not in name for name in names)


def test_only_runs_what_it_names_in_the_order_of_the_table():
    report = check(TINY, only=["positions", "output-shape"])
    assert [outcome.name for outcome in report.checks] == ["output-shape", "positions"]


def test_an_unknown_probe_is_answered_with_its_neighbours():
    with pytest.raises(UsageError) as caught:
        check(TINY, only=["cache-decode"])
    assert "cached-decode" in caught.value.fix


def test_a_model_is_probed_with_its_own_weights():
    model = build(TINY)
    with torch.no_grad():
        model.layers[0].ffn.up.weight.fill_(float("nan"))
    report = check(model, only=["future-leak", "no-nan"])
    assert "the given model" in report.subject
    assert not report["future-leak"].passed


def test_a_model_is_not_changed_by_being_probed():
    model = build(TINY)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert check(model).passed
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_trained_model_passes_too():
    model = build(TINY)
    tokens = torch.randint(1024, (2, 17))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
    assert check(model).passed


def test_a_model_without_values_is_refused_with_the_way_out():
    with pytest.raises(UsageError) as caught:
        check(build(TINY, device="meta"))
    assert "architecture" in caught.value.fix


def test_another_seed_draws_other_weights_and_tokens():
    first, second = (subject_of(TINY, seed) for seed in (0, 1))
    assert not torch.equal(first.tokens(1, 50), second.tokens(1, 50))
    weights = [subject.model.embedding.tokens.weight for subject in (first, second)]
    assert not torch.equal(*weights)


def test_what_is_too_big_is_probed_through_its_twin():
    assert not is_too_big(resolve(preset("tiny-llama-moe")))
    assert is_too_big(resolve(preset("gpt2")))
    twin = subject_of(preset("gpt2"), 0)
    assert twin.is_twin
    assert 4 * sum(parameter.numel() for parameter in twin.model.parameters()) < LARGEST_BYTES
    assert "width 768 -> 16" in twin.description


def test_a_probe_is_at_least_three_windows_long():
    for name in ("tiny-llama-moe", "tiny-longcontext"):
        graph = resolve(preset(name))
        assert probe_length(graph) >= 3 * longest_reach(graph)


def test_the_report_reads_as_a_table_and_as_json():
    report = check(TINY, only=["init-loss", "experts"])
    text = str(report)
    assert "✓ init-loss" in text
    assert "- experts" in text
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["schema"] == "vitruvius.check/1"
    assert data["passed"] is True
    assert {"name", "passed", "detail"} <= set(data["checks"][0])
    assert "<table>" in report._repr_html_()


def test_a_failure_says_what_it_means_and_where_to_look(monkeypatch):
    monkeypatch.setattr("vitruvius.checks.learning.INIT_NATS", -1.0)
    report = check(TINY, only=["init-loss"])
    assert not report.passed
    assert report["init-loss"].means in " ".join(str(report).split())
    assert "look at: init" in str(report)


def test_what_a_component_raises_is_its_failure_and_not_the_end(monkeypatch):
    def broken(self, x_BTD, place=None):
        raise ZeroDivisionError("my component")

    monkeypatch.setattr("vitruvius.nn.ffn.mlp.MlpModule.forward", broken)
    report = check(TINY, only=["output-shape", "parameters"])
    assert "ZeroDivisionError: my component" in report["output-shape"].detail
    assert report["parameters"].passed


def test_wide_first_logits_are_a_warning_and_no_failure():
    from dataclasses import replace

    from vitruvius.spec.inits import NormalInit

    outcome = check(replace(TINY, init=NormalInit(std=0.2)), only=["init-loss"])["init-loss"]
    assert outcome.passed
    assert "logits spread by s = 1.5" in outcome.warning


def test_a_tied_head_that_predicts_the_token_just_read_is_told_apart():
    from dataclasses import replace

    from vitruvius.spec.inits import NormalInit

    base = preset("tiny-llama")
    outcome = check(replace(base, init=NormalInit(std=0.02, table_std=0.1)), only=["init-loss"])["init-loss"]
    assert not outcome.passed
    assert "the token just read stands out" in outcome.detail


def test_the_thread_count_is_put_back():
    before = torch.get_num_threads()
    check(TINY, only=["output-shape"])
    assert torch.get_num_threads() == before


# ----------------------------------------------------------------------------------------------------------------------
# Numbers


def test_a_gap_is_relative_only_where_values_exceed_one():
    assert gap(torch.tensor([1e-3]), torch.tensor([0.0])) == pytest.approx(1e-3)
    assert gap(torch.tensor([1010.0]), torch.tensor([1000.0])) == pytest.approx(0.01)


def test_nan_is_worse_than_every_gap():
    nan = float("nan")
    assert worst_of([]) == 0.0
    assert worst_of([0.1, nan, 0.2]) != worst_of([0.1, nan, 0.2])
    assert worst_in({"a": 0.5, "b": nan})[0] == "b"


def test_only_small_vocabularies_leave_the_first_loss_to_chance():
    assert chance_in_few_tokens(1.0, 128_256) < 0.004
    assert chance_in_few_tokens(0.2, 97) < 0.03
    assert chance_in_few_tokens(4.0, 97) == 0.15


def test_the_bf16_bound_grows_like_a_random_walk():
    assert bf16_bound(6) == pytest.approx(2**0.5 * bf16_bound(2))
    assert bf16_bound(4) < 0.05


# ----------------------------------------------------------------------------------------------------------------------
# Functions that are no models of ours


class Bigram(nn.Module):
    """Logits from the token alone."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab_size, vocab_size, dtype=torch.float64) * 0.1)

    def forward(self, tokens_BT):
        return self.table[tokens_BT]


BIGRAM = Bigram(31)


def test_a_foreign_model_can_be_probed():
    report = check_callable(Bigram(31), 31)
    assert report.passed, str(report)
    assert {outcome.name for outcome in report.checks} == {"future-leak", "batch-invariance", "gradients", "init-loss"}


@pytest.mark.parametrize(
    ("broken", "red"),
    [
        (lambda t: Bigram(31)(t).flip(1).cumsum(1).flip(1), "future-leak"),
        (lambda t, m=BIGRAM: m(t) + t.shape[0] / 100, "batch-invariance"),
        (lambda t, m=BIGRAM: m(t) * 100, "init-loss"),
    ],
    ids=["leak", "batch", "init"],
)
def test_a_broken_foreign_function_is_told_apart(broken, red):
    assert not check_callable(broken, 31, only=[red]).passed
