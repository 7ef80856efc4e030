"""fp16, ZClip, the average and the z-loss in several processes: one decision in all, and whole tensors on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("numerics_ranks.py")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_scale_clip_and_average_as_one_does(kind, asked):
    one, two = asked()["one"]["rows"], asked()[f"{kind}-all"]["rows"]
    assert [end["value"]["status"] for end in asked()[f"{kind}-all"]["ends"]] == ["finished"] * 2
    assert [row.get("overflow", 0) for row in one] == [row.get("overflow", 0) for row in two] == [0, 0, 1, 0, 0, 0]
    assert [row["loss_scale"] for row in one] == [row["loss_scale"] for row in two]
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for key in first.keys() & {"loss", "z_loss", "lse_max", "clipped_to", "val_loss_ema"}:
            assert second[key] == pytest.approx(first[key], rel=5e-3), key


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_an_overflow_in_one_process_is_one_in_all(kind, asked):
    found = asked()[f"{kind}-second"]
    assert [end["value"]["status"] for end in found["ends"]] == ["finished"] * 2
    assert [row.get("applied", 1) for row in found["rows"]] == [1, 1, 0, 1, 1, 1]
    assert found["rows"][3]["loss_scale"] == found["rows"][2]["loss_scale"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_processes_go_on_from_scale_limits_and_average_to_the_same_bits(kind, asked):
    found = asked()[f"{kind}-resumed"]
    assert [end["value"]["status"] for end in found["ends"]] == ["finished"] * 2
    assert (found["same"], found["whole"]) == (True, True)
    assert found["rows"] == asked()[f"{kind}-all"]["rows"]
