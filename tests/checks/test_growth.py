"""Chapter 1's exercise: positions that grow to 128, 512 and 1,024 tokens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from vitruvius.checks.growth import at_length, records_page
from vitruvius.errors import PositionOverflowError, UsageError
from vitruvius.nn import build
from vitruvius.spec import preset

pytestmark = pytest.mark.usefixtures("one_thread")
EXERCISE = preset("tiny-simple-transformer")


@pytest.mark.parametrize("length", [128, 512, 1024])
def test_the_exercise_works_at_each_length(length):
    run = at_length(EXERCISE, length)
    assert run.passed
    assert (run.rows_before, run.rows_after) == (128, length)
    assert run.loss == pytest.approx(6.93, abs=0.1)
    assert run.decode_gap < 1e-9


def test_one_token_past_the_end_names_limit_length_and_the_ways_out():
    with pytest.raises(PositionOverflowError) as caught:
        at_length(EXERCISE, 1025)
    message = str(caught.value)
    assert "1,025" in message
    assert "1,024" in message
    assert "rope, alibi or sinusoidal" in message


def test_a_table_has_the_same_rows_in_whatever_steps_it_grew():
    at_once, in_steps = build(EXERCISE), build(EXERCISE)
    at_once.embedding.position.grow(1000)
    for length in (129, 130, 300, 301, 777, 1000):
        in_steps.embedding.position.grow(length)
    rows = min(at_once.embedding.position.weight.shape[0], in_steps.embedding.position.weight.shape[0])
    assert rows >= 1000
    assert torch.equal(at_once.embedding.position.weight[:rows], in_steps.embedding.position.weight[:rows])


def test_growing_keeps_the_rows_that_were_there():
    model = build(EXERCISE)
    before = model.embedding.position.weight.clone()
    model.embedding.position.grow(512)
    assert torch.equal(model.embedding.position.weight[:128], before)


def test_new_rows_are_drawn_as_wide_as_the_first():
    model = build(EXERCISE)
    model.embedding.position.grow(1024)
    fresh = model.embedding.position.weight[128:]
    assert fresh.std().item() == pytest.approx(EXERCISE.init.table_std, rel=0.05)


def test_decoding_past_the_first_rows_grows_the_table_and_equals_the_full_pass():
    stepping, full = build(EXERCISE, dtype="fp64"), build(EXERCISE, dtype="fp64")
    tokens = torch.randint(1024, (1, 140), generator=torch.Generator().manual_seed(0))
    cache = stepping.cache(1, capacity=140)
    with torch.no_grad():
        stepping(tokens[:, :120], cache=cache)
        steps = [stepping(tokens[:, i : i + 1], cache=cache) for i in range(120, 140)]
        assert (torch.cat(steps, dim=1) - full(tokens)[:, 120:]).abs().max() < 1e-12


def test_each_length_gets_a_reproducibility_record():
    runs = [at_length(EXERCISE, length) for length in (8, 16)]
    page = records_page(EXERCISE, runs, spec="tiny-simple-transformer", seed=0)
    for part in ("Observed", "Data", "Seeds", "Versions", "Runtime", "Constraints"):
        assert page.count(part) == 2
    assert "vitruvius check tiny-simple-transformer --lengths 8,16 --seed 0" in page
    assert runs[0].logits_sha256 in page


def test_what_is_too_big_for_full_size_is_refused_with_a_way_out():
    with pytest.raises(UsageError) as caught:
        at_length(preset("llama-3-8b"), 128)
    assert "tiny" in caught.value.fix


def test_the_stored_records_are_what_the_command_observes_today():
    page = (Path(__file__).resolve().parents[2] / "docs" / "reproductions" / "simple-transformer.md").read_text()
    losses = [float(number) for number in re.findall(r"^\| loss \| (\S+) \|$", page, re.MULTILINE)]
    observed = [at_length(EXERCISE, length).loss for length in (128, 512, 1024)]
    assert losses == pytest.approx(observed, abs=1e-5)
