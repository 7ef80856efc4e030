"""`vitruvius data sample` as a user meets it."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def drawn(said, prepared, monkeypatch):
    """Sample, in the folder where the inputs are."""
    monkeypatch.chdir(prepared)
    return lambda *argv: said("data", "sample", "data", *argv)


def test_kept_documents_are_shown_and_the_next_step_explains_one(drawn, said):
    code, out, err = drawn("-n", "3")
    assert code == 0, err
    assert "3 of 21 documents kept, seed 0" in out
    assert out.count("── lines.jsonl@") == 3
    command = err.split("next: vitruvius ")[1].split()
    assert said(*command)[0] == 0


def test_what_a_rule_threw_away_is_shown_with_its_value_and_limit(drawn):
    code, out, _ = drawn("--dropped-by", "gopher_few_words")
    assert code == 0
    assert "1 of 1 documents dropped for gopher_few_words" in out
    assert "gopher_few_words: 1, must be >= 5 (lines.jsonl, line 22, byte " in out
    assert "  | short" in out


def test_json_holds_the_texts_as_they_are(drawn):
    code, out, _ = drawn("--dropped-by", "any", "-n", "9", "--json")
    found = json.loads(out)
    assert code == 0 and found["schema"] == "vitruvius.data-sample/1"
    assert found["population"] == 3
    assert [one["reason"] for one in found["documents"]] == ["exact_duplicate", "gopher_few_words", "invalid_json"]
    keys = {tuple(one) for one in found["documents"]}
    assert len(keys) == 1
    _, kept, _ = drawn("-n", "100", "--json", "--characters", "100000")
    assert any("\x1b" in one["text"] for one in json.loads(kept)["documents"])


def test_the_same_seed_shows_the_same(drawn):
    assert drawn("--seed", "3") == drawn("--seed", "3")
    assert drawn("--seed", "3") != drawn("--seed", "4")


def test_escapes_never_reach_the_terminal(drawn):
    _, out, err = drawn("-n", "100")
    assert "\\x1b[2J" in out
    assert "https://www.example.org/\\x1b[31m" in out
    assert not {"\x1b", "\u202e", "\u200b"} & set(out + err)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--dropped-by", "gopher_few_word"), "did you mean 'gopher_few_words'?"),
        (("--source", "web"), "the sources are all"),
        (("--split", "test"), "'test' is not one of"),
        (("--dropped-by", "any", "--split", "train"), "in no split"),
        (("-n", "0"), "0 is not in the range"),
        (("--characters", "-1"), "-1 is not in the range"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_way_out(drawn, argv, message):
    code, out, err = drawn(*argv)
    assert (code, out) == (2, "")
    assert message in err
