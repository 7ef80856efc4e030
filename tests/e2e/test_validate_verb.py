"""`vitruvius validate` as a user meets it: the one report, on paper and as data."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from vitruvius.checks import learning
from vitruvius.checks.outcome import failed
from vitruvius.checks.table import PROBES
from vitruvius.lab import validate as validating
from vitruvius.spec import preset, read

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = """\
name: small
description: A design & its <proof>.
vocab_size: 320
width: 32
context: 64
head: {kind: lm, tied: true}
blocks:
  a:
    mixer: {kind: attention, heads: 2, sees: causal & sliding(8), position: {kind: rope}}
    ffn: {kind: swiglu, hidden: 48}
layers: a
claims:
  - {about: parameters, says: 7B, source: a blog}
"""
FILES = {"report.md", "report.html", "report.json", "architecture.svg"}
FEW = ("--quick", "--lengths", "8,16", "--minutes", "30")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with one spec, and a quick validation that is quicker still."""
    monkeypatch.chdir(tmp_path)
    few = replace(validating.QUICK, warmups=0, runs=3, checks=("output-shape", "parameters", "gradients"))
    monkeypatch.setattr(validating, "QUICK", few)
    (tmp_path / "small.yaml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def said(here, said):
    """Run the verb in this process: exit code, stdout, stderr."""
    return lambda *argv: said("validate", *argv)


@pytest.fixture
def written(said, here):
    """The report of the small design: its document and its texts by name."""
    code, out, err = said("small.yaml", *FEW, "--out", "proof", "--json")
    assert code == 0, err
    folder = here / "proof"
    assert {path.name for path in folder.iterdir()} == FILES
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in FILES}
    assert json.loads(texts["report.json"]) == json.loads(out)
    return json.loads(out), texts


def test_the_document_holds_the_whole_report(written):
    document, _ = written
    assert document["schema"] == "vitruvius.validate/1"
    assert (document["passed"], document["effort"]) == (True, "quick")
    assert [one["name"] for one in document["checks"]["checks"]] == ["output-shape", "parameters", "gradients"]
    assert document["parameters"]["total"] == 19_040
    assert document["configuration"]["width"] == 32
    assert document["bills"]["inference"]["schema"] == "vitruvius.size/1"
    assert document["bills"]["train"]["mode"] == "train"
    assert document["bench"]["schema"] == "vitruvius.bench/1"
    assert {row["status"] for row in document["bench"]["rows"]} == {"measured"}
    assert document["bench_of"] == {
        "name": "small",
        "is_prototype": False,
        "parameters": 19_040,
        "deviations": [],
        "blind_spots": [],
    }
    assert document["full_size"] == []
    assert document["next_experiment"]["command"].startswith("vitruvius ")
    assert document["environment"]["packages"]["torch"]


def test_the_report_answers_what_a_project_asks_for(written):
    document, texts = written
    page, text = texts["report.html"], texts["report.md"]
    for part in (
        "Architecture tests",
        "Does every parameter learn?",
        "19,040",
        "7B",
        "swiglu",
        "Benchmark",
        "mixer attention",
        "h100-80gb",
        document["next_experiment"]["command"],
    ):
        assert part in text, part
        assert part in page or part in page.replace("&amp;", "&"), part
    assert "![small, drawn](architecture.svg)" in text
    assert "&lt;proof&gt;" in page and "<proof>" not in page
    assert "A design &amp; its &lt;proof>." in text
    assert not re.search(r"<script|<link|src=|@import", page)
    assert texts["architecture.svg"].lstrip().startswith(("<svg", "<?xml"))


def test_the_spec_in_the_report_is_the_spec(written, here):
    _, texts = written
    block = re.search(r"```yaml\n(.*?)```", texts["report.md"], re.DOTALL)
    (here / "again.yaml").write_text(block[1], encoding="utf-8")
    assert read(here / "again.yaml") == read(here / "small.yaml")


def test_in_short_it_says_what_came_out_and_what_comes_next(said):
    code, out, err = said("small.yaml", *FEW)
    assert code == 0, err
    assert out.startswith("small: All 3 checks passed.\n")
    assert "prefill" in out and "wrote small-validation/report.md" in err
    assert "the cheapest next experiment: " in err
    assert err.splitlines()[-1].startswith("next: vitruvius ")


