"""`vitruvius inspect` as a user meets it: a run, a spec, a text, a page."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from vitruvius.cli.main import run

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = """\
name: small
vocab_size: 270
width: 32
context: 64
head: {kind: lm, tied: true}
blocks:
  a:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: causal, position: fox}
    ffn: {kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 16}}
layers: a*2
"""
KEYS = {
    *(
        "schema",
        "name",
        "run",
        "step",
        "weights",
        "parameters",
        "text",
        "sample",
        "settings",
        "roles",
        "layers",
        "maps",
    ),
    *("cell_tokens", "experts", "overlap", "gates", "stream", "lens", "notes"),
}


@pytest.fixture(scope="module")
def made(with_data):
    """Prepared data and a run of four steps with two checkpoints."""
    folder = with_data("inspect-verb", SPEC)
    quick = ["--steps", "4", "--batch", "2", "--context", "32", "--checkpoint-every", "2", "--set", "train.keep=9"]
    start = ["train", str(folder / "small.yaml"), "--data", str(folder / "data")]
    assert run([*start, "--out", str(folder / "run"), *quick]) == 0
    return folder


@pytest.fixture
def here(made, copied):
    """A folder of the test's own with a copy of all that, to be in."""
    return copied(made)


def document(said, *argv):
    code, out, err = said("inspect", *argv, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_run_is_looked_into_at_its_newest_checkpoint_over_held_out_text(here, said) -> None:
    found = document(said, "run", "--tokens", "16", "--sample", "256")
    assert found["schema"] == "vitruvius.inspect/1" and set(found) == KEYS
    assert (found["step"], found["weights"], found["run"]) == (4, "trained", "run")
    assert "held-out text" in found["text"]["origin"]
    assert len(found["text"]["tokens"]) == 16
    assert len(found["layers"]) == len(found["gates"]) == len(found["experts"]) == 2
    assert len(found["maps"]) == 8
    assert document(said, "run", "--tokens", "16", "--sample", "256") == found


def test_the_terminal_shows_heads_experts_gates_and_what_comes_next(here, said) -> None:
    code, out, err = said("inspect", "run", "--tokens", "16", "--sample", "256")
    assert code == 0
    for words in ("heads: 8", "layers.1.mixer", "4 experts", "about the token", "forget gate", "nats (the next token)"):
        assert words in out
    assert "next: vitruvius inspect run --html inside.html" in err


def test_a_step_can_be_named_and_one_that_is_not_there_is_refused(here, said) -> None:
    assert document(said, "run", "--step", "2", "--tokens", "8")["step"] == 2
    assert document(said, "run/checkpoints/step-2", "--tokens", "8")["step"] == 2
    code, _, err = said("inspect", "run", "--step", "3")
    assert code == 2 and "2, 4" in err


def test_a_damaged_checkpoint_is_passed_over_and_that_is_said(here, said) -> None:
    weights = here / "run/checkpoints/step-4/model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    found = document(said, "run", "--tokens", "8")
    assert found["step"] == 2
    assert any("step 4 is damaged" in note for note in found["notes"])
    code, _, err = said("inspect", "run", "--step", "4")
    assert code != 0 and "model.safetensors" in err


def test_a_prompt_and_a_file_are_read_with_the_tokenizer_of_the_run(here, said) -> None:
    found = document(said, "run", "--prompt", "stone <b> beam")
    assert "".join(token["text"] for token in found["text"]["tokens"]) == "stone <b> beam"
    (here / "text.txt").write_bytes("\ufeffan arch ünder a beam\n".encode())
    found = document(said, "run", "--text", "text.txt", "--tokens", "8")
    assert found["text"]["origin"] == "the text of text.txt"
    assert len(found["text"]["tokens"]) == 8


def test_data_that_is_gone_is_replaced_by_a_paragraph_and_that_is_said(here, said) -> None:
    record = json.loads((here / "run/run.json").read_text())
    record["data"]["path"] = str(here / "nowhere")
    (here / "run/run.json").write_text(json.dumps(record))
    found = document(said, "run", "--tokens", "8")
    assert "comes with vitruvius" in found["text"]["origin"]
    assert any("nowhere" in note for note in found["notes"])


def test_other_data_in_the_same_place_is_not_read(here, said) -> None:
    record = json.loads((here / "run/run.json").read_text())
    record["data"]["fingerprint"] = "0" * 64
    (here / "run/run.json").write_text(json.dumps(record))
    found = document(said, "run", "--tokens", "8")
    assert any("not what the run was trained on" in note for note in found["notes"])


def test_a_spec_is_looked_into_with_fresh_weights_and_says_so(here, said) -> None:
    found = document(said, "small.yaml", "--tokens", "8", "--set", "layers=a")
    assert (found["step"], found["weights"], found["run"]) == (None, "fresh", None)
    assert any("nothing is learned" in note for note in found["notes"])
    assert len(found["layers"]) == 1


def test_the_page_is_written_whole_and_replaces_what_was_there(here, said) -> None:
    (here / "inside.html").write_text("old")
    code, out, err = said("inspect", "run", "--tokens", "12", "--sample", "128", "--html", "inside.html")
    assert code == 0 and "wrote inside.html" in err
    page = (here / "inside.html").read_text()
    assert page.startswith("<!doctype html>") and page.endswith("</html>\n")
    assert page.count("<img") == 8 and "What heads do" in page
    assert "heads: 8" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("run", "--layer", "9"), "layers are numbered 0 to 1"),
        (("run", "--head", "4"), "heads are numbered 0 to 3"),
        (("run", "--tokens", "1"), "use 2 to"),
        (("run", "--sample", "1"), "use 2 to"),
        (("run", "--seed", "-1"), "out of range"),
        (("run", "--prompt", ""), "the text is empty"),
        (("run", "--prompt", "a"), "one token"),
        (("run", "--prompt", "a", "--text", "small.yaml"), "both say what to read"),
        (("run", "--text", "missing.txt"), "no such file"),
        (("run", "--text", "data"), "this is a folder"),
        (("run", "--role", "previous"), "NAME=SCORE"),
        (("run", "--role", "sleepy=0.5"), "there is no role"),
        (("run", "--role", "first=9"), "at most 1"),
        (("run", "--set", "width=64"), "cannot be changed"),
        (("small.yaml", "--step", "3"), "a spec has no steps"),
        (("run", "--html", "nowhere/inside.html"), "no folder"),
        (("run", "--html", "data"), "no file"),
        (("missing.yaml",), "missing.yaml"),
        (("texts",), "run.json"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(here, said, argv, words) -> None:
    code, out, err = said("inspect", *argv)
    assert code in {1, 2} and out == ""
    assert words in err and "fix: " in err


def test_a_run_without_a_checkpoint_or_a_tokenizer_is_refused(here, said) -> None:
    shutil.copytree("run", "bare")
    (here / "bare/tokenizer.json").unlink()
    code, out, err = said("inspect", "bare")
    assert code == 2 and out == "" and "tokenizer.json" in err
    shutil.rmtree(here / "bare/checkpoints")
    code, out, err = said("inspect", "bare")
    assert code == 2 and out == "" and "no checkpoint" in err


def test_inspecting_changes_no_byte_of_the_run(here, said) -> None:
    files = [path for path in (here / "run").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    document(said, "run", "--tokens", "8")
    assert {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()} == before


def test_a_text_that_is_not_utf_8_is_refused_with_the_byte(here, said) -> None:
    (here / "bad.txt").write_bytes(b"stone \xff beam")
    code, _, err = said("inspect", "run", "--text", "bad.txt")
    assert code == 2 and "byte 6" in err


def test_hostile_tokens_reach_neither_the_terminal_nor_the_page(here, said) -> None:
    code, out, _ = said("inspect", "run", "--prompt", "\x1b[2J<script>alert(1)</script>\u202e", "--html", "inside.html")
    assert code == 0
    assert "\x1b" not in out and "\u202e" not in out
    assert "<script" not in (here / "inside.html").read_text()


def test_help_needs_no_torch(python) -> None:
    done = python(
        "import sys\nfrom vitruvius.cli.main import run\nrun(['inspect', '--help'])\nprint('torch' in sys.modules)"
    )
    assert done.stdout.strip().endswith("False")


def test_a_text_may_come_through_a_pipe(here, said) -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text("the cat saw the cat"))
    writer.start()
    found = document(said, "run", "--text", "pipe", "--tokens", "8")
    writer.join()
    assert "".join(token["text"] for token in found["text"]["tokens"]).startswith("the cat")
