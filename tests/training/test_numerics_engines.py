"""fp16, ZClip, the average and the z-loss in several processes: one decision in all, and whole tensors on the disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("numerics_ranks.py")


@pytest.fixture(scope="module")
def played(data, tmp_path_factory):
    """What `numerics_ranks.py` says."""
    folder = tmp_path_factory.mktemp("numerics")
    command = [sys.executable, str(SCRIPT), str(data), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_scale_clip_and_average_as_one_does(kind, played):
    one, two = played["one"]["rows"], played[f"{kind}-all"]["rows"]
    assert [end["value"]["status"] for end in played[f"{kind}-all"]["ends"]] == ["finished"] * 2
    assert [row.get("overflow", 0) for row in one] == [row.get("overflow", 0) for row in two] == [0, 0, 1, 0, 0, 0]
    assert [row["loss_scale"] for row in one] == [row["loss_scale"] for row in two]
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for key in first.keys() & {"loss", "z_loss", "lse_max", "clipped_to", "val_loss_ema"}:
            assert second[key] == pytest.approx(first[key], rel=5e-3), key


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_an_overflow_in_one_process_is_one_in_all(kind, played):
    found = played[f"{kind}-second"]
    assert [end["value"]["status"] for end in found["ends"]] == ["finished"] * 2
    assert [row.get("applied", 1) for row in found["rows"]] == [1, 1, 0, 1, 1, 1]
    assert found["rows"][3]["loss_scale"] == found["rows"][2]["loss_scale"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_processes_go_on_from_scale_limits_and_average_to_the_same_bits(kind, played):
    found = played[f"{kind}-resumed"]
    assert [end["value"]["status"] for end in found["ends"]] == ["finished"] * 2
    assert (found["same"], found["whole"]) == (True, True)
    assert found["rows"] == played[f"{kind}-all"]["rows"]
