"""What a bench found, row by row, as plain data: measured beside predicted, and which is which."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vitruvius.evals.machine import Machine
    from vitruvius.evals.memory import Peak
    from vitruvius.evals.profile import Profile
    from vitruvius.evals.timing import Comparison, Spread
    from vitruvius.evals.work import Amount, Bound

SCHEMA = "vitruvius.bench/1"
Status = Literal["measured", "predicted", "does not apply", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What was predicted before the run, or stands in its place."""

    seconds: float
    off_by: float
    """The time may be so many times more or less."""
    basis: str
    """What the prediction stands on."""
    peak_bytes: int
    """Of all tensors at the worst moment, as sizing has it."""
    peak_unsure: int
    """How far off sizing says that may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One phase at one length, of one contender."""

    contender: str
    phase: str
    length: int
    status: Status
    reason: str = ""
    """Why it was not measured."""
    amount: Amount | None = None
    expected: Expected | None = None
    bound: Bound | None = None
    product_rate: float | None = None
    """FLOP/s of matrix products in the same format, measured in the same bench."""
    seconds: Spread | None = None
    """Of a run."""
    warmups: int = 0
    notes: tuple[str, ...] = ()
    processors: float | None = None
    """Processors that the process had on average while it was timed; with one thread, less than 1 means waiting."""
    peak: Peak | None = None
    profile: Profile | None = None

    @property
    def tokens_per_second(self) -> Spread | None:
        """Over the whole batch."""
        if self.seconds is None or self.amount is None:
            return None
        return self.seconds.inverted(self.amount.tokens)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; every key is always there."""
        amount, seconds, peak = self.amount, self.seconds, self.peak
        rate = None if seconds is None or amount is None else amount.flops / seconds.median
        return {
            "contender": self.contender,
            "phase": self.phase,
            "length": self.length,
            "status": self.status,
            "reason": self.reason or None,
            "tokens_per_run": None if amount is None else amount.tokens,
            "seconds": None if seconds is None else seconds.to_dict(),
            "tokens_per_second": None if self.tokens_per_second is None else self.tokens_per_second.to_dict(),
            "warmups": self.warmups,
            "runs": 0 if seconds is None else seconds.count,
            "processors_had": self.processors,
            "flops": None if amount is None else amount.flops,
            "flops_exact": None if amount is None else amount.exact,
            "flops_per_second": rate,
            "share_of_products": None if rate is None or not self.product_rate else rate / self.product_rate,
            "bound": None if self.bound is None else {"seconds": self.bound.seconds, "by": self.bound.by},
            "share_of_bound": None if self.bound is None or seconds is None else self.bound.seconds / seconds.median,
            "predicted": None if self.expected is None else self._prediction(self.expected),
            "peak_memory_bytes": None if peak is None else peak.total,
            "held_bytes": None if peak is None else peak.held,
            "extra_bytes": None if peak is None else peak.extra,
            "process_peak_bytes": None if peak is None else peak.process,
            "notes": list(self.notes),
        }

    def _prediction(self, expected: Expected) -> dict[str, Any]:
        tokens = None if self.amount is None else self.amount.tokens
        return {
            "seconds": expected.seconds,
            "low_seconds": expected.seconds / expected.off_by,
            "high_seconds": expected.seconds * expected.off_by,
            "off_by": expected.off_by,
            "tokens_per_second": None if tokens is None else tokens / expected.seconds,
            "peak_memory_bytes": expected.peak_bytes,
            "peak_memory_unsure_bytes": expected.peak_unsure,
            "measured_over_predicted_peak": None if self.peak is None else self.peak.total / expected.peak_bytes,
            "basis": expected.basis,
            "measured_over_predicted": None if self.seconds is None else self.seconds.median / expected.seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """The first contender against another, at one phase and length."""

    first: str
    other: str
    phase: str
    length: int
    comparison: Comparison

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "a": self.first,
            "b": self.other,
            "phase": self.phase,
            "length": self.length,
            **self.comparison.to_dict(),
        }


@dataclass(slots=True, kw_only=True)
class Bench:
    """Everything that one bench found."""

    name: str
    contenders: list[dict[str, Any]]
    lengths: tuple[int, ...]
    phases: tuple[str, ...]
    batch: int
    dtype: str
    device: str
    seed: int
    budget_seconds: float
    threads: int
    rows: list[Row] = field(default_factory=list[Row])
    versus: list[Versus] = field(default_factory=list[Versus])
    notes: list[str] = field(default_factory=list[str])
    machine: Machine | None = None
    environment: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0
    """Wall time of the whole bench."""

    @property
    def headline(self) -> Row | None:
        """The longest length that was measured of the first phase that was, of the first contender."""
        for phase in self.phases:
            measured = [row for row in self.mine if row.phase == phase and row.status == "measured"]
            if measured:
                return max(measured, key=lambda row: row.length)
        return None

    @property
    def mine(self) -> list[Row]:
        """Rows of the first contender."""
        return [row for row in self.rows if row.contender == self.name]

    def profiled(self) -> list[Row]:
        """Of each phase and contender, the longest length of which a profile was taken."""
        longest: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            if row.profile is not None:
                known = longest.get((row.contender, row.phase))
                if known is None or row.length > known.length:
                    longest[row.contender, row.phase] = row
        return list(longest.values())

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable contract `vitruvius.bench/1`."""
        top = self.headline
        rate = None if top is None else top.tokens_per_second
        peaks = [row.peak.total for row in self.mine if row.peak is not None]
        return {
            "schema": SCHEMA,
            "name": self.name,
            "tokens_per_second": {"median": None, "iqr": None, "q1": None, "q3": None}
            if rate is None
            else rate.to_dict(),
            "headline": None if top is None else {"phase": top.phase, "length": top.length},
            "warmups": 0 if top is None else top.warmups,
            "runs": 0 if top is None or top.seconds is None else top.seconds.count,
            "peak_memory_bytes": max(peaks, default=None),
            "contenders": self.contenders,
            "lengths": list(self.lengths),
            "phases": list(self.phases),
            "batch": self.batch,
            "dtype": self.dtype,
            "device": self.device,
            "threads": self.threads,
            "seed": self.seed,
            "budget_seconds": self.budget_seconds,
            "seconds": self.seconds,
            "rows": [row.to_dict() for row in self.rows],
            "comparisons": [versus.to_dict() for versus in self.versus],
            "breakdown": [_breakdown(row) for row in self.profiled()],
            "machine": None if self.machine is None else self.machine.to_dict(),
            "notes": self.notes,
            "environment": self.environment,
        }


def _breakdown(row: Row) -> dict[str, Any]:
    """Where the time of a row's profiled run went."""
    found = row.profile
    assert found is not None
    plain = None if row.seconds is None else row.seconds.median
    whole = not found.covers and not found.per_device
    return {
        "contender": row.contender,
        "phase": row.phase,
        "length": row.length,
        "covers": found.covers or None,
        "kernels_only": found.per_device,
        "recorded_runs": found.recorded,
        "seconds": found.total,
        "sum_of_parts_seconds": sum(part.seconds for part in found.parts),
        "overhead": found.total / plain - 1 if whole and plain else None,
        "components": _shares(found.by_component(), found.total),
        "blocks": _shares(found.by_block(), found.total),
        "parts": [
            {
                "component": part.component,
                "block": part.block or None,
                "calls": part.calls,
                "forward_seconds": part.forward,
                "backward_seconds": part.backward,
                "share": part.seconds / found.total if found.total else 0.0,
            }
            for part in found.parts
        ],
    }


def _shares(seconds: dict[str, float], total: float) -> list[dict[str, Any]]:
    return [
        {"name": name, "seconds": spent, "share": spent / total if total else 0.0} for name, spent in seconds.items()
    ]
