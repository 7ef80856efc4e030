"""The one report about an architecture: is it right, what does it cost, how fast is it, and what to try next.

Checks run on the architecture, or on its twin where it is too big. The bill is of the architecture itself. The bench
runs the architecture itself where this machine can do so in the time given, else a prototype that keeps its ratios at
the same lengths; then the full-size numbers are predicted and say so:

    at best    the roofline of this machine at full size (`sizing.speed`)
    at worst   the same over the share of its own roofline that the prototype reached at that length
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from vitruvius.checks import check
from vitruvius.errors import VitruviusError
from vitruvius.evals import machine as machines
from vitruvius.evals.memory import available_bytes
from vitruvius.evals.work import Task, amount_of, bound_of, sized_peak
from vitruvius.lab.benching import LENGTHS, contender, default_lengths, longest_of, request_of, run
from vitruvius.lab.steps import PHASES
from vitruvius.runs.environment import environment
from vitruvius.sizing import size
from vitruvius.sizing.experiment import next_experiment
from vitruvius.sizing.memory import weights_bytes
from vitruvius.sizing.parameters import count_parameters
from vitruvius.sizing.prototype import scale_down
from vitruvius.spec import ensure, to_data, to_yaml
from vitruvius.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.checks import Report
    from vitruvius.evals.request import Listener
    from vitruvius.evals.rows import Bench, Row
    from vitruvius.sizing.experiment import Experiment
    from vitruvius.sizing.prototype import Prototype
    from vitruvius.spec import Architecture, Graph

SCHEMA = "vitruvius.validate/1"
DEVICES = ("h100-80gb",)
"""Where the bill asks whether it fits, when nothing else is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How thorough a validation is."""

    name: str
    checks: tuple[str, ...] | None
    """Probes to run; None for all of them."""
    minutes: float
    """For the bench."""
    prototype: int
    """Parameters of the prototype, where one runs in place of the architecture."""
    warmups: int
    runs: int
    machine: machines.Effort


FULL = Effort(name="full", checks=None, minutes=2.0, prototype=15_000_000, warmups=20, runs=30, machine=machines.BRIEF)
QUICK = Effort(
    name="quick",
    checks=("output-shape", "parameters", "cache-bytes", "attention-pattern", "cached-decode", "gradients", "no-nan"),
    minutes=0.2,
    prototype=1_000_000,
    warmups=2,
    runs=5,
    machine=machines.QUICK,
)
_QUICK_LENGTHS = (64, 256)
_SECONDS = 2.0
"""What the shortest prompt may be predicted to take at full size, for the architecture itself to be run."""
_ROOM = 0.4
"""Share of the free memory that full-size weights may take, for the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSize:
    """One phase of the architecture itself at one length, predicted from a prototype."""

    phase: str
    length: int
    tokens: int
    """Of one run."""
    at_best: float
    """Seconds: the roofline."""
    at_worst: float | None
    """Seconds, when no larger a share of the roofline is reached than by the prototype; None where it was not run."""
    peak_bytes: int
    peak_unsure: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "phase": self.phase,
            "length": self.length,
            "status": "predicted",
            "seconds_at_best": self.at_best,
            "seconds_at_worst": self.at_worst,
            "tokens_per_second_at_best": self.tokens / self.at_best,
            "tokens_per_second_at_worst": None if self.at_worst is None else self.tokens / self.at_worst,
            "peak_memory_bytes": self.peak_bytes,
            "peak_memory_unsure_bytes": self.peak_unsure,
        }


@dataclass(slots=True, kw_only=True)
class Validation:
    """Everything the report says."""

    architecture: Architecture
    effort: Effort
    report: Report
    bills: dict[str, dict[str, Any]]
    """`vitruvius.size/1` by mode."""
    bench: Bench
    prototype: Prototype | None
    """What was run in place of the architecture."""
    full_size: list[FullSize]
    lengths: tuple[int, ...]
    left_out: tuple[int, ...]
    """Usual lengths beyond the architecture's context."""
    experiment: Experiment
    """The cheapest that would tell most now."""
    notes: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no check failed, and nothing that was run."""
        return self.report.passed and not any(row.status == "failed" for row in self.bench.rows)

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable contract `vitruvius.validate/1`."""
        made = self.prototype
        return {
            "schema": SCHEMA,
            "name": self.architecture.name,
            "description": self.architecture.description,
            "passed": self.passed,
            "effort": self.effort.name,
            "configuration": to_data(self.architecture),
            "spec": to_yaml(self.architecture),
            "parameters": self.bills["inference"]["parameters"],
            "checks": self.report.to_dict(),
            "bills": self.bills,
            "lengths": list(self.lengths),
            "lengths_left_out": list(self.left_out),
            "bench_of": {
                "name": self.bench.name,
                "is_prototype": made is not None,
                "parameters": self.bench.contenders[0]["parameters"],
                "deviations": [] if made is None else made.to_dict()["deviations"],
                "blind_spots": [] if made is None else made.to_dict()["blind_spots"],
            },
            "bench": self.bench.to_dict(),
            "full_size": [row.to_dict() for row in self.full_size],
            "next_experiment": self.experiment.to_dict(),
            "notes": self.notes,
            "seconds": self.seconds,
            "environment": environment(),
        }


