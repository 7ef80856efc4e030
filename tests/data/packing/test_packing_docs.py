"""docs/data/packing.md: its Python runs, its settings are settings, its figures for the standard library hold."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from vitruvius.data import PrepareOptions, TokenShards, compare_packings, prepare
from vitruvius.data.packing.plans import PACKINGS
from vitruvius.spec.source import parse_text
from vitruvius.spec.tree import to_plain
from vitruvius.training.checking import from_plain

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data" / "packing.md").read_text(encoding="utf-8")


def blocks(first):
    """The indented blocks that begin with some text."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE, flags=re.MULTILINE)
    return [re.sub("^    ", "", block, flags=re.MULTILINE) for block in found if block.strip().startswith(first)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    prepare(["python-stdlib"], folder / "data", PrepareOptions())
    return folder / "data"


def test_the_python_runs(data, monkeypatch, capsys):
    monkeypatch.chdir(data.parent)
    snippets = blocks("from vitruvius")
    assert len(snippets) == 2
    for snippet in snippets:
        exec(compile(snippet, "packing.md", "exec"), {})
    assert "best-fit" in capsys.readouterr().out


def test_the_run_file_is_one():
    (text,) = blocks("train:")
    config = from_plain(to_plain(parse_text(text, file="packing.md").value["train"]))
    assert (config.packing, config.context, len(config.curriculum)) == ("best-fit", 8192, 2)


def test_every_packing_is_explained():
    for packing in PACKINGS:
        assert f"| `{packing}` |" in PAGE


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the figures are those of Python 3.11's library")
def test_the_table_is_what_the_standard_library_gives(data):
    shards = TokenShards.open(data)
    if f"{shards.documents:,} documents, {shards.tokens:,} tokens" not in PAGE:
        pytest.skip("another patch release of Python 3.11 has another library")
    line = r"^\| ([\d,]*) ?\| `?([\w -]+)`? \| ([\d,]+) \| ([\d.]+)(?: %)? \|(.*)\|$"
    rows = re.findall(line, PAGE, flags=re.MULTILINE)
    context = 0
    for shown, name, samples, padding, rest in rows:
        context = int(shown.replace(",", "")) if shown else context
        result = compare_packings(shards, context=context)["greedy" if name == "naive greedy" else name]
        assert int(samples.replace(",", "")) == result.samples
        assert float(padding) == pytest.approx(100 * result.padding_share, abs=0.005)
        *counts, read = (cell.replace(",", "") for cell in rest.split("|"))
        cut, long, left_out = map(int, counts)
        assert (cut, long, left_out) == (result.cut_documents, result.long_documents, result.left_out_tokens)
        assert float(read) == pytest.approx(result.mean_attended_tokens, abs=0.051)
    assert len(rows) == 20
