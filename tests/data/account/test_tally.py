"""Counting names and clusters in bounded memory."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.account import duplicates as module
from vitruvius.data.account.duplicates import Duplicates
from vitruvius.data.account.statistics import host_of
from vitruvius.data.account.tally import Tally


@given(st.lists(st.integers(0, 30).map(str), max_size=300), st.integers(2, 40))
def test_a_count_is_never_too_high_and_never_lower_than_it_says(names, limit):
    tally, exact = Tally(limit=limit), Counter(names)
    for name in names:
        tally.add(name)
    found = tally.summary(most=100)
    assert found["counted"] == len(names)
    for row in found["top"]:
        assert 0 <= exact[row["name"]] - row["count"] <= found["short_by_at_most"]
    if len(exact) <= limit:
        assert (found["short_by_at_most"], found["distinct"]) == (0, len(exact))
        assert {row["name"]: row["count"] for row in found["top"]} == dict(exact)
    else:
        assert found["distinct"] is None or found["short_by_at_most"] == 0
        assert found["distinct_at_least"] <= len(exact)


def test_a_name_that_is_forgotten_was_no_more_frequent_than_the_bound():
    tally = Tally(limit=3)
    for name in ["often"] * 50 + ["a", "b", "c", "d", "e", "f"]:
        tally.add(name)
    found = tally.summary(most=1)
    assert found["top"] == [{"name": "often", "count": 50}]
    assert found["short_by_at_most"] <= 6


@given(st.lists(st.tuples(st.sampled_from(["exact_duplicate", "near_duplicate"]), st.integers(0, 12)), max_size=80))
def test_clusters_are_those_of_a_dictionary(rows):
    with contextlib.closing(Duplicates()) as duplicates, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SLICE", 3)
        patch.setattr(module, "_BUFFERED", 2)
        for reason, keeper in rows:
            duplicates.add({"reason": reason, "keeper": f"k{keeper}", "jaccard": 0.9})
        found = duplicates.summary()
    for name in ("exact", "near"):
        sizes = Counter(Counter(keeper for reason, keeper in rows if reason == f"{name}_duplicate").values())
        of = found[name]
        assert of["dropped"] == sum(reason == f"{name}_duplicate" for reason, _ in rows)
        assert of["clusters"] == sum(sizes.values())
        assert of["largest"] == max((size + 1 for size in sizes), default=0)
        for row in of["sizes"]:
            inside = {size + 1: count for size, count in sizes.items() if row["from"] <= size + 1 <= row["to"]}
            assert row["clusters"] == sum(inside.values()) > 0
            assert row["documents"] == sum(size * count for size, count in inside.items())
        assert sum(row["clusters"] for row in of["sizes"]) == of["clusters"]


@pytest.mark.parametrize("jaccard", [None, "0.9", True, -0.1, 1.5, float("nan")])
def test_what_is_no_similarity_is_counted_in_no_bin(jaccard):
    with contextlib.closing(Duplicates()) as duplicates:
        duplicates.add({"reason": "near_duplicate", "keeper": "k", "jaccard": jaccard})
        duplicates.add({"reason": "near_duplicate", "keeper": None, "jaccard": 1.0})
        found = duplicates.summary()
    assert found["jaccard"]["documents"] == 1
    assert found["jaccard"]["histogram"][-1]["documents"] == 1
    assert found["near"]["without_keeper"] == 1


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.Example.org/a", "example.org"),
        ("http://user:pw@[::1]:80/", "::1"),
        ("https://münchen.de.", "münchen.de"),
        ("not an address", None),
        ("http://[broken", None),
        ("http://www./", "www"),
        (None, None),
        ("", None),
    ],
)
def test_the_host_of_an_address(url, host):
    assert host_of(url) == host
