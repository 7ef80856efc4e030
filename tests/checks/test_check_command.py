"""`vitruvius check`, as a user runs it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from vitruvius.cli.main import run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def called(capsys, tmp_path, monkeypatch):
    """Run the command in this process, where torch is imported already."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> SimpleNamespace:
        code = run(arguments)
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=printed.out, stderr=printed.err)

    return call


@pytest.mark.slow
def test_a_preset_passes_and_the_next_step_is_told(vitruvius):
    done = vitruvius("check", "tiny-llama-moe", env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ cached-decode" in done.stdout
    assert "all passed" in done.stdout
    assert "the cheapest next experiment: " in done.stderr
    assert "next: vitruvius train" in done.stderr
    report = done.stdout.splitlines()[1:]  # the first line names the subject, however long
    assert max(map(len, report)) <= 80


def test_json_keeps_the_contract(called):
    done = called("check", "tiny-llama", "--only", "parameters", "--only", "output-shape", "--json")
    data = json.loads(done.stdout)
    assert data["schema"] == "vitruvius.check/1"
    assert data["passed"] is True
    assert [(c["name"], c["passed"]) for c in data["checks"]] == [("output-shape", True), ("parameters", True)]
    assert all(isinstance(c["detail"], str) for c in data["checks"])
    keys = {"name", "passed", "detail", "measured", "bound", "applies", "warning", "means", "look_at", "values"}
    assert all(set(c) == keys | {"seconds"} for c in data["checks"])
    assert {"command", "seconds", "dollars", "off_by"} <= set(data["next_experiment"])


def test_what_was_measured_by_layer_is_in_the_json(called):
    done = called("check", "tiny-llama", "--only", "init-scale", "--only", "attention-distribution", "--json")
    for check in json.loads(done.stdout)["checks"]:
        layers, series = check["values"]["layers"], check["values"]["series"]
        assert layers == [f"layers.{i}" for i in range(4)]
        assert all(len(numbers) == 4 for numbers in series.values())


def test_the_report_is_written_as_a_page(called, tmp_path):
    done = called("check", "tiny-llama", "--only", "init-scale", "--html", "report.html")
    assert done.returncode == 0, done.stderr
    assert "wrote report.html" in done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "All 1 checks passed" in page
    assert page.count("<svg") == 2
    assert "The cheapest next experiment" in page
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_failed_check_is_on_its_page_and_suggests_no_experiment(called, tmp_path):
    spec = ["tiny-llama", "--set", "init=kaiming", "--set", "blocks.layer.norm_place=none", "--set", "layers=layer*12"]
    done = called("check", *spec, "--only", "init-scale", "--html", "report.html", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["next_experiment"] is None
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 of 1 checks failed" in page
    assert "The cheapest next experiment" not in page


def test_a_longer_sequence_is_run_when_it_is_asked_for(called):
    done = called("check", "tiny-llama", "--only", "length-stress", "--longest", "100", "--json")
    assert json.loads(done.stdout)["checks"][0]["values"]["tokens_run"] == 100


def test_a_failed_check_leaves_with_1_and_says_where_to_look(called):
    # Kaiming's matrices widen the stream in each layer, and no norm brings it back before the head.
    spec = ["tiny-llama", "--set", "init=kaiming", "--set", "blocks.layer.norm_place=none", "--set", "layers=layer*12"]
    done = called("check", *spec, "--only", "init-loss")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "✗ init-loss" in done.stdout
    assert "look at: init" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-preset"],
        ["tiny-llama", "--only", "leaks"],
        ["tiny-llama", "--set", "width=0"],
        ["tiny-llama", "--seed", "-1"],
        ["tiny-simple-transformer", "--lengths", "2k"],
        ["tiny-simple-transformer", "--lengths", "many"],
        ["tiny-llama", "--record", "x.md"],
        ["tiny-llama", "--html", "."],
        ["tiny-llama", "--html", "no/such/folder/report.html"],
        ["tiny-llama", "--longest", "far"],
        ["tiny-llama", "--mup", "--html", "x.html"],
        ["tiny-llama", "--lengths", "64", "--only", "loss"],
    ],
    ids=" ".join,
)
def test_bad_input_leaves_with_2_a_reason_and_a_way_out(called, arguments):
    done = called("check", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: " in done.stderr
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_twin_is_announced(called):
    done = called("check", "llama-moe", "--only", "cache-bytes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("subject: twin of llama-moe (width 4,096 -> 64")


def test_the_checks_can_be_listed(called):
    done = called("check", "--list")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("output-shape")


def test_lengths_run_the_whole_model_and_write_records(called, tmp_path):
    done = called("check", "tiny-simple-transformer", "--lengths", "128,256", "--record", "growth.md")
    assert done.returncode == 0, done.stderr
    assert "✓ 256 tokens: 128 -> 256 rows" in done.stdout
    assert (tmp_path / "growth.md").read_text().count("### tiny-simple-transformer") == 2
