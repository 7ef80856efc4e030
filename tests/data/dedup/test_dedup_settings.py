"""What the settings of deduplication mean, and refuse."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from vitruvius.data.dedup.settings import DedupSettings, NearSettings
from vitruvius.data.dedup.stages import stages
from vitruvius.errors import DataError


def test_by_default_nothing_is_dropped():
    assert stages(DedupSettings()) == ()


def test_recall_is_the_share_of_pairs_whose_signatures_share_a_band():
    settings = NearSettings(bands=5, rows=3)
    rng = np.random.default_rng(0)
    for similarity in (0.3, 0.6, 0.8, 0.95):
        equal = rng.random((40_000, settings.bands, settings.rows)) < similarity
        measured = equal.all(axis=2).any(axis=1).mean()
        assert abs(measured - settings.recall_at(similarity)) < 0.01


def test_recall_is_stated_at_the_threshold_and_on_both_sides():
    assert NearSettings().recall_near_threshold() == pytest.approx({0.75: 0.9801, 0.8: 0.9977, 0.85: 0.99994}, abs=1e-4)
    assert NearSettings(bands=14, rows=8).recall_at(0.8) == pytest.approx(0.9236, abs=1e-4)
    assert "99.8% at 0.8" in NearSettings().describe()
    assert list(NearSettings(threshold=1.0).recall_near_threshold()) == [0.95, 1.0]


def test_the_page_on_duplicates_has_the_curve():
    page = (Path(__file__).parents[3] / "docs" / "data" / "duplicates.md").read_text(encoding="utf-8")
    table = page[page.index("| bands x rows") :].split("\n\n")[0].splitlines()
    similarities = [float(cell) for cell in table[0].split("|")[2:-1]]
    rows = [re.findall(r"[\d.]+", line.replace("%", "")) for line in table[2:]]
    assert len(rows) == 3
    for bands, rows_of_band, *shares in rows:
        settings = NearSettings(bands=int(bands), rows=int(rows_of_band))
        assert shares == [f"{settings.recall_at(similarity):.2%}"[:-1] for similarity in similarities]


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": 1.01},
        {"threshold": float("nan")},
        {"threshold": "0.8"},
        {"threshold": True},
        {"ngram": 0},
        {"ngram": 65},
        {"ngram": 5.0},
        {"bands": 0},
        {"bands": -1},
        {"rows": 10**23},
        {"bands": 4096, "rows": 2},
        {"keepers": 0},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(wrong: dict[str, object]):
    with pytest.raises(DataError) as refused:
        dataclasses.replace(NearSettings(), **wrong)
    assert next(iter(wrong)) in refused.value.where
    assert refused.value.fix


def test_exact_is_off_or_text():
    with pytest.raises(DataError, match="no way to compare"):
        DedupSettings(exact="yes")


def test_near_duplicates_need_the_exact_ones_gone():
    with pytest.raises(DataError, match="exact ones have to go first"):
        DedupSettings(near=NearSettings())
