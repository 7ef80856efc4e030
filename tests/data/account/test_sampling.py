"""Documents drawn to be looked at."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from vitruvius.cli.output import clean
from vitruvius.data.account.explaining import explain
from vitruvius.data.account.folder import PreparedFolder
from vitruvius.data.account.sampling import sample
from vitruvius.errors import UsageError
from vitruvius.report.data_document import explanation_text, sample_text

TEXT = 10**6


def test_kept_documents_are_shown_as_they_were_packed(real):
    folder = PreparedFolder(real / "data")
    drawn = sample(real / "data", count=1000, characters=TEXT, root=real)
    assert drawn["population"] == folder.counts["documents_out"] == len(drawn["documents"])
    ids = {split: [row["id"] for row in folder.origins(split)] for split in folder.splits}
    for one in drawn["documents"]:
        assert ids[one["split"]][one["document"]] == one["id"]
        assert one["text_is_whole"]
        assert one["text_bytes"] == len(one["text"].encode())
    assert len({one["id"] for one in drawn["documents"]}) == drawn["population"]


def test_the_same_seed_draws_the_same_and_another_draws_others(real):
    first, again, other = (sample(real / "data", count=5, seed=seed)["documents"] for seed in (1, 1, 2))
    assert first == again
    assert [one["id"] for one in first] != [one["id"] for one in other]
    for split in ("train", "validation"):
        assert {one["split"] for one in sample(real / "data", count=50, split=split)["documents"]} == {split}


@pytest.mark.parametrize("dropped_by", [None, "any"])
def test_every_document_is_drawn_about_as_often(make, dropped_by):
    rows = [{"id": f"{i}", "reason": "x_rule", "file": "f"} for i in range(10)]
    folder = make(train=[(str(i), "a") for i in range(10)], dropped=rows)
    drawn = Counter(
        one["id"]
        for seed in range(60)
        for one in sample(folder, count=3, seed=seed, dropped_by=dropped_by)["documents"]
    )
    assert drawn.total() == 180
    # Eighteen each, with a standard deviation of 3.5.
    assert len(drawn) == 10 and all(5 < count < 34 for count in drawn.values())


def test_dropped_documents_are_read_again_with_what_the_rule_measured(real):
    drawn = sample(real / "data", dropped_by="gopher_few_words", root=real, characters=TEXT)
    one = drawn["documents"][0]
    assert (drawn["population"], one["text"], one["text_is_whole"]) == (1, "the few of", True)
    assert (one["step"], one["value"], one["relation"], one["limit"]) == ("gopher_quality", 3, "at least", 12)
    near = sample(real / "data", dropped_by="near_duplicate", root=real)["documents"][0]
    assert near["keeper"] and near["jaccard"] >= 0.7


def test_records_that_could_not_be_read_show_their_bytes(real):
    drawn = sample(real / "data", count=100, dropped_by="any", root=real, characters=TEXT)["documents"]
    texts = {one["line"]: one["text"] for one in drawn if one["file"] == "lines.jsonl"}
    assert texts[4] == '{"text": broken \x00'
    assert texts[5] == ""
    assert texts[10] == '{"text": "cut'
    assert all(one["text_is_whole"] for one in drawn)


def test_where_the_file_is_gone_that_is_said(real, tmp_path):
    drawn = sample(real / "data", count=100, dropped_by="any", root=tmp_path)
    assert drawn["population"] == len(drawn["documents"])
    assert all(one["text"] is None and "--inputs-in" in one["note"] for one in drawn["documents"])


def test_long_texts_are_cut(real):
    for one in sample(real / "data", count=50, characters=7)["documents"]:
        assert len(one["text"]) == 7
        assert not one["text_is_whole"]


def test_a_source_is_drawn_from_alone(folder):
    drawn = sample(folder, count=100, source="code")
    assert drawn["population"] == 7 == len(drawn["documents"])
    assert {one["source"] for one in drawn["documents"]} == {"code"}


@pytest.mark.parametrize(
    ("wrong", "message", "fix"),
    [
        ({"dropped_by": "near_duplicates"}, "'near_duplicates'", "did you mean 'near_duplicate'?"),
        ({"dropped_by": "\x1b[2J"}, "no document was dropped", "blank_line"),
        ({"dropped_by": "any", "split": "train"}, "in no split", "leave out"),
        ({"split": "test"}, "no split 'test'", "train, validation"),
        ({"source": "cod"}, "no source 'cod'", "did you mean 'code'?"),
        ({"count": 0}, "0 documents", "from 1"),
        ({"characters": 0}, "0 characters", "from 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_way_out(folder, wrong, message, fix):
    with pytest.raises(UsageError) as caught:
        sample(folder, **wrong)
    assert message in str(caught.value)
    assert fix in caught.value.fix


ODD = '[3, [], {"a": 1}, null, true, "\\u001b[2J", NaN, 1e999, "\\ud800", -1, 123456789012345678901234567890]'


@pytest.mark.parametrize(
    "key", ["id", "file", "line", "byte_offset", "detail", "step", "value", "relation", "limit", "keeper"]
)
def test_rows_of_any_shape_are_shown_and_explained(folder, key):
    whole = {"id": "a", "file": "f", "line": 1, "byte_offset": 0, "reason": "near_duplicate", "detail": "d"}
    whole |= {"step": "s", "value": 1, "relation": "at most", "limit": 2, "keeper": "k", "jaccard": 0.9}
    rows = [json.dumps(whole | {key: value}) for value in json.loads(ODD)]
    (folder / "quarantine.jsonl").write_text("\n".join(rows))
    drawn = sample(folder, count=100, dropped_by="any")
    assert drawn["population"] == len(rows)
    stories = [explain(folder, one["id"]) for one in drawn["documents"] if one["id"] is not None]
    assert stories or key == "id"
    for found, text in [(drawn, sample_text(drawn)), *((story, explanation_text(story)) for story in stories)]:
        json.dumps(found, allow_nan=False)
        clean(text).encode()


def test_nothing_is_drawn_from_nothing(make):
    drawn = sample(make(train=[("a", "x")]), split="validation")
    assert (drawn["population"], drawn["documents"]) == (0, [])
    assert json.loads(json.dumps(drawn)) == drawn
