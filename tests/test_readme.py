"""What the README shows, works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vitruvius.spec import read_text

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _journey() -> list[list[str]]:
    """The commands of the journey, without comments."""
    lines = [line for block in _blocks("sh") for line in block.splitlines() if line.startswith("vitruvius ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_the_spec_in_the_readme_is_the_preset_it_names() -> None:
    (text,) = _blocks("yaml")
    shown = read_text(text).architecture
    from vitruvius.spec import preset

    assert shown.layers == preset("llama-moe").layers
    assert shown.blocks == preset("llama-moe").blocks


def test_links_in_the_readme_lead_somewhere() -> None:
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (root / target).exists(), target


@pytest.mark.slow
def test_the_journey_of_the_readme_runs_command_by_command(vitruvius, tmp_path) -> None:
    commands = _journey()
    assert [argv[0] for argv in commands] == [
        *("presets", "new", "show", "size", "check", "diff", "data", "train", "generate", "doc"),
        *("size", "plan", "hardware", "solve", "scale-down"),
        *("data", "data", "data"),
        *("find-batch", "train", "runs", "sweep", "inspect", "runs"),
    ]
    for argv in commands:
        guarded = any("train.guard" in word for word in argv)
        less = {"--steps": "12" if guarded else "4", "--max": "16"}
        short = [less.get(before, word) for before, word in zip(["", *argv], argv, strict=False)]
        short += ["--seconds", "0.5"] * (argv[0] == "find-batch")
        short += ["--set", "train.final_eval_batches=2"] * (argv[0] in {"train", "sweep"})
        short += ["--set", "train.guard.window=8"] * guarded
        done = vitruvius(*short)
        assert done.returncode == 0, (argv, done.stderr)
    assert (tmp_path / "runs/first/run.json").is_file()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(python) -> None:
    (code,) = _blocks("python")
    done = python(code + "\nprint(bill.parameters.total, report.passed)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1682816", "True"]
