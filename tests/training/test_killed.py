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
    return json.loads(done.stdout)


def test_a_run_killed_at_a_few_file_operations_ends_in_the_same_bytes(data, tmp_path):
    found = kill(data, tmp_path, "events", "9")
    assert found["killed"] == found["cases"] >= 5
    assert found["unequal"] == []


@pytest.mark.slow
def test_a_run_killed_before_any_file_operation_of_its_checkpoints_ends_in_the_same_bytes(data, tmp_path):
    found = kill(data, tmp_path, "events")
    assert found["killed"] == found["cases"] >= 40
    assert found["unequal"] == []


@pytest.mark.slow
def test_a_run_killed_at_any_byte_of_a_checkpoint_file_ends_in_the_same_bytes(data, tmp_path):
    found = kill(data, tmp_path, "bytes")
    assert found["killed"] == found["cases"] == 32
    assert found["unequal"] == []


@pytest.mark.slow
def test_a_run_killed_twice_ends_in_the_same_bytes(data, tmp_path):
    found = kill(data, tmp_path, "twice")
    assert found["killed"] == found["cases"] == 12
    assert found["unequal"] == []
