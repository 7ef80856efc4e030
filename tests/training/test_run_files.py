"""The run files that come with the project resolve, and every value says where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitruvius.lab.sweeping_values import listing_of
from vitruvius.training import TrainConfig
from vitruvius.training.config import to_plain
from vitruvius.training.origins import settings_of_run
from vitruvius.training.request import is_run_file, read_request, swept_by
from vitruvius.training.settings import SECTIONS

FOLDER = Path(__file__).resolve().parents[2] / "runs"
FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if is_run_file(str(path))]
"""The others are specs that they name."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_run_file_of_the_project_resolves(path):
    request = read_request(str(path), data="data", out="out")
    assert request.config.context is not None
    section = swept_by(str(path))
    if section is not None:
        for arm in listing_of(section).arms():
            settings = [value.text for value in arm.values]
            assert read_request(str(path), data="data", out="out", settings=settings).config.steps


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_run_file_says_how_it_is_used(path):
    assert f"runs/{path.name}" in path.read_text()


def test_every_section_of_the_settings_has_an_origin(tmp_path):
    (tmp_path / "run.yaml").write_text("spec: tiny-llama\ntrain:\n  guard: {spike: skip}\n")
    texts = ["train.samples.every=7", "train.watch.rows=2"]
    found = {each.path: each for each in settings_of_run(str(tmp_path / "run.yaml"), flags={}, settings=texts)}
    for name in SECTIONS:
        for key in to_plain(TrainConfig())[name]:
            assert any(path == f"train.{name}.{key}" or path.startswith(f"train.{name}.{key}.") for path in found)
    assert found["train.samples.every"].origin == "argument"
    assert found["train.watch.rows"].where == "--set train.watch.rows=2"
    assert found["train.guard.spike"].where.endswith("run.yaml:3:18")
    assert found["train.samples.max_tokens"].origin == "default"
