"""What tests of verbs share: a folder to be in, and a way to run a command in this process."""

from __future__ import annotations

import contextlib
import json
import random
import shutil

import pytest

from vitruvius.cli.main import run
from vitruvius.data import PrepareOptions, prepare


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of the test's own to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(capsys):
    """Run a command in this process: exit code, stdout, stderr."""

    def call(*argv):
        capsys.readouterr()
        code = run([str(word) for word in argv])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err and "Traceback" not in shown.out
        return code, shown.out, shown.err

    return call


WORDS = ["arch", "beam", "stone", "river", "mason"]


@pytest.fixture(scope="session")
def data_of_words(tmp_path_factory):
    """Prepare data, vocabulary 300, from texts of five words in random order: `data_of_words(texts, words, folder)`."""

    def make(texts, words, folder=None):
        folder = folder or tmp_path_factory.mktemp("words")
        (folder / "texts").mkdir()
        draw = random.Random(0)
        for number in range(texts):
            text = " ".join(draw.choice(WORDS) for _ in range(words))
            (folder / "texts" / f"{number}.txt").write_text(text + ".\n")
        prepare([folder / "texts"], folder / "data", PrepareOptions(vocab=300, held_out=0.2))
        return folder / "data"

    return make


@pytest.fixture(scope="session")
def with_data(tmp_path_factory):
    """Make a folder with a spec (`small.yaml`) and `data` that was prepared from a dozen texts of four words."""

    def make(name, spec):
        folder = tmp_path_factory.mktemp(name)
        (folder / "small.yaml").write_text(spec)
        (folder / "texts").mkdir()
        draw = random.Random(0)
        for number in range(12):
            words = (draw.choice(["arch", "beam", "stone", "river"]) for _ in range(200))
            (folder / "texts" / f"{number}.txt").write_text(" ".join(words))
        prepare = ["data", "prepare", str(folder / "texts"), "--out", str(folder / "data")]
        assert run([*prepare, "--vocab", "270", "--held-out", "0.2"]) == 0
        return folder

    return make


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Be in a folder of the test's own, with a copy of what is in another."""

    def copy(made):
        shutil.copytree(made, tmp_path, dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return copy


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder with lines of JSON, and in it `data`, which `data prepare` made of them; some are dropped."""
    here = tmp_path_factory.mktemp("prepared")
    rows = [{"text": f"the {number} of and to that have with {chr(97 + number) * 5} " * 3} for number in range(20)]
    rows += [rows[3], {"text": "short"}, {"text": "the \x1b[2J of and to that have with \u202e a\u200b colour of " * 2}]
    rows[0]["url"] = "https://www.example.org/\x1b[31m"
    lines = [json.dumps(row) for row in rows]
    (here / "lines.jsonl").write_text("\n".join([*lines, '{"text": broken', ""]))
    (here / "recipe.yaml").write_text(
        "steps: [whitespace, {kind: gopher_quality, least_words: 5, least_alphabetic_words: 0,"
        " least_mean_word_length: 0}]\n"
        "duplicates: {exact: text}\n"
    )
    with contextlib.chdir(here):
        options = ["--recipe", "recipe.yaml", "--vocab", "300", "--held-out", "0.2", "--max-bad-rate", "1", "--workers"]
        assert run(["data", "prepare", "lines.jsonl", "--out", "data", "--json", *options, "1"]) == 0
    return here
