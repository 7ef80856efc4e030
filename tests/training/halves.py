"""What tests of resuming share: runs that stop after an update, and what two runs must have in common."""

from __future__ import annotations

from vitruvius.runs import RunReader
from vitruvius.training.stopping import StopRequest


class StopAfter:
    """A listener that asks its run to stop once a step is done, as a signal would: `stop=listener.stop`."""

    def __init__(self, step, number=15):
        self.step, self.number, self.stop, self.notes = step, number, StopRequest(), []

    def row(self, row):
        if row["step"] == self.step:
            self.stop.ask(self.number)

    def note(self, text):
        self.notes.append(text)

    def started(self, *, step, steps):
        pass

    def saved(self, checkpoint):
        pass

    def ended(self):
        pass


def final_manifest(run):
    """The hashes of the last checkpoint: weights, optimizer, and the state with random state and sample digest."""
    return RunReader(run).checkpoints()[-1].path.joinpath("manifest.json").read_text()


def rows(run):
    """Every row without what depends on the clock."""
    clock = {"tokens_per_second", "watch_seconds", "watch_share", "guard_seconds"}
    return [
        {key: value for key, value in row.items() if key not in clock and not key.startswith("forward_seconds/")}
        for row in RunReader(run).metrics()
    ]


def furthest(one, other, key="loss"):
    """The largest relative difference between the rows of two runs."""
    assert len(one) == len(other) > 0
    return max(abs(a[key] / b[key] - 1) for a, b in zip(one, other, strict=True))