def test_a_failed_check_leaves_with_1_and_the_report_says_where_to_look(said, here, monkeypatch):
    probes = {probe.name: probe for probe in PROBES}
    broken = replace(probes["gradients"], run=lambda _subject: failed("one weight never learns"))
    monkeypatch.setitem(validating.check.__globals__["_BY_NAME"], "gradients", broken)
    assert learning.gradients is probes["gradients"].run
    code, out, err = said("small.yaml", *FEW, "--out", "proof")
    assert code == 1
    assert out.startswith("small: 1 of 3 checks failed.\n")
    assert "✗ gradients: one weight never learns" in out
    assert err.splitlines()[-1] == "next: vitruvius check small.yaml"
    page = (here / "proof" / "report.html").read_text(encoding="utf-8")
    assert "one weight never learns" in page and probes["gradients"].means in page
    assert json.loads((here / "proof" / "report.json").read_text())["passed"] is False


@pytest.mark.slow
def test_what_is_too_big_is_benched_as_a_prototype_and_predicted_at_full_size(said, here, monkeypatch):
    monkeypatch.setattr(validating, "_SECONDS", 0.0)
    monkeypatch.setattr(validating, "QUICK", replace(validating.QUICK, prototype=150_000))
    code, out, err = said("tiny-longcontext", *FEW, "--out", "proof", "--json")
    assert code == 0, err
    document = json.loads(out)
    of = document["bench_of"]
    assert of["is_prototype"] and of["name"].startswith("tiny-longcontext-")
    assert of["parameters"] < 300_000 < document["parameters"]["total"]
    assert of["blind_spots"] and of["deviations"]
    assert document["bench"]["contenders"][0]["context"] == preset("tiny-longcontext").context
    assert [(row["phase"], row["length"]) for row in document["full_size"]] == [
        (row["phase"], row["length"]) for row in document["bench"]["rows"]
    ]
    for row in document["full_size"]:
        assert row["status"] == "predicted"
        assert 0 < row["seconds_at_best"] <= row["seconds_at_worst"]
        assert row["tokens_per_second_at_worst"] <= row["tokens_per_second_at_best"]
        assert row["peak_memory_bytes"] > 0
    assert "predicted" in document["notes"][0]
    text = (here / "proof" / "report.md").read_text(encoding="utf-8")
    assert "### At full size, predicted" in text and "cannot show" in text
    page = (here / "proof" / "report.html").read_text(encoding="utf-8")
    assert page.count('<tr class="predicted">') >= len(document["full_size"])


@pytest.mark.slow
def test_an_older_report_is_replaced_whole(said, here):
    assert said("small.yaml", *FEW, "--out", "proof")[0] == 0
    (here / "proof" / "notes.txt").write_text("mine")
    assert said("small.yaml", *FEW, "--out", "proof", "--seed", "1")[0] == 0
    assert json.loads((here / "proof" / "report.json").read_text())["bench"]["seed"] == 1
    assert {path.name for path in (here / "proof").iterdir()} == FILES | {"notes.txt"}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["no-such-preset"], "no-such-preset"),
        (["small.yaml", "--lengths", "65"], "takes 64 at most"),
        (["small.yaml", "--lengths", "0"], "at least one token"),
        (["small.yaml", "--minutes", "-1"], "minutes"),
        (["small.yaml", "--on", "h100"], "h100"),
        (["small.yaml", "--on", "h100-80gb", "--on", "h100-80gb"], "twice"),
        (["small.yaml", "--out", "small.yaml"], "no folder"),
        (["small.yaml", "--set", "blocks.a.mixer.heads=0"], "heads"),
        (["small.yaml", "--threads", "0"], "threads"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_refused_before_anything_is_run(said, here, argv, says, monkeypatch):
    def never(*_args, **_named):
        raise AssertionError("it was run")

    monkeypatch.setattr(validating, "check", never)
    code, out, err = said(*argv)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and says in err and "  fix: " in err
    assert [path.name for path in here.iterdir()] == ["small.yaml"]


@pytest.mark.slow
def test_an_interrupt_leaves_no_file_behind(here):
    process = subprocess.Popen(
        [sys.executable, "-m", "vitruvius", "validate", "small.yaml", "--out", "proof", "--minutes", "60"],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "checking" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert [path.name for path in here.iterdir()] == ["small.yaml"]
