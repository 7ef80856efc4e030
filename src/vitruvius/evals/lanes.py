"""What is known of one phase of one contender while a bench runs, and what it points to for other lengths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vitruvius.evals.expect import FROM_THE_ROOFLINE, Known, off_by, pace_of
from vitruvius.evals.rows import Expected
from vitruvius.evals.work import Amount, Task, amount_of, bound_of, held_bytes, sized_peak

if TYPE_CHECKING:
    from vitruvius.evals.jobs import Phase, Subject
    from vitruvius.sizing.hardware import Device
    from vitruvius.spec import Graph

_UNBOUND = 3.0
"""Times its roofline that a phase is taken to need which sizing has no account of."""


@dataclass(slots=True, kw_only=True)
class Lane:
    """One phase of one contender."""

    name: str
    """Of the contender."""
    graph: Graph
    phase: Phase
    batch: int
    dtype: str
    device: Device
    """The machine as it was measured."""
    wobble: float
    """The factor by which runs of one kind differ on it."""
    subject: Subject | None
    """The built model; None where it does not fit into memory."""
    failure: str = ""
    """What the model raised when it was run; empty where nothing went wrong."""
    known: list[Known] = field(default_factory=list[Known])
    extras: dict[int, int] = field(default_factory=dict[int, int])
    """Bytes that a run took besides what it started with, by length."""
    guesses: dict[tuple[int, int], Expected] = field(default_factory=dict[tuple[int, int], Expected])
    """Predictions by length and how many runs they stand on."""

    @property
    def refusal(self) -> str:
        """Why the phase does not apply; empty where it does."""
        return self.phase.refusal(self.graph)

    def task(self, length: int) -> Task:
        """The phase at a length, on paper."""
        return Task(graph=self.graph, phase=self.phase.name, length=length, batch=self.batch, dtype=self.dtype)

    def learn(self, length: int, seconds: float) -> None:
        """Take note of what a run took."""
        amount = amount_of(self.task(length))
        self.known = [run for run in self.known if run.length != length]
        self.known.append(Known(length=length, passes=amount.calls, work=self._work(amount), seconds=seconds))
        self.guesses.clear()

    def expected(self, length: int) -> Expected:
        """What a run will take."""
        key = (length, len(self.known))
        if key not in self.guesses:
            self.guesses[key] = self._guess(self.task(length))
        return self.guesses[key]

    def peak(self, length: int) -> int:
        """Bytes to make room for: what sizing predicts or what shorter runs point to, whichever is more."""
        sized = self.expected(length).peak_bytes
        if not self.extras:
            return sized
        (n1, e1), (n2, e2) = (sorted(self.extras.items()) * 2)[-2:]
        slope = max(0.0, (e2 - e1) / (n2 - n1)) if n2 > n1 else e2 / n2
        return max(sized, held_bytes(self.task(length)) + max(0, round(e2 + slope * (length - n2))))

    def _guess(self, task: Task) -> Expected:
        amount, bound = amount_of(task), bound_of(task, self.device)
        peak, unsure = sized_peak(task)
        if self.known:
            work = self._work(amount)
            seconds = pace_of(self.known).seconds(amount.calls, work)
            lengths = ", ".join(f"{run.length:,}" for run in sorted(self.known, key=lambda run: run.length))
            factor = off_by(self.known, passes=amount.calls, work=work, seconds=seconds, wobble=self.wobble)
            basis = f"runs of {lengths} tokens"
        else:
            factor = FROM_THE_ROOFLINE
            rough = amount.flops / self.device.peak(task.dtype) + amount.moved / self.device.bandwidth
            seconds = _UNBOUND * rough if bound is None else bound.expected_seconds
            shares = self.device.efficiency
            basis = (
                f"the machine's rates alone, of which models are taken to reach {shares.compute:.0%} in products and "
                f"{shares.bandwidth:.0%} of the bandwidth"
            )
        return Expected(seconds=seconds, off_by=factor, basis=basis, peak_bytes=peak, peak_unsure=unsure)

    def _work(self, amount: Amount) -> float:
        """What the phase's time grows with: bytes when it writes token by token, else operations."""
        return amount.moved if self.phase.name == "decode" else amount.flops
