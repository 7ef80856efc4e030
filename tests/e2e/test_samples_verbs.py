"""Text that a model writes while it is trained, where a user meets it."""

from __future__ import annotations

import json

import pytest

from vitruvius.runs.samples import SAMPLES_FILE

SET = ["--set", "train.samples.every=2", "--set", "train.samples.max_tokens=4", "--set", "train.threads=1"]


@pytest.fixture
def run_folder(here, prepared, said):
    small = ["width=32", "blocks.layer.mixer.heads=2", "blocks.layer.mixer.kv_heads=1", "blocks.layer.ffn.hidden=48"]
    settings = [word for text in [*small, "layers=layer", "vocab_size=300"] for word in ("--set", text)]
    arguments = ["--steps", 4, "--batch", 2, "--context", 16, "--set", "train.samples.prompts=['the', '']"]
    code, _, err = said("train", "tiny-llama", "--data", prepared / "data", "--out", "r", *arguments, *settings, *SET)
    assert code == 0 and err.count("it writes: 'the' -> ") == 2
    return here / "r"


def spoil(run):
    """A text as a hostile corpus may teach it, in the place of the last one."""
    file = run / SAMPLES_FILE
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[-1]["text"] = "\x1b[2J<script>alert(1)</script>\u202e" + "x" * 5000
    rows.insert(0, {"step": "1", "prompt": 3})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_show_watch_and_report_have_what_it_wrote_last(run_folder, said):
    _, shown, _ = said("runs", "show", "r")
    assert "what it wrote at step 4\n  the" in shown and "nats a token" in shown
    assert [row["prompt"] for row in json.loads(said("runs", "show", "r", "--json")[1])["samples"]] == ["the", ""]
    assert "wrote at step 4: " in said("runs", "watch", "r", "--once")[1]
    assert json.loads(said("runs", "watch", "r", "--json")[1])["sample"]["step"] == 4
    assert said("runs", "report", "r", "--html", "page.html")[0] == 0
    page = (run_folder.parent / "page.html").read_text()
    assert "<h2>What it wrote</h2>" in page and page.count("nats a token</p>") == 4
    assert len(json.loads(said("runs", "report", "r", "--json")[1])["runs"][0]["samples"]) == 4


def test_what_a_text_holds_reaches_no_terminal_and_no_page(run_folder, said):
    spoil(run_folder)
    for argv in (["show", "r"], ["watch", "r", "--once"]):
        code, out, _ = said("runs", *argv)
        assert code == 0 and "\x1b" not in out and "\u202e" not in out
    said("runs", "report", "r", "--html", "page.html")
    assert "<script" not in (run_folder.parent / "page.html").read_text()


def test_a_run_without_samples_says_nothing_of_them(run_folder, said):
    (run_folder / SAMPLES_FILE).unlink()
    assert "what it wrote" not in said("runs", "show", "r")[1]
    assert json.loads(said("runs", "show", "r", "--json")[1])["samples"] == []
    said("runs", "report", "r", "--html", "page.html")
    assert "What it wrote" not in (run_folder.parent / "page.html").read_text()


def test_fsdp2_refuses_samples_with_the_way_out(here, prepared, said):
    settings = ["--set", "train.engine={kind: fsdp2}", "--set", "vocab_size=300"]
    code, _, err = said("train", "tiny-llama", "--data", prepared / "data", "--out", "r", "--dry-run", *settings, *SET)
    assert code == 2 and "under kind: fsdp2 none has the whole model" in err
