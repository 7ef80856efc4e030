"""Two processes raise the alarms of one, answer them alike, and set one batch aside together."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("guarded_ranks.py")


@pytest.mark.slow
def test_two_processes_raise_and_answer_the_alarms_of_one(asked):
    found = asked()
    assert all("value" in each for each in found["ended"]), found["ended"]
    alone, two = found["alone"], found["two"]
    assert [event["step"] for event in two["alarms"]] == [event["step"] for event in alone["alarms"]] != []
    assert [row["lr"] for row in two["rows"]] == pytest.approx([row["lr"] for row in alone["rows"]])
    # The load is that of the whole update in either; the stream is the largest of what both processes read.
    key = "expert_load_max/layers.1.ffn.router"
    assert [row[key] for row in two["rows"] if key in row] == [row[key] for row in alone["rows"] if key in row]
    stream = "stream_rms/layers.1"
    pairs = [(a[stream], b[stream]) for a, b in zip(alone["rows"], two["rows"], strict=True) if stream in a]
    assert all(there >= here * (1 - 1e-5) for here, there in pairs)
    assert two["anomalies"] == alone["anomalies"] != []
    for one, other in zip(alone["samples"], two["samples"], strict=True):
        assert (one["sample"], one["text"], one["tokens"]) == (other["sample"], other["text"], other["tokens"])
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
