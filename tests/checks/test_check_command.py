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


def test_a_preset_passes_and_the_next_step_is_told(vitruvius):
    done = vitruvius("check", "tiny-llama-moe", env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ cached-decode" in done.stdout
    assert "all passed" in done.stdout
    assert "next: vitruvius train" in done.stderr


def test_json_keeps_the_contract(called):
    done = called("check", "tiny-llama", "--only", "parameters", "--only", "output-shape", "--json")
    data = json.loads(done.stdout)
    assert data["schema"] == "vitruvius.check/1"
    assert data["passed"] is True
    assert [(c["name"], c["passed"]) for c in data["checks"]] == [("output-shape", True), ("parameters", True)]
    assert all(isinstance(c["detail"], str) for c in data["checks"])


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
