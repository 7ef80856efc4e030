"""Which values a sweep lists, the arms that they make, and what the arms are called."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.lab.sweeping_names import LONGEST, named
from vitruvius.lab.sweeping_values import listing_of, swept
from vitruvius.spec.source import parse_text


def section(text):
    return parse_text(text, file="run.yaml")


def names(listing):
    return [arm.name for arm in listing.arms()]


def findings(text, **options):
    with pytest.raises(SpecError) as caught:
        listing_of(section(text), **options)
    return [(finding.where, finding.what) for finding in caught.value.findings]


def test_lists_make_a_grid_and_groups_change_together():
    listing = listing_of(section("train.lr: [1e-3, 3e-3]\nzip: [{train.batch: [8, 16], train.accumulate: [1, 2]}]\n"))
    assert names(listing) == [
        "lr=0.001,batch=8,accumulate=1",
        "lr=0.001,batch=16,accumulate=2",
        "lr=0.003,batch=8,accumulate=1",
        "lr=0.003,batch=16,accumulate=2",
    ]
    first = listing.arms()[0].values[0]
    assert (first.text, first.mark.line, first.mark.column) == ("train.lr=0.001", 1, 12)


def test_a_group_may_stand_alone():
    listing = listing_of(section("zip: {width: [32, 64], train.lr: [1, 2]}"))
    assert names(listing) == ["width=32,lr=1", "width=64,lr=2"]


def test_an_argument_goes_before_the_file():
    node = section("train.lr: [1e-3, 3e-3]\nwidth: [32, 64]\nseeds: 2\nsample: 3\n")
    listing = listing_of(node, texts=["train.lr=[5, 6, 7]"], fixed=["width"], seeds=4, sample=2)
    assert len(names(listing)) == 2 and set(names(listing)) <= {"lr=5", "lr=6", "lr=7"}
    assert listing.seeds == 4


def test_only_lists_are_swept():
    texts = ["train.lr=[1,2]", "width=64", "train.betas=[[0.9,0.95]]", "broken=[1", "none"]
    assert swept(texts) == (["train.lr=[1,2]", "train.betas=[[0.9,0.95]]"], ["width=64", "broken=[1", "none"])


def test_a_range_is_swept_on_the_command_line_too():
    texts = ["train.lr={from: 1e-4, to: 1e-2, scale: log}", "train.guard={spike: skip}", "train.lr={from: 1}"]
    assert swept(texts) == (texts[:1], texts[1:])
    arms = listing_of(None, texts=texts[:1], sample=5).arms()
    assert len({arm.name for arm in arms}) == 5
    assert all(1e-4 <= value.value <= 1e-2 for arm in arms for value in arm.values)


def test_a_sample_is_drawn_without_repeats_and_the_same_each_time():
    node = section("width: [1, 2, 3, 4, 5]\ntrain.lr: [1, 2, 3, 4, 5]\nsample: 7\n")
    drawn = names(listing_of(node))
    assert len(set(drawn)) == 7 and drawn == names(listing_of(node))
    everything = names(listing_of(node, sample=25))
    assert set(drawn) <= set(everything) and names(listing_of(node, sample=100)) == everything


def test_ranges_are_drawn_from_within_their_ends():
    node = section("train.lr: {from: 1e-4, to: 1e-2, scale: log}\nwidth: {from: 32, to: 64}\nsample: 40\n")
    arms = listing_of(node).arms()
    rates = [arm.values[0].value for arm in arms]
    widths = [arm.values[1].value for arm in arms]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates) and all(32 <= width <= 64 for width in widths)
    assert all(type(width) is int for width in widths)
    # Half of a log scale is below its geometric middle.
    assert 10 <= sum(rate < 1e-3 for rate in rates) <= 30


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("train.lr: 3\n", "run.yaml:1:1  sweep.train.lr", "no list of values"),
        ("train.lr: []\n", "run.yaml:1:11  sweep.train.lr", "an empty list"),
        ("train.lr: [1, 1]\n", "run.yaml:1:15  sweep.train.lr", "1 stands there twice"),
        ("seeds: many\n", "run.yaml:1:8  sweep.seeds", "a whole number is due here"),
        ("seeds: 0\n", "run.yaml:1:8  sweep.seeds", "0 is out of range"),
        ("sample: -1\nwidth: [1, 2]\n", "run.yaml:1:9  sweep.sample", "-1 is out of range"),
        ("zip: [{width: [1, 2], vocab_size: [3]}]\n", "run.yaml:1:7  sweep.zip", "lists of unequal length"),
        ("zip: [3]\n", "run.yaml:1:7  sweep.zip", "a group is a mapping of lists"),
        ("width: [1, 2]\nzip: {width: [3, 4]}\n", "run.yaml:1:9  width", "width is listed twice"),
        ("width: {from: 3, to: 1}\nsample: 2\n", "run.yaml:1:8  sweep.width", "from is less than to"),
        ("width: {from: 0, to: 1, scale: log}\nsample: 2\n", "run.yaml:1:8  sweep.width", "above 0 on a log scale"),
        ("width: {from: 1, to: 3}\n", "run.yaml:1:8  width", "a range has no list of values"),
        ("width: {from: true, to: 3}\nsample: 2\n", "run.yaml:1:8  sweep.width", "from a number to a number"),
        ("width: {from: 1, too: 3}\nsample: 2\n", "run.yaml:1:8  sweep.width", "a range has from, to and scale"),
    ],
)
def test_what_is_wrong_with_a_section_is_said_at_its_place(text, where, what):
    ((place, said),) = findings(text)
    assert place == where and what in said


def test_a_section_that_is_a_list_is_refused():
    with pytest.raises(SpecError, match="the section is no mapping"):
        listing_of(parse_text("[1, 2]", file="run.yaml", top="any"))


def test_a_grid_that_nobody_could_run_is_refused_before_it_is_made():
    lists = "".join(f"a{number}: {list(range(50))}\n" for number in range(12))
    with pytest.raises(SpecError, match="at most 1,000 are run"):
        listing_of(section(lists)).arms()
    assert len(listing_of(section(lists), sample=9).arms()) == 9


def test_a_part_of_a_group_cannot_be_replaced_alone():
    ((_, what),) = findings("zip: {width: [1, 2], vocab_size: [3, 4]}\n", fixed=["width"])
    assert "changes together with vocab_size" in what


def test_paths_that_end_alike_are_told_apart():
    arm = [("blocks.a.ffn.hidden", 3), ("blocks.b.ffn.hidden", 4), ("train.lr", 0.1), ("train.betas", [0.9, 0.95])]
    assert named([arm]) == ["a.ffn.hidden=3,b.ffn.hidden=4,lr=0.1,betas=0.9-0.95"]


def test_signs_stay():
    assert named([[("x", -3)], [("x", 3)], [("x", 1e-20)]]) == ["x=-3", "x=3", "x=1e-20"]


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@given(st.lists(st.tuples(st.text(min_size=1), values), min_size=1, max_size=4), st.lists(values, max_size=4))
def test_names_are_safe_for_any_value_and_never_alike(base, others):
    import json

    arms = [base, *([(base[0][0], other), *base[1:]] for other in others)]
    unique = list({json.dumps(arm): arm for arm in arms}.values())
    found = named(unique)
    assert len({name.casefold() for name in found}) == len(unique)
    for name in found:
        assert re.fullmatch(r"[A-Za-z0-9._+=,~-]+", name) and name[0] not in ".-~" and len(name) <= LONGEST
