"""Two processes change their architecture together, by what the main one measures, and come to what one comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("shaped_ranks.py")


@pytest.mark.slow
def test_two_processes_follow_one_schedule_and_resume_to_the_same_bits(asked):
    found = asked()
    assert [end["value"]["status"] for end in found["ends"]] == ["finished", "finished"]
    one, two = found["shapes"]
    assert one == two
    # Validations come after 2, 4 and 6 updates, what the watch measures at first, and the fields follow.
    assert [5, "blocks.moe.ffn.top_k", 1] in two
    assert any(field == "head.softcap" for _, field, _ in two)
    for alone, shared in zip(found["one"], found["two"], strict=True):
        named = {name for name in alone if name.startswith("shape/")}
        assert {name: alone[name] for name in named} == {name: shared[name] for name in named}
        assert abs(alone["loss"] / shared["loss"] - 1) < 1e-6
        assert ("val_loss" in alone) == ("val_loss" in shared)
    assert [end["step"] for end in found["stopped"]] == [5, 5]
    assert [end["status"] for end in found["again"]] == ["finished", "finished"]
    assert found["same"]
