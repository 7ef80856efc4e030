"""`vitruvius doc` as a user meets it: the model card and the configuration reference of a spec or a run."""

from __future__ import annotations

import json

import pytest

from vitruvius.cli.main import run as vitruvius
from vitruvius.report.configuration import configuration_page, settings
from vitruvius.report.model_card import model_card
from vitruvius.runs.folder import RunFolder
from vitruvius.spec import preset, preset_names, read, write
from vitruvius.spec.reading import read_text

HOSTILE = """\
name: hostile
description: "a | b <script>alert(1)</script> ![x](http://e) \\n# head `tick` *bold*"
vocab_size: 64
width: 16
context: 64
blocks:
  a:
    mixer: {kind: attention, heads: 2, sees: "causal & (sliding(8) | sinks(2))"}
    ffn: {kind: mlp, hidden: 32}
layers: a*2
"""


def table_rows(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_a_card_and_a_reference(name):
    architecture = preset(name)
    card, page = model_card(architecture), configuration_page(architecture)
    assert f"# {name}" in card
    assert "There are no weights" in card
    assert len(table_rows(page)) > len(list(settings(architecture)))


def test_the_folder_gets_card_reference_and_drawing(tmp_path, capsys):
    out = tmp_path / "deep" / "docs"
    assert vitruvius(["doc", "llama-moe", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "vitruvius.doc/1"
    assert set(told["files"]) == {path.name for path in out.iterdir()}
    card = (out / "model-card.md").read_text()
    assert "27.76 B (27,760,791,552)" in card
    assert "](architecture.svg)" in card
    assert "| parameters | 8B | 27.76 B (27,760,791,552) | **no** |" in card
    assert (out / "architecture.svg").read_text().startswith("<svg")


def test_what_was_given_is_told_from_defaults(capsys):
    assert vitruvius(["doc", "tiny-llama", "--page", "configuration", "--set", "context=96"]) == 0
    page = capsys.readouterr().out
    assert "| `context` | **`96`** |" in page
    assert "| `head.softcap` | `null` |" in page


def test_every_path_of_the_reference_is_one_that_set_takes():
    architecture = preset("tiny-llama")
    whole = [s for s in settings(architecture) if s.value.isdigit() and not s.path.startswith("layers")]
    assert len(whole) > 5
    for setting in whole:
        assert read("tiny-llama", overrides=[f"{setting.path}={setting.value}"]) == architecture, setting.path


def test_text_of_others_stays_text():
    architecture = read_text(HOSTILE).architecture
    card, page = model_card(architecture), configuration_page(architecture)
    assert "<script>" not in card
    assert "\n# head" not in card
    for row in table_rows(page):
        assert row.replace("\\|", "").count("|") == 4, row


def test_a_card_says_how_far_windows_reach():
    text = HOSTILE.replace("(sliding(8) | sinks(2))", "sliding(8)")
    assert "reach back 15 tokens at most" in model_card(read_text(text).architecture)
    assert "reach back" not in model_card(read_text(HOSTILE).architecture)


def test_of_a_run_the_card_says_how_it_was_trained(tmp_path, capsys):
    write(preset("tiny-llama"), tmp_path / "spec.yaml")
    config = {"train": {"optimizer": "muon", "lr": 0.02}}
    text = (tmp_path / "spec.yaml").read_text()
    made = RunFolder.create(
        tmp_path / "run", command=["vitruvius", "train", "x"], config=config, spec_text=text, data={"path": "somewhere"}
    )
    with made as folder:
        folder.metric(step=7, loss=1.25, tokens=4096, grad_norm=1.0, lr=0.1, tokens_per_second=9.0)
    assert vitruvius(["doc", str(tmp_path / "run")]) == 0
    card = capsys.readouterr().out
    assert "| optimizer | muon |" in card
    assert "| steps | 7 |" in card
    assert "| path | `somewhere` |" in card
    assert "vitruvius train x" in card
    assert "There are no weights" not in card
    assert vitruvius(["doc", str(tmp_path / "run"), "--set", "width=8"]) == 2


@pytest.mark.parametrize("spec", ["nothing-of-that-name", "."])
def test_what_is_neither_spec_nor_run_is_refused(spec, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert vitruvius(["doc", spec]) == 2
    assert "fix:" in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert vitruvius(["doc", "tiny-llama", "--out", str(tmp_path / "file" / "docs")]) == 2
    assert (tmp_path / "file").read_text() == "mine"
    assert "Traceback" not in capsys.readouterr().err
