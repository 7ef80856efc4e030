"""Continuations of a prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.inference import Generation, Sampler, StopText
from vitruvius.inference import generate as generate_module
from vitruvius.nn import build
from vitruvius.spec import preset

GREEDY = Sampler(temperature=0)


@pytest.fixture(scope="module", params=["tiny-llama-moe", "tiny-longcontext", "tiny-gpt2"])
def model(request):
    return build(preset(request.param, overrides=["width=32", "vocab_size=101"]), dtype=torch.float64, seed=3)


def _uncached(model, prompt, count):
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_cached_greedy_text_equals_recomputing_everything_for_each_token(model) -> None:
    prompt = [5, 17, 3, 99, 42]
    assert list(Generation(model, prompt, max_tokens=40, sampler=GREEDY)) == _uncached(model, prompt, 40)


def test_a_prompt_in_several_chunks_gives_the_same_text(model, monkeypatch) -> None:
    prompt = torch.randint(0, 101, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    whole = list(Generation(model, prompt, max_tokens=12, sampler=GREEDY))
    monkeypatch.setattr(generate_module, "PREFILL", 37)
    assert list(Generation(model, prompt, max_tokens=12, sampler=GREEDY)) == whole


def test_equal_seeds_give_equal_text_and_others_differ(model) -> None:
    def text(seed: int) -> list[int]:
        return list(Generation(model, [1, 2, 3], max_tokens=30, sampler=Sampler(temperature=2.0), seed=seed))

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_an_end_token_ends_the_text_and_is_not_part_of_it(model) -> None:
    tokens = list(Generation(model, [7], max_tokens=30, sampler=GREEDY))
    end = tokens[0]
    generation = Generation(model, [7], max_tokens=30, sampler=GREEDY, stop_tokens=[end])
    assert list(generation) == []
    assert generation.finish is not None and generation.finish.reason == "stop"


def test_the_reason_says_whether_the_budget_or_the_context_ended_the_text(model) -> None:
    short = Generation(model, [1], max_tokens=4, sampler=GREEDY)
    assert len(list(short)) == 4 and short.finish.reason == "length"
    context = model.architecture.context
    full = Generation(model, [1] * (context - 3), max_tokens=50, sampler=GREEDY)
    assert len(list(full)) == 3 and full.finish.reason == "context"


def test_ids_beyond_the_tokenizer_are_never_drawn(model) -> None:
    drawn = list(Generation(model, [1], max_tokens=60, sampler=Sampler(temperature=50.0), vocabulary=10))
    assert max(drawn) < 10


@pytest.mark.parametrize(
    ("prompt", "budget", "said"),
    [([], 5, "empty"), ([101], 5, "outside"), ([-1], 5, "outside"), ([1], 0, "max_tokens"), ([1], -3, "max_tokens")],
)
def test_prompts_and_budgets_without_meaning_are_refused(model, prompt, budget, said) -> None:
    with pytest.raises(UsageError, match=said):
        Generation(model, prompt, max_tokens=budget)


def test_a_prompt_as_long_as_the_context_is_refused_with_both_counts(model) -> None:
    context = model.architecture.context
    with pytest.raises(UsageError, match=f"{context:,}"):
        Generation(model, [1] * context, max_tokens=1)


@given(
    text=st.text("abc", max_size=60),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_stop_text_shows_everything_before_the_first_stop_however_the_text_arrives(text, stops, data) -> None:
    cutter, shown, rest = StopText(stops), "", text
    while rest and not cutter.found:
        size = data.draw(st.integers(1, 7))
        shown += cutter.push(rest[:size])
        rest = rest[size:]
    shown += cutter.flush()
    ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    if not cutter.found:
        assert not ends and shown == text
    else:
        assert not any(stop in shown for stop in stops)
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        StopText([""])
