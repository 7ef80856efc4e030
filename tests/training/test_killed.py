"""A run that is killed anywhere ends, once resumed, in the same bytes as one that never was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killing.py")


def kill(data, tmp_path, *mode):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(data), str(tmp_path), *mode], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["unequal"] == []
    assert found["killed"] == found["cases"]
    return found["cases"]


@pytest.mark.slow
def test_a_run_killed_at_a_few_file_operations_ends_in_the_same_bytes(data, tmp_path):
    assert kill(data, tmp_path, "wait", "events", "19") >= 5


@pytest.mark.slow
@pytest.mark.parametrize("save", ["wait", "behind"])
def test_a_run_killed_before_any_file_operation_of_its_checkpoints_ends_in_the_same_bytes(save, data, tmp_path):
    # The files of a checkpoint are written and read in turn: between files, around renames and during pruning.
    every, least = {"wait": ("1", 80), "behind": ("2", 40)}[save]
    assert kill(data, tmp_path, save, "events", every) >= least


@pytest.mark.slow
@pytest.mark.parametrize("save", ["wait", "behind"])
def test_a_run_killed_at_any_byte_of_a_checkpoint_file_ends_in_the_same_bytes(save, data, tmp_path):
    assert kill(data, tmp_path, save, "bytes", "8") == 5 * 8


@pytest.mark.slow
@pytest.mark.parametrize("save", ["wait", "behind"])
def test_a_run_killed_twice_in_one_epoch_ends_in_the_same_bytes(save, data, tmp_path):
    assert kill(data, tmp_path, save, "twice") == 12
