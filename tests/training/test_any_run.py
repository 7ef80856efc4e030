"""Runs drawn at random, of any architecture and any settings, keep what the training chapter promises."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

SCRIPT = Path(__file__).with_name("any_run_promises.py")
sys.path.append(str(SCRIPT.parents[1] / "contracts"))  # random specs

import any_run  # noqa: E402  # pyright: ignore[reportMissingImports]

QUICK = (3, 6)
FIXED = ((7, 8, 10), (14, 19, 23), (2, 27, 33), (122, 161), (16, 177))
"""Of these 122 is an alarm that ends a run whose table of positions grows, 161, 16 and 177 are kills and changes that
once went wrong."""
MANY = int(os.environ.get("VITRUVIUS_ANY_RUNS", "0"))
"""Further runs to draw, beside those of `make fuzz`: `VITRUVIUS_ANY_RUNS=200 make test ARGS='-k any_run'`."""


def broken(folder, *words):
    """What the script found wrong, by seed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "WANDB_SILENT": "true"},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(words) - words.count("quick"), f"the script died: {done.stderr[-3000:]}"
    return {line["seed"]: line["broken"] for line in lines if line["broken"]}


def test_every_setting_is_drawn():
    assert any_run.undrawn() == [], "say in any_run.DRAWERS which values of these are for small runs"
    known = {path for path, _ in any_run.leaves()}
    assert {*any_run.DRAWERS, *any_run.FIXED, *any_run.OFTEN, *any_run.ALWAYS} <= known, "a setting is gone"


def test_every_setting_meets_others_and_a_seed_draws_the_same_again():
    drawn = [any_run.draw(seed, quick=True) for seed in range(60)]
    given = {name for each in drawn for name in each.settings}
    sections = {path.partition(".")[0] for path, _ in any_run.leaves()}
    assert sections - given <= {"pairs", "zclip", "scaler", "engine"}, "never accepted"
    assert any(each.refused for each in drawn)
    again = any_run.draw(7, quick=True)
    assert (again.config, again.architecture, again.halts) == (drawn[7].config, drawn[7].architecture, drawn[7].halts)


def test_a_few_drawn_runs_keep_every_promise(tmp_path):
    assert broken(tmp_path, "quick", *QUICK) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", FIXED, ids=str)
def test_drawn_runs_keep_every_promise(seeds, tmp_path):
    assert broken(tmp_path, *seeds) == {}


if MANY or settings.get_current_profile_name() == "fuzz":

    def test_many_drawn_runs_keep_every_promise(tmp_path, request):
        seed = request.config.getoption("--hypothesis-seed", None)
        first = random.Random(seed).randrange(10**9)
        count = MANY or max(1, settings().max_examples // 20)
        found = {}
        for start in range(first, first + count, 25):  # a process for each few, so that memory does not add up
            found |= broken(tmp_path, *range(start, min(start + 25, first + count)))
        assert found == {}, "repeat one with: python tests/training/any_run_promises.py FOLDER SEED"
