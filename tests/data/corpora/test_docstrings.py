"""Docstrings and names: which functions give a pair, why others do not, and that every one is accounted for."""

from __future__ import annotations

import ast
import json

import pytest

from vitruvius.cli import main
from vitruvius.data.corpora import docstrings
from vitruvius.data.corpora.docstrings import LEFT_OUT, fetch_docstrings, reason_against, summary_of
from vitruvius.errors import DataError, UsageError

SOURCE = '''
def read_lines(path):
    """
    Give every row of a file,
    one by one.

    More about it.
    """
def undocumented(): pass
def ends(): "Too short"
def copied(): "This is copied from elsewhere"
def __repr__(self): "A text for people to read"
def test_something(): "A test that checks a thing"
async def fetch_page(url): "Bring what stands at an address"
class Thing:
    def fetch_page(self): "Another one of the same name"
    def surrogate(self): "half \\ud800 of a pair here"
'''


def test_the_first_paragraph_is_the_summary_in_one_line():
    assert summary_of("\n   One line,\n   and two.  \n\n   More.\n") == "One line, and two."
    assert summary_of("  \n\n ") is None
    assert summary_of(None) is None


@pytest.mark.parametrize(
    ("name", "summary", "reason"),
    [
        ("read", "Give the rows of it", None),
        ("get_name", "The get-name call of it all", "names_itself"),
        ("_", "Three words here", "special_name"),
        ("visit_Call", "Three words here", "special_name"),
        ("do_GET", "Three words here", "special_name"),
        ("read", None, "no_docstring"),
        ("read", "two words", "short"),
        ("read", "long " * 200, "long"),
    ],
)
def test_a_pair_is_refused_for_a_reason_in_the_table(name, summary, reason):
    assert reason_against(name, summary) == reason
    assert reason is None or reason in LEFT_OUT


@pytest.fixture
def library(tmp_path, monkeypatch):
    folder = tmp_path / "lib"
    (folder / "pkg" / "tests").mkdir(parents=True)
    (folder / "pkg" / "mod.py").write_text(SOURCE)
    (folder / "pkg" / "broken.py").write_text("def f(:\n")
    (folder / "pkg" / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000)
    (folder / "pkg" / "nul.py").write_bytes(b"x = 1\0")
    (folder / "pkg" / "latin.py").write_bytes(b"# \xff\n")
    (folder / "pkg" / "tests" / "more.py").write_text(SOURCE)
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(folder))
    return folder


def test_every_function_gives_a_pair_or_a_reason(library, tmp_path):
    made = fetch_docstrings(tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "docstrings-python.jsonl").read_text().splitlines()]
    assert [(row["name"], row["text"]) for row in rows] == [
        ("fetch_page", "Bring what stands at an address"),
        ("fetch_page", "Another one of the same name"),
        ("read_lines", "Give every row of a file, one by one."),
    ]
    assert {row["module"] for row in rows} == {"pkg.mod"}
    assert rows[2]["words"] == "read lines"
    (part,) = made.manifest["packages"]
    left_out = {reason: found["files"] for reason, found in part["left_out"].items()}
    functions = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(ast.parse(SOURCE)))
    files = sum(left_out.pop(reason, 0) for reason in ("not_parsed", "not_decodable"))
    assert files == 4
    assert len(rows) + sum(left_out.values()) == functions
    assert left_out == {"no_docstring": 2, "short": 1, "names_itself": 1, "special_name": 2}


def test_the_same_sources_give_the_same_bytes_and_nothing_is_imported(library, tmp_path):
    (library / "pkg" / "mod.py").write_text("raise SystemExit('imported')\n" + SOURCE)
    for name in ("one", "two"):
        fetch_docstrings(tmp_path / name)
    files = [(tmp_path / name / "docstrings-python.jsonl").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_the_command_fetches_and_names_the_next_one(library, tmp_path, capsys):
    assert main.run(["data", "fetch", "docstrings", "--out", str(tmp_path / "out")]) == 0
    assert "vitruvius data pairs" in capsys.readouterr().err
    for package, error in (("no-such-package-anywhere", DataError), ("../x", UsageError)):
        with pytest.raises(error):
            fetch_docstrings(tmp_path / "other", packages=[package])
