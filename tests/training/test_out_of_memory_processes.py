"""Memory that runs out in one of several processes, and in a process that the system gives no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def said_by(script: str, *arguments: object) -> dict:
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def played(data, tmp_path_factory):
    """What `oom_ranks.py` says."""
    return said_by("oom_ranks.py", data, tmp_path_factory.mktemp("short"))


@pytest.mark.slow
def test_all_processes_halve_when_one_runs_out(played):
    halved, smaller = played["halved"], played["smaller"]
    assert [end["value"]["status"] for end in halved["ends"]] == ["finished"] * 2
    (event,) = halved["shortages"]
    assert (event["step"], event["process"], event["asked_bytes"]) == (3, 1, 3 << 30)
    assert (event["accumulate"], event["next_accumulate"], event["samples_at_a_time"]) == (1, 2, 1)
    assert halved["bits"] == smaller["bits"]
    assert halved["rows"] == smaller["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixture", "sharded"])
def test_in_a_pass_that_all_compute_together_the_next_start_halves(kind, played):
    found = played[kind]
    assert "in a pass that all processes compute together" in found["first"][1]["error"]
    assert all(end["value"] is None for end in found["first"])
    assert {name: found["word"][name] for name in ("step", "next_accumulate", "process")} == {
        "step": 3,
        "next_accumulate": 2,
        "process": 1,
    }
    assert [end["value"]["status"] for end in found["ends"]] == ["finished"] * 2
    assert found["bits"] == played[f"{kind}-smaller"]["bits"]
    assert found["rows"] == played[f"{kind}-smaller"]["rows"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited, and their peak is told, on Linux")
def test_an_allocation_that_really_fails_is_survived(data, tmp_path):
    whole = said_by("oom_real.py", data, tmp_path / "whole", 1)
    # The forward pass keeps four of the largest tensors and the backward pass makes more: the sixth or so does not fit.
    short = said_by("oom_real.py", data, tmp_path / "short", 1, 5.5)
    assert short["status"] == "finished"
    assert short["shortages"], "the limit was too high to be met"
    first = short["shortages"][0]
    assert (first["where"], first["step"], first["asked_bytes"]) == ("update", 1, whole["largest"])
    assert first["next_accumulate"] == 2
    assert short["peak"] < whole["peak"]
    assert short["losses"] == pytest.approx(whole["losses"], rel=1e-3)
