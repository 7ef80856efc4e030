"""Exact duplicates: one of each text stays, the first by name and place."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.dedup.exact import ExactMatch, ExactSort, exact_duplicates
from vitruvius.data.dedup.settings import DedupSettings
from vitruvius.data.document import Document
from vitruvius.data.job.job import Job
from vitruvius.data.job.kept import KeptWriter, suffixes

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = DedupSettings(exact="text")
TEXTS = st.lists(st.sampled_from(["a", "b", "c", "a ", "A", "é", "é"]) | st.text(min_size=1, max_size=2), max_size=25)


def chunks(items: list[Any], sizes: list[int]) -> list[list[Any]]:
    """The items in units of these sizes, over and over."""
    units, start = [], 0
    while start < len(items):
        size = sizes[len(units) % len(sizes)]
        units.append(items[start : start + size])
        start += size
    return units or [[]]


@given(TEXTS, st.lists(st.integers(0, 6), min_size=1).filter(any), st.integers(1, 40), st.randoms())
def test_of_each_text_the_first_file_stays_in_any_order_and_partition(find, texts, sizes, partition, rng):
    documents = [(f"f{number:03}", text) for number, text in enumerate(texts)]
    expected = {
        file: ("exact", f"f{texts.index(text):03}", 1.0)
        for file, text in documents
        if f"f{texts.index(text):03}" != file
    }
    rng.shuffle(documents)
    found = find(chunks(documents, sizes), SETTINGS, (ExactSort(), ExactMatch(partition=partition)))
    assert found == expected


def test_white_space_case_and_normal_form_make_texts_differ(find):
    assert find([[("1", "a"), ("2", "a "), ("3", "A"), ("4", "\u00e9"), ("5", "e\u0301")]], SETTINGS) == {}


def test_a_unit_may_be_empty_and_so_may_the_corpus(find):
    assert find([[], [("b", "x")], [], [("a", "x")]], SETTINGS) == {"b": ("exact", "a", 1.0)}
    assert find([[]], SETTINGS) == {}
    assert find([], SETTINGS) == {}


def test_every_document_may_be_the_same(find):
    documents = [(f"{number:04}", "same") for number in range(500)]
    random.Random(0).shuffle(documents)
    found, sums = find.with_sums(chunks(documents, [7]), SETTINGS, (ExactSort(), ExactMatch(partition=20)))
    assert set(found.values()) == {("exact", "0000", 1.0)}
    assert len(found) == 499
    assert sums == [{"documents": 500}, {"duplicates": 499}]


def test_in_one_file_the_first_place_stays(tmp_path: Path):
    """Lines are counted anew in each unit of a large file, so the place in bytes decides, not the name."""
    job = Job(tmp_path)
    job.__dict__["plan"] = SimpleNamespace(units=(0, 1))
    for unit, places in enumerate([(1000, 1200), (20, 300)]):
        with job.publishing_all(job.path("read", unit), suffixes(signed=False)) as files:
            writer = KeptWriter(files, seed=0, sign=None)
            for line, place in enumerate(places, 1):
                name = f"big.jsonl:{line}"
                writer.keep(Document(id=name, file="big.jsonl", line=line, byte_offset=place, text="same"))
    for stage in (ExactSort(), ExactMatch()):
        for task in range(stage.tasks(job)):
            stage.run(job, task)
    assert exact_duplicates(job, 0).tolist() == [(0, 1 << 32), (1, 1 << 32)]
    assert exact_duplicates(job, 1).tolist() == [((1 << 32) + 1, 1 << 32)]
