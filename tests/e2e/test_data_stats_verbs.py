"""`vitruvius data stats` as a user meets it: a table, a page, a picture, and data."""

from __future__ import annotations

import json
import shutil
from xml.etree import ElementTree as ET

import pytest


@pytest.fixture
def copied(prepared, here):
    """The data in a folder of the test's own."""
    shutil.copytree(prepared / "data", here / "data")
    return here


def test_the_terminal_gets_the_counts_and_the_next_step(said, copied):
    code, out, err = said("data", "stats", "data")
    assert code == 0, err
    assert "of 24 read" in out
    assert all(f"\n  {reason} " in out for reason in ("invalid_json", "exact_duplicate", "gopher_few_words"))
    assert "\x1b" not in out + err
    assert "next: vitruvius data card data --out card.md" in err


def test_json_has_every_key_and_the_counts_add_up(said, copied):
    code, out, _ = said("data", "stats", "data", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["schema"] == "vitruvius.data-stats/1"
    funnel = found["funnel"]
    assert funnel["documents_in"] == 24 == funnel["documents_out"] + sum(row["documents"] for row in funnel["dropped"])
    assert [split["name"] for split in found["splits"]] == ["train", "validation"]
    assert found["hosts"]["top"] == [{"name": "example.org", "count": 1}]
    assert found["duplicates"]["exact"]["dropped"] == 1
    _, skipped, _ = said("data", "stats", "data", "--json", "--skip", "tokens", "--skip", "hosts")
    assert set(json.loads(skipped)) == set(found)
    assert json.loads(skipped)["tokens"] is None and json.loads(skipped)["hosts"] is None


def test_a_page_and_a_picture_are_written_whole(said, copied):
    code, out, err = said("data", "stats", "data", "--html", "s.html", "--svg", "s.svg", "--title", "<My> data")
    assert code == 0
    assert "wrote s.html, s.svg" in err
    page = (copied / "s.html").read_text()
    assert "<h1>&lt;My&gt; data</h1>" in page and "\x1b" not in page
    ET.parse(copied / "s.svg")
    assert "documents of" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("data", "stats", "nowhere"), "not prepared data"),
        (("data", "stats", "data/counts.json"), "not prepared data"),
        (("data", "stats", "data", "--html", "data"), "is a folder"),
        (("data", "stats", "data", "--svg", "no/where.svg"), "there is no folder no"),
        (("data", "stats", "data", "--skip", "all"), "'all' is not one of"),
        (("data", "stats", "data", "--ngram", "0"), "0 is not in the range"),
        (("data", "stats"), "Missing argument"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(said, copied, argv, message):
    code, out, err = said(*argv)
    assert (code, out) == (2, "")
    assert message in err
    assert "fix:" in err


def test_damage_is_named_and_nothing_is_written(said, copied):
    shard = next((copied / "data/train").glob("*.bin"))
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    code, out, err = said("data", "stats", "data", "--html", "s.html")
    assert (code, out) == (2, "")
    assert shard.name in err
    assert not (copied / "s.html").exists()


def test_help_has_examples(said):
    code, out, _ = said("data", "stats", "--help")
    assert code == 0
    assert out.count("vitruvius data stats data") >= 3
