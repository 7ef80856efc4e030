"""A stack folds into the nesting that a person would write, and unfolds into the same layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.report.folding import MOST_PARTS, Gap, One, Repeat, fold, line_of
from vitruvius.spec import preset, resolve


def _layers(line):
    return resolve(replace(preset("longcontext"), layers=line)).layers


@pytest.mark.parametrize(
    ("line", "folded"),
    [
        ("local", "local"),
        ("local local local", "local x 3"),
        ("local*16 dilated*12 full*4", "local x 16 dilated x 12 full x 4"),
        ("local full local full", "(local full) x 2"),
        ("(local*5 full)*5 local*4", "(local x 5 full) x 5 local x 4"),
        ("local^6", "local ^ 6"),
        ("(local full)^4 dilated", "(local full) ^ 4 dilated"),
        ("(local full^2)*3", "(local full ^ 2) x 3"),
    ],
)
def test_a_stack_reads_as_it_would_be_written(line, folded):
    assert line_of(fold(_layers(line))) == folded


def test_a_layer_that_repeats_the_weights_of_another_is_not_folded_into_those_that_have_their_own():
    assert line_of(fold(_layers("local^2 local*3"))) == "local local ^ 1 local x 3"


def test_a_long_stack_without_a_rhythm_keeps_its_ends_and_says_how_many_layers_are_between():
    line = " ".join("local" if (i * i) % 7 < 3 else "full" for i in range(200))
    parts = fold(_layers(line.replace("full full", "full dilated")))
    assert len(parts) <= MOST_PARTS + 1
    assert sum(part.layers for part in parts) == 200


def _unfolded(parts):
    for part in parts:
        match part:
            case One(name=name):
                yield name
            case Repeat():
                for _ in range(part.times):
                    yield from _unfolded(part.parts)
            case Gap():
                raise AssertionError("nothing was left out of so short a stack")


@given(st.lists(st.sampled_from(["local", "dilated", "full"]), min_size=1, max_size=MOST_PARTS))
def test_folding_loses_nothing(names):
    parts = fold(_layers(" ".join(names)))
    assert list(_unfolded(parts)) == names
    assert sum(part.layers for part in parts) == len(names)


def test_ten_thousand_layers_fold_quickly_enough_to_be_drawn():
    assert line_of(fold(_layers("(local full)*5000"))) == "(local full) x 5,000"
