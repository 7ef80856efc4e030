"""What a bill refuses, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vitruvius as vt
from vitruvius.errors import SpecError, UsageError


def test_a_context_past_the_learned_positions_is_refused_with_the_limit() -> None:
    with pytest.raises(UsageError, match=r"1,024 learned positions, and 5,000"):
        vt.size(vt.preset("gpt2"), context=5000)
    assert vt.size(vt.preset("gpt2"), context=1024).context == 1024


def test_training_has_no_cache_in_any_row() -> None:
    bill = vt.size(vt.preset("llama-moe"), mode="train").to_dict()
    assert bill["memory"]["kv_cache_bytes"] == 0
    assert [row["kv_cache_bytes"] for row in bill["layers"]] == [0, 0]


@pytest.mark.parametrize(
    "fields",
    [
        {"vocab_size": -5},
        {"vocab_size": "100"},
        {"width": 0},
        {"width": 64.0},
        {"width": True},
        {"layers": 3},
        {"blocks": None},
        {"name": 7},
        {"norm": "rmsnorm"},
        {"context": float("nan")},
        {"head": object()},
    ],
    ids=lambda fields: " ".join(f"{name} {type(value).__name__}" for name, value in fields.items()),
)
def test_an_architecture_built_in_python_is_checked_like_a_file(fields) -> None:
    with pytest.raises(SpecError):
        vt.size(replace(vt.preset("tiny-gpt2"), **fields))


@pytest.mark.parametrize("entrance", [vt.size, vt.build, vt.shrink, vt.check, vt.draw])
def test_every_entrance_says_that_a_name_is_no_architecture(entrance) -> None:
    with pytest.raises(UsageError):
        entrance("llama-moe")


@pytest.mark.parametrize("numbers", [{"context": "4k"}, {"context": 1.5}, {"batch": 2.0}, {"batch": True}], ids=str)
def test_numbers_of_a_wrong_type_are_refused_by_name(numbers) -> None:
    with pytest.raises(UsageError, match=next(iter(numbers))):
        vt.size(vt.preset("tiny-gpt2"), **numbers)


def test_a_text_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(SpecError, match="surrogates"):
        vt.size(replace(vt.preset("tiny-gpt2"), description="half \ud800 a pair"))
