"""The page on recipes names every step, setting, default, reason and change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vitruvius.data.cleaning.recipe import BUILT_IN, read_recipe, recipe_from_text
from vitruvius.data.cleaning.settings import as_plain
from vitruvius.data.cleaning.table import kinds

PAGE = (Path(__file__).parents[3] / "docs" / "data" / "recipes.md").read_text(encoding="utf-8")


def _written(value):
    plain = as_plain(value)
    if plain is None:
        return "none"
    return f"[{', '.join(map(str, plain))}]" if isinstance(plain, list) else str(plain)


@pytest.mark.parametrize("kind", kinds())
def test_a_step_is_described_with_every_setting_and_its_default(kind):
    step = kinds()[kind]
    part = PAGE.split(f"\n## `{kind}`\n", 1)[1].split("\n## ", 1)[0]
    for setting in dataclasses.fields(step):
        assert f"| `{setting.name}` | `{_written(setting.default)}` |" in part
    for name, meaning in getattr(step, "reasons", getattr(step, "counts", {})).items():
        assert f"| `{name}` | {meaning} |" in part
    assert step.source in part


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_recipe_that_comes_along_is_described_with_its_steps(name):
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
    assert " ".join(f"`{step.kind}`" for step in read_recipe(name).steps) in row


def test_the_example_is_a_recipe(tmp_path):
    (tmp_path / "blocked.txt").write_text("bad.example\n")
    example = PAGE.split("    name: mine\n", 1)[1].split("\n\n", 1)[0]
    text = "name: mine\n" + "\n".join(line[4:] for line in example.splitlines())
    assert recipe_from_text(text, folder=tmp_path).name == "mine"
