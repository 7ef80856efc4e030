"""`vitruvius data explain` as a user meets it."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def rows(prepared):
    """The rows of the quarantine by reason."""
    lines = (prepared / "data/quarantine.jsonl").read_text().splitlines()
    return {row["reason"]: row for row in map(json.loads, lines)}


@pytest.fixture
def told(said, prepared, monkeypatch):
    """Explain, in the folder where the inputs are."""
    monkeypatch.chdir(prepared)
    return lambda *argv: said("data", "explain", "data", *argv)


def test_a_dropped_document_is_told_with_every_measure(told, rows):
    code, out, err = told(rows["gopher_few_words"]["id"])
    assert code == 0, err
    assert "dropped: gopher_few_words" in out
    assert "✗ gopher_few_words: 1, must be >= 5" in out
    assert "✓ gopher_many_words" in out
    assert "Rae et al. 2021" in out
    assert "it ends as the data says" in out
    assert "next: vitruvius data sample data --dropped-by gopher_few_words" in err


def test_a_duplicate_names_its_keeper_and_the_keeper_its_duplicate(told, rows):
    twin = rows["exact_duplicate"]
    code, out, _ = told(twin["id"], "--json")
    found = json.loads(out)
    assert code == 0 and found["schema"] == "vitruvius.data-explain/1"
    assert found["duplicate"]["keeper"] == twin["keeper"]
    assert found["agrees"] is True
    _, out, _ = told(twin["keeper"])
    assert "1 duplicates were dropped because this document stays" in out
    assert twin["id"] in out


def test_every_key_is_there_for_every_end(told, rows):
    keys = {tuple(json.loads(told(row["id"] or "lines.jsonl:24", "--json")[1])) for row in rows.values()}
    keys.add(tuple(json.loads(told(rows["exact_duplicate"]["keeper"], "--json")[1])))
    assert len(keys) == 1


def test_a_record_that_is_no_json_is_told_by_its_line(told):
    code, out, _ = told("lines.jsonl:24")
    assert code == 0
    assert "dropped: invalid_json" in out
    assert '| {"text": broken' in out


def test_escapes_never_reach_the_terminal(told, prepared):
    ids = [row["id"] for row in _origins(prepared)]
    outs = "".join(told(name)[1] for name in ids)
    assert "\\x1b[2J" in outs and "\\u202e" in outs and "\\u200b" in outs
    assert not {"\x1b", "\u202e", "\u200b"} & set(outs)


def test_an_unknown_id_is_answered_with_one_that_comes_near(told, rows):
    name = rows["gopher_few_words"]["id"]
    code, out, err = told(name[:-1])
    assert (code, out) == (2, "")
    assert "did you mean lines.jsonl@" in err
    code, _, err = told("\x1b[2J\n../../etc/passwd")
    assert code == 2
    assert "\x1b" not in err


def test_the_inputs_may_have_moved(said, here, prepared, rows):
    name = rows["gopher_few_words"]["id"]
    code, out, _ = said("data", "explain", prepared / "data", name)
    assert code == 0
    assert "note: not read again" in out and "--inputs-in" in out
    assert "dropped: gopher_few_words" in out
    code, out, _ = said("data", "explain", prepared / "data", name, "--inputs-in", prepared)
    assert "it ends as the data says" in out


def _origins(prepared):
    from vitruvius.data.account.folder import PreparedFolder

    folder = PreparedFolder(prepared / "data")
    return [row for split in folder.splits for row in folder.origins(split)]


def test_a_row_of_a_hugging_face_dataset_is_read_again_and_ends_as_the_data_says(here, said):
    import datasets

    rows = [{"text": f"the {number} of and to that have with {chr(97 + number) * 5} " * 3} for number in range(20)]
    datasets.Dataset.from_list([*rows, {"text": "x"}]).to_parquet(str(here / "ds" / "train.parquet"))
    (here / "recipe.yaml").write_text("steps: [{kind: gopher_quality, least_words: 5, least_alphabetic_words: 0}]\n")
    options = ["--out", "data", "--vocab", "300", "--held-out", "0.2", "--recipe", "recipe.yaml"]
    code, _, err = said("data", "prepare", "hf:ds", *options)
    assert code == 0, err
    for row, kept in ((3, True), (21, False)):
        code, out, err = said("data", "explain", "data", f"hf:ds#{row}", "--json")
        assert code == 0, err
        told = json.loads(out)
        assert (told["kept"], told["agrees"], told["notes"]) == (kept, True, [])
