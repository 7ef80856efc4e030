"""The story of one document, told by running its steps again, and by the data alone where that cannot be."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest

from vitruvius.data.account.changes import shared_start, short_diff, word_diff
from vitruvius.data.account.explaining import explain
from vitruvius.data.account.folder import PreparedFolder, id_of
from vitruvius.errors import DataError

RED = "deep/\x1b[31mred/a.txt"


@pytest.fixture
def told(real):
    """Explain a document of the real folder."""
    return lambda name, **others: explain(real / "data", name, **({"root": real} | others))


@pytest.fixture
def rows(real):
    """The rows of the quarantine by the line of `lines.jsonl`."""
    return {row["line"]: row for row in PreparedFolder(real / "data").quarantine() if row["file"] == "lines.jsonl"}


def test_every_document_is_told_and_ends_as_the_data_says(real, told):
    folder = PreparedFolder(real / "data")
    kept = [origin["id"] for split in folder.splits for origin in folder.origins(split)]
    dropped = [row for row in folder.quarantine() if row["id"] is not None]
    assert len(kept) + len(list(folder.quarantine())) == folder.counts["documents_in"]
    assert kept and dropped
    for name in kept:
        story = told(name)
        assert (story["kept"], story["agrees"], story["notes"]) == (True, True, [])
        assert all(step["passed"] for step in story["steps"])
    for row in dropped:
        story = told(row["id"])
        assert (story["kept"], story["agrees"], story["notes"]) == (False, True, [])
        assert story["end"]["reason"] == row["reason"]
        assert [step["step"] for step in story["steps"]] == ["html", "whitespace", "gopher_quality"]
        if row["reason"] == "near_duplicate":
            assert story["duplicate"]["jaccard_again"] == row["jaccard"] == story["duplicate"]["jaccard"]


def test_a_kept_document_says_which_it_is_in_the_shards(real, told):
    folder = PreparedFolder(real / "data")
    for split in folder.splits:
        for number, origin in enumerate(folder.origins(split)):
            end = told(origin["id"])["end"]
            assert (end["split"], end["document"]) == (split, number)
            assert (end["tokens"], end["text_bytes"]) == (origin["tokens"], origin["text_bytes"])


def test_a_step_tells_its_limits_and_their_source_even_after_one_that_dropped(told, rows):
    story = told(rows[3]["id"])
    rule = story["steps"][2]
    assert not rule["passed"]
    assert "Rae et al. 2021" in rule["source"]
    first = rule["measures"][0]
    assert first == {
        "reason": "gopher_few_words",
        "value": 3,
        "relation": "at least",
        "limit": 12,
        "passed": False,
    }
    assert len(rule["measures"]) > 5
    assert story["place"] == {
        "file": "lines.jsonl",
        "kind": "jsonl",
        "source": "all",
        "line": 3,
        "byte_offset": rows[3]["byte_offset"],
    }


def test_a_rewriting_tells_what_it_changed(real, told):
    name = next(row["id"] for row in PreparedFolder(real / "data").origins("train") if "lines" in row["id"])
    spaced = f"lines.jsonl@{len((real / 'lines.jsonl').read_bytes().split(bytes([10]))[0]) + 1}"
    story = told(spaced)
    step = story["steps"][1]
    assert step["changes"]
    assert step["characters_after"] < step["characters_before"]
    assert any(line.startswith("-") for line in step["difference"]["lines"])
    assert told(name)["recipe"] == "mine"


def test_a_page_freed_of_its_markup_shows_how_it_begins_now(told):
    difference = told("deep/page.html")["steps"][0]["difference"]
    assert difference["lines"][-1].startswith("+the of to and that ")
    assert not any("<" in line for line in difference["lines"])


def test_a_dropped_document_is_shown_as_the_rule_saw_it(told, rows):
    text = told(rows[3]["id"])["text"]
    assert (text["of"], text["start"]) == ("rule", "the few of")
    near = next(row for row in rows.values() if row["reason"] == "near_duplicate")
    assert told(near["id"])["text"]["of"] == "steps"


def test_a_near_duplicate_is_compared_with_its_keeper_word_by_word(told, rows):
    near = next(row for row in rows.values() if row["reason"] == "near_duplicate")
    twin = told(near["id"])["duplicate"]
    assert (twin["keeper"], twin["threshold"], twin["ngram_words"]) == (near["keeper"], 0.7, 3)
    assert twin["keeper_text_of"] == "source"
    assert any("[LONG]" in line or "[now]" in line for line in twin["difference"]["lines"])
    keeper = told(near["keeper"])
    assert near["id"] in [row["id"] for row in keeper["duplicates_dropped"]["first"]]


def test_a_record_that_could_not_be_read_shows_its_bytes(told, rows):
    story = told("lines.jsonl:4")
    assert story["end"]["reason"] == rows[4]["reason"]
    assert story["text"]["of"] == "bytes"
    assert story["text"]["start"].startswith('{"text": broken')
    assert "\n" not in story["text"]["start"]
    assert story["steps"] is None and story["agrees"] is None


def test_an_id_may_be_given_as_messages_show_it(told):
    assert told(RED)["id"] == RED
    assert told("deep/\\x1b[31mred/a.txt")["id"] == RED


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("lines.jsonl@1", "did you mean lines.jsonl@"),
        ("deep/red/a.txt", r"did you mean deep/\x1b[31mred/a.txt"),
        ("x" * 100_000, "ids are FILE"),
        ("", "ids are FILE"),
        ("../../etc/passwd", "ids are FILE"),
        ("\x1b[2J\n\udcff", "ids are FILE"),
    ],
)
def test_an_unknown_id_is_refused_with_those_that_come_near(told, wanted, hint):
    with pytest.raises(DataError) as caught:
        told(wanted)
    assert hint in caught.value.fix
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_where_the_source_is_gone_the_data_itself_still_tells(real, told, rows, tmp_path):
    near = next(row for row in rows.values() if row["reason"] == "near_duplicate")
    story = told(near["id"], root=tmp_path)
    assert (story["steps"], story["agrees"]) == (None, None)
    assert story["duplicate"]["jaccard"] == near["jaccard"]
    assert story["duplicate"]["jaccard_again"] is None
    assert story["duplicate"]["keeper_text_of"] == "shard"
    assert "--inputs-in" in story["notes"][0]
    kept = told(near["keeper"], root=tmp_path)
    assert kept["text"]["of"] == "shard"
    assert kept["end"]["split"] in {"train", "validation"}
    assert json.loads(json.dumps(kept)) == kept


def test_a_source_that_changed_is_noticed(real, rows, tmp_path):
    for name in ("lines.jsonl", "packed.jsonl.gz"):
        shutil.copy(real / name, tmp_path / name)
    file = tmp_path / "lines.jsonl"
    file.write_bytes(file.read_bytes().replace(b"LONG enough now", b"LOST enough now").replace(b"the few", b"the new"))
    near = next(row for row in rows.values() if row["reason"] == "near_duplicate")
    story = explain(real / "data", near["keeper"], root=tmp_path)
    assert story["agrees"] is False
    assert "changed" in story["notes"][0]
    file.write_text("\n")
    gone = explain(real / "data", rows[3]["id"], root=tmp_path)
    assert gone["steps"] is None
    assert "may have changed" in gone["notes"][0]


def test_data_of_which_the_settings_are_unknown_is_told_as_far_as_it_goes(folder):
    story = explain(folder, "web/3.txt")
    assert story["kept"] and story["steps"] is None
    assert story["text"]["start"]
    assert any("input file" in note for note in story["notes"])
    twin = explain(folder, "a.jsonl:3")
    assert twin["duplicate"]["keeper"] == "k1"
    assert any("not in the shards" in note for note in twin["notes"])


def test_a_hostile_index_reads_no_device(real, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(real / "data", data)
    index = json.loads((data / "index.json").read_text())
    index["settings"]["inputs"] = [
        {"name": "/dev/zero", "source": "all", "kind": "text", "size_bytes": 1},
        7,
        {"name": 3},
    ]
    (data / "index.json").write_text(json.dumps(index))
    with (data / "quarantine.jsonl").open("a") as file:
        file.write(json.dumps({"id": "/dev/zero", "file": "/dev/zero", "reason": "gopher_few_words"}) + "\n")
    story = explain(data, "/dev/zero")
    assert "not a regular file" in story["notes"][0]


@pytest.mark.parametrize(
    "settings", [None, [], {"parts": 3}, {"parts": [{"name": "all"}], "inputs": "x"}, {"parts": [7]}]
)
def test_settings_of_any_shape_are_survived(real, tmp_path, settings):
    data = tmp_path / "data"
    shutil.copytree(real / "data", data)
    index = json.loads((data / "index.json").read_text())
    index["settings"] = settings
    (data / "index.json").write_text(json.dumps(index))
    name = next(row["id"] for row in PreparedFolder(data).origins("train"))
    with contextlib.chdir(real):
        story = explain(data, name)
    assert story["steps"] is None
    assert story["notes"]


def test_differences_are_short_however_long_the_texts():
    long = "word " * 300_000
    assert len(json.dumps(word_diff(long, long + "more"))) < 1000
    assert len(json.dumps(short_diff(long, long[:-10] + "x"))) < 1000
    many = "\n".join(str(i) for i in range(50_000))
    found = short_diff(many, many.replace("1", "one"))
    assert len(found["lines"]) == 24 and found["more"]
    assert word_diff("a b c d", "a b x d")["lines"] == ["-a b [c] d", "+a b [x] d"]
    assert word_diff("a b", "a b")["lines"] == []
    assert short_diff("a\nb\nc", "a\nc") == {"from_line": 2, "lines": ["-b"], "more": False}


def test_how_far_texts_are_alike():
    assert [shared_start(*pair) for pair in (("abc", "abd"), ("", "x"), ("ab", "abc"), ("abc", "ab"))] == [2, 0, 2, 2]


def test_rows_without_an_id_are_named_by_their_place():
    assert id_of({"file": "a", "line": 3}) == "a:3"
    assert id_of({"id": None, "file": "a", "line": None}) == "a"
    assert id_of({"id": 7}) is None
