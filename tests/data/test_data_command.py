"""`vitruvius data prepare`: data on stdout, talk on stderr, documented exit codes."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING

import pytest

from vitruvius.cli import main
from vitruvius.data import read_index

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("tokenizers")


@pytest.fixture
def documents(tmp_path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i} has words\n" * 5}) + "\n" for i in range(40)))
    return path


def run(*words: object) -> int:
    return main.run(["data", "prepare", *map(str, words)])


def test_it_prepares_says_what_it_did_and_names_the_next_command(documents, tmp_path, capsys):
    assert run(documents, "--out", tmp_path / "out", "--vocab", 2000) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"next: vitruvius train SPEC --data {tmp_path / 'out'} --out RUN" in said.err
    assert "asked for 2,000" in said.err
    assert read_index(tmp_path / "out")["vocab_size"] < 2000


def test_json_is_one_document_and_nothing_else_is_said(documents, tmp_path, capsys):
    documents.write_text(documents.read_text() + "bad\n")
    code = run(documents, "--out", tmp_path / "out", "--vocab", 270, "--max-bad-rate", 0.5, "--json")
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    found = json.loads(said.out)
    assert found["schema"] == "vitruvius.data-prepare/2"
    assert found["documents_in"] == found["documents_out"] + sum(found["dropped"].values()) == 41
    assert found["splits"]["validation"]["documents"] == 2
    assert found["fingerprint"] == read_index(tmp_path / "out")["fingerprint"]


def test_too_much_bad_data_is_exit_3_with_the_place_of_the_quarantine(documents, tmp_path, capsys):
    documents.write_text(documents.read_text() + "bad\n")
    assert run(documents, "--out", tmp_path / "out", "--vocab", 270) == 3
    said = capsys.readouterr().err
    assert "out/quarantine.jsonl" in said and "--max-bad-rate" in said
    assert (tmp_path / "out" / "counts.json").exists()
    assert not (tmp_path / "out" / "index.json").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--vocab", "5"], "--vocab"),
        (["--held-out", "1.5"], "--held-out"),
        (["--max-bad-rate", "nan"], "--max-bad-rate"),
        (["--tokenizer", "none.json"], "none.json"),
        (["--tokenizer", "none.json", "--vocab", "300"], "exclude each other"),
        (["--eos", "</s>"], "--eos belongs to --tokenizer"),
        (["--kind", "pdf"], "pdf"),
    ],
    ids=["small vocab", "held out", "NaN", "no tokenizer", "both", "eos alone", "kind"],
)
def test_a_wrong_option_is_exit_2_and_named_and_nothing_is_written(documents, tmp_path, capsys, words, named):
    assert run(documents, "--out", tmp_path / "out", *words) == 2
    said = capsys.readouterr()
    assert named in said.err and "Traceback" not in said.err and said.out == ""
    assert not (tmp_path / "out").exists()


def test_a_single_text_says_why_nothing_is_held_out(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one text\n" * 100)
    assert run(tmp_path / "a.txt", "--out", tmp_path / "out", "--vocab", 270) == 0
    assert "--document-bytes" in capsys.readouterr().err


def test_help_has_three_examples(capsys):
    assert run("-h") == 0
    assert capsys.readouterr().out.count("\n  vitruvius data prepare ") >= 3


@pytest.mark.parametrize("module", ["tokenizers", "numpy"])
def test_a_missing_package_names_the_extra(documents, tmp_path, capsys, monkeypatch, module):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    assert run(documents, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert module in said and "pip install 'vitruvius[run]'" in said


@pytest.mark.slow
def test_the_standard_library_is_a_corpus(tmp_path, capsys):
    assert run("python-stdlib", "--out", tmp_path / "out", "--vocab", 1024, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["vocab_size"] == 1024
    assert found["bad_rate"] == 0
    text = sum(split["text_bytes"] for split in found["splits"].values())
    assert 3_000_000 < text <= 4_000_000
    assert found["splits"]["validation"]["documents"] == round(0.05 * found["documents_out"])