def validate(
    architecture: Architecture,
    *,
    effort: Effort = FULL,
    lengths: str | Sequence[int] | None = None,
    on: Sequence[str] = DEVICES,
    minutes: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    spec: str | None = None,
    say: Listener = lambda _text: None,
) -> Validation:
    """Check, size and bench an architecture; `spec` is what the command line calls it.

    Raises SpecError when it does not fit together, UsageError for lengths beyond its context and unknown devices.
    """
    began = perf_counter()
    graph = ensure(architecture)
    wanted, left_out = _lengths(architecture, lengths, effort)
    minutes = effort.minutes if minutes is None else minutes
    # Everything that can be wrong with what was asked is found before minutes are spent.
    bills = {
        "inference": size(architecture, on=list(on)).to_dict(),
        "train": size(architecture, mode="train", on=list(on)).to_dict(),
    }
    request_of([contender(architecture, dtype="bf16")], lengths=wanted, minutes=minutes, seed=seed, threads=threads)
    say("checking")
    report = check(architecture, seed=seed, only=effort.checks)
    say("measuring the machine")
    with machines.threads(threads):
        machine = machines.measure(effort=effort.machine, seed=seed, models=False)
    made, notes = _stand_in(graph, effort, wanted, machine)
    benched = contender(architecture if made is None else made.architecture, dtype="bf16", seed=seed)
    request = request_of(
        [benched],
        lengths=wanted,
        minutes=minutes,
        warmups=effort.warmups,
        runs=effort.runs,
        seed=seed,
        threads=threads,
        effort=effort.machine,
    )
    found = run([benched], request, machine=machine, say=say)
    return Validation(
        architecture=architecture,
        effort=effort,
        report=report,
        bills=bills,
        bench=found,
        prototype=made,
        full_size=[] if made is None else _at_full_size(graph, found),
        lengths=wanted,
        left_out=left_out,
        experiment=next_experiment(architecture, after="validate", spec=spec),
        notes=notes,
        seconds=perf_counter() - began,
    )


def _lengths(
    architecture: Architecture, asked: str | Sequence[int] | None, effort: Effort
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lengths to bench, and usual ones that the architecture is too short for."""
    if asked is not None:
        return request_of([contender(architecture, dtype="bf16")], lengths=asked).lengths, ()
    longest = longest_of(architecture)
    if effort is QUICK:
        return tuple(dict.fromkeys(min(length, longest) for length in _QUICK_LENGTHS)), ()
    return default_lengths(longest), tuple(length for length in LENGTHS if length > longest)


def _stand_in(
    graph: Graph, effort: Effort, lengths: Sequence[int], machine: machines.Machine
) -> tuple[Prototype | None, list[str]]:
    """The prototype that is run in place of an architecture that is too big, and why."""
    architecture = graph.architecture
    device, weights = machine.as_device(), weights_bytes(graph, "bf16")
    shortest = Task(graph=graph, phase="prefill", length=min(lengths), batch=1, dtype="bf16")
    bound, free = bound_of(shortest, device), available_bytes(machines.torch_device())
    seconds = 0.0 if bound is None else bound.expected_seconds
    fits = free is None or weights <= _ROOM * free
    if fits and seconds <= _SECONDS:
        return None, []
    why = f"a prompt of {shortest.length:,} tokens would take about {seconds:.3g} s on this machine"
    if not fits:
        part = weights / max(free or 1, 1)
        why = f"its weights would fill {part:.0%} of the memory that is free ({format_bytes(weights)})"
    total = count_parameters(graph).total
    try:
        made = scale_down(architecture, min(effort.prototype, total - 1), context=architecture.context)
    except VitruviusError as error:
        return None, [f"{architecture.name} is big for this machine ({why}), and has no prototype: {error.what}"]
    note = (
        f"the bench ran {made.architecture.name}, a prototype with {format_count(made.parameters.total)} parameters "
        f"and the same context, since {why}; numbers at full size are predicted"
    )
    return made, [note]


def _at_full_size(graph: Graph, found: Bench) -> list[FullSize]:
    """Every row of the bench, for the architecture itself."""
    assert found.machine is not None
    device = found.machine.as_device()
    rows: list[FullSize] = []
    for row in found.mine:
        if row.status == "does not apply" or PHASES[row.phase].refusal(graph):
            continue
        task = Task(graph=graph, phase=row.phase, length=row.length, batch=found.batch, dtype=found.dtype)
        bound = bound_of(task, device)
        if bound is None:
            continue
        reached = _share(row)
        peak, unsure = sized_peak(task)
        rows.append(
            FullSize(
                phase=row.phase,
                length=row.length,
                tokens=amount_of(task).tokens,
                at_best=bound.seconds,
                at_worst=None if reached is None else bound.seconds / reached,
                peak_bytes=peak,
                peak_unsure=unsure,
            )
        )
    return rows


def _share(row: Row) -> float | None:
    """The share of its roofline that a row reached, or is predicted to reach at worst; None where it failed."""
    if row.bound is None:
        return None
    if row.seconds is not None:
        return min(1.0, row.bound.seconds / row.seconds.q3)
    if row.expected is not None:
        return min(1.0, row.bound.seconds / (row.expected.seconds * row.expected.off_by))
    return None
