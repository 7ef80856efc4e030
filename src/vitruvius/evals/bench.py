"""One bench: every phase at every length that memory and time allow, in turns; the rest predicted and marked so.

First short runs of each phase show the pace and what memory grows by. Then come the rows, the cheapest first; each
makes the prediction of the next one better. A row that does not fit keeps its prediction.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.errors import VitruviusError
from vitruvius.evals import machine as machines
from vitruvius.evals.jobs import Subject
from vitruvius.evals.lanes import Lane
from vitruvius.evals.memory import Peak, available_bytes, forget_high_water, high_water, storage_bytes
from vitruvius.evals.profile import record
from vitruvius.evals.rows import Bench, Row, Versus
from vitruvius.evals.timing import CROWDED, Contestant, Schedule, compare, fewest, poured, schedule, spread, take_turns
from vitruvius.evals.work import amount_of, bound_of
from vitruvius.runs.environment import environment
from vitruvius.sizing import count_parameters, weights_bytes
from vitruvius.spec import ensure
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from vitruvius.evals.jobs import Job, Phase
    from vitruvius.evals.machine import Machine
    from vitruvius.evals.profile import Profile
    from vitruvius.evals.request import Contender, Listener, Request
    from vitruvius.sizing.hardware import Device

_ROOM = 0.8
"""Share of the free memory that a bench may fill."""
_PROBES = (64, 192)
"""Tokens of the short runs."""
_PROFILED_RUNS = 1.5
"""What a profiled run takes, in runs."""
_RECORDED, _RECORDING = 3, 0.5
"""Runs that are recorded at most, and about how many seconds of them."""
_PATIENCE = 1.2
"""A row may take so many times what it was given before it is cut short."""


def bench(
    contenders: Sequence[Contender],
    request: Request,
    phases: Mapping[str, Phase],
    *,
    machine: Machine | None = None,
    say: Listener = lambda _text: None,
) -> Bench:
    """Measure the contenders beside each other; `machine` as it was measured a moment ago, or anew.

    Raises SpecError when an architecture does not fit together.
    """
    with machines.threads(request.threads):
        return _Session(contenders, request, phases, say).run(machine)


class _Session:
    """A bench while it runs."""

    def __init__(
        self, contenders: Sequence[Contender], request: Request, phases: Mapping[str, Phase], say: Listener
    ) -> None:
        self.request, self.say = request, say
        self.began = perf_counter()
        self.contenders = list(contenders)
        self.graphs = {contender.name: ensure(contender.architecture) for contender in contenders}
        self.phases = [phases[name] for name in request.phases]
        self.machine: Machine | None = None
        self.device: Device | None = None
        self.rows: dict[tuple[str, str, int], Row] = {}
        self.versus: list[Versus] = []
        self.notes: list[str] = []
        self._given = self._patience = self._reserved = 0.0
        """Seconds for the row that comes next, how long it may take at most, and what later phases are to have."""

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.request.seconds - (perf_counter() - self.began)

    def run(self, machine: Machine | None) -> Bench:
        request, load = self.request, _load()
        if machine is None:
            self.say("measuring the machine")
            machine = machines.measure(effort=request.effort, seed=request.seed, models=False)
        self.machine = machine
        self.device = self.machine.as_device()
        subjects = self._subjects()
        lanes = [self._lane(contender, phase, subjects) for phase in self.phases for contender in self.contenders]
        self._fill(lanes)
        names = [contender.name for contender in self.contenders]
        order = [(name, phase, length) for phase in request.phases for length in request.lengths for name in names]
        return Bench(
            name=names[0],
            contenders=[self._about(contender) for contender in self.contenders],
            lengths=request.lengths,
            phases=request.phases,
            batch=request.batch,
            dtype=request.dtype,
            device=self.machine.device,
            seed=request.seed,
            budget_seconds=request.seconds,
            threads=torch.get_num_threads(),
            rows=[self.rows[key] for key in order],
            versus=sorted(self.versus, key=lambda versus: request.phases.index(versus.phase)),
            notes=self.notes,
            machine=self.machine,
            environment={
                **environment(),
                "load_average": {"before": load, "after": _load()},
                "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
            },
            seconds=perf_counter() - self.began,
        )

    def _about(self, contender: Contender) -> dict[str, Any]:
        parameters = count_parameters(self.graphs[contender.name])
        return {
            "name": contender.name,
            "architecture": contender.architecture.name,
            "backend": contender.backend,
            "parameters": parameters.total,
            "active_parameters": parameters.active,
            "context": contender.architecture.context,
        }

    # Building

    def _subjects(self) -> dict[str, Subject]:
        """Models, where all of them fit into memory together; none where they do not."""
        request = self.request
        free = available_bytes(torch.device(self._device))
        makers = {id(contender.model): contender for contender in self.contenders}.values()
        needed = sum(weights_bytes(self.graphs[contender.name], request.dtype) for contender in makers)
        if free is not None and needed > _ROOM * free:
            self.notes.append(
                f"nothing was run: weights take {format_bytes(needed)} and {format_bytes(free)} of memory are free"
            )
            return {}
        for contender in makers:
            self.say(f"building {contender.architecture.name}")
        return {
            contender.name: Subject(
                name=contender.name,
                model=contender.model(),
                batch=request.batch,
                backend=contender.backend,
                seed=request.seed,
            )
            for contender in self.contenders
        }

    @property
    def _device(self) -> str:
        return "cpu" if self.machine is None else self.machine.device

    def _lane(self, contender: Contender, phase: Phase, subjects: Mapping[str, Subject]) -> Lane:
        assert self.device is not None
        assert self.machine is not None
        return Lane(
            name=contender.name,
            graph=self.graphs[contender.name],
            phase=phase,
            batch=self.request.batch,
            dtype=self.request.dtype,
            device=self.device,
            wobble=self.machine.wobble,
            subject=subjects.get(contender.name),
        )

    # Planning

    def _fill(self, lanes: Sequence[Lane]) -> None:
        """A row for every length of every lane: measured where that can be, else predicted.

        Phases that change the process for good come after all others, which leave them their share of the time.
        """
        gentle = [lane for lane in lanes if not lane.phase.disturbs]
        rough = [lane for lane in lanes if lane.phase.disturbs]
        self._reserved = self.left * len(rough) / len(lanes)
        self._run_lanes(gentle)
        self._reserved = 0.0
        self._run_lanes(rough)
        for lane in lanes:
            for length in self.request.lengths:
                key = (lane.name, lane.phase.name, length)
                self.rows.setdefault(key, self._unmeasured(lane, length))

    def _run_lanes(self, lanes: Sequence[Lane]) -> None:
        groups: dict[str, list[Lane]] = {}
        for lane in lanes:
            if not lane.refusal and lane.subject is not None:
                lane.expected(min(self.request.lengths))  # a mistake of sizing's is no failure of the model
                with _failing([lane]):
                    self._probe(lane)
                if not lane.failure:
                    groups.setdefault(lane.phase.name, []).append(lane)
        pending = [(group, length) for group in groups.values() for length in sorted(self.request.lengths)]
        while task := self._next(pending):
            pending.remove(task)
            with _failing(task[0]):
                self._measure(*task)
            pending = [one for one in pending if not any(lane.failure for lane in one[0])]

    def _next(self, pending: Sequence[tuple[list[Lane], int]]) -> tuple[list[Lane], int] | None:
        """The cheapest task of those that fit into memory, and together into the time that is left."""
        fitting = [task for task in pending if not self._too_big(*task)]
        left = self.left - self._reserved
        while fitting and sum(self._cost(*task, fewest) for task in fitting) > left:
            fitting.remove(max(fitting, key=lambda task: self._cost(*task, fewest)))
        if not fitting:
            return None
        least = [self._cost(*task, fewest) for task in fitting]
        whole = [self._cost(*task, Schedule) for task in fitting]
        shares = poured(left, least, whole)
        self._given, task = min(zip(shares, fitting, strict=True), key=lambda one: one[0])
        self._patience = max(_PATIENCE * self._given, self._given + (left - sum(shares)) / 2)
        return task

    def _cost(self, lanes: Sequence[Lane], length: int, plan: Callable[..., Schedule]) -> float:
        """Seconds that a row takes with the runs of a plan: the fewest, or all."""
        one_round = self._one_round(lanes, length)
        asked = {"warmups": self.request.warmups, "runs": self.request.runs}
        chosen = plan(one_round, **asked) if plan is fewest else plan(**asked)
        return chosen.seconds(one_round) + _PROFILED_RUNS * one_round

    def _one_round(self, lanes: Sequence[Lane], length: int) -> float:
        return sum(lane.expected(length).seconds for lane in lanes)

    def _too_big(self, lanes: Sequence[Lane], length: int) -> str:
        """Why a row does not fit into memory; empty where it does."""
        free = available_bytes(torch.device(self._device))
        if free is None:
            return ""
        for lane in lanes:
            peak = lane.peak(length)
            more = peak - weights_bytes(lane.graph, self.request.dtype)
            if more > _ROOM * free:
                return f"it takes about {format_bytes(peak)}, and {format_bytes(free)} of memory are free"
        return ""

    # Measuring

    def _prepared(self, lane: Lane, length: int) -> Job:
        assert lane.subject is not None
        lane.subject.model.eval()
        return lane.phase.prepare(lane.subject, length)

    def _probe(self, lane: Lane) -> None:
        """Two short runs, for pace and memory."""
        longest = max(self.request.lengths)
        for length in sorted({min(probe, longest) for probe in _PROBES}):
            if self._too_big([lane], length):
                return
            job = self._prepared(lane, length)
            self._profile(lane, job, length)
            turns = take_turns([_contestant("it", job)], Schedule(warmups=1, runs=2), seed=self.request.seed)
            lane.learn(length, min(turns.seconds["it"]))

    def _profile(self, lane: Lane, job: Job, length: int, *, one_run: float | None = None) -> Profile:
        """A recorded run; of short ones a few are recorded."""
        assert lane.subject is not None
        sample = job.sample()
        times = 1 if one_run is None or sample.covers else max(1, min(_RECORDED, int(_RECORDING / max(one_run, 1e-9))))
        profile = record(lane.subject.model, sample, reset=job.reset, times=times)
        lane.extras[length] = profile.extra_bytes
        return profile

    def _measure(self, lanes: Sequence[Lane], length: int) -> None:
        """Every contender at one length, in turns."""
        assert self.device is not None
        request, phase = self.request, lanes[0].phase.name
        expected = {lane.name: lane.expected(length) for lane in lanes}
        one_round = sum(guess.seconds for guess in expected.values())
        one_row = {"warmups": request.warmups, "runs": request.runs}
        budget = self._given - _PROFILED_RUNS * one_round
        plan = schedule(one_round, budget, **one_row) or fewest(one_round, **one_row)
        self.say(
            f"{phase} at {length:,}: {plan.warmups} warm-ups, {plan.runs} runs, about {plan.seconds(one_round):.0f} s"
        )
        jobs = {lane.name: self._prepared(lane, length) for lane in lanes}
        forgotten = forget_high_water()
        turns = take_turns(
            [_contestant(name, job) for name, job in jobs.items()],
            plan,
            seed=request.seed + length,
            deadline=perf_counter() + self._patience,
        )
        process = high_water() if forgotten else None
        profiles = {
            lane.name: self._profile(lane, jobs[lane.name], length, one_run=expected[lane.name].seconds)
            for lane in lanes
        }
        for lane in lanes:
            name = lane.name
            seconds = spread(turns.seconds[name])
            task = lane.task(length)
            held = storage_bytes(jobs[name].held())
            self.rows[name, phase, length] = Row(
                contender=name,
                phase=phase,
                length=length,
                status="measured",
                amount=amount_of(task),
                expected=expected[name],
                bound=bound_of(task, self.device),
                product_rate=self.device.peak(request.dtype),
                seconds=seconds,
                warmups=turns.warmups,
                notes=(*turns.notes, *_crowded(turns.share, self._device)),
                processors=turns.share,
                peak=Peak(held=held, extra=profiles[name].extra_bytes, process=process),
                profile=profiles[name],
            )
            lane.learn(length, seconds.median)
        self._compare(lanes, length, turns.seconds)

    def _compare(self, lanes: Sequence[Lane], length: int, seconds: Mapping[str, list[float]]) -> None:
        first = lanes[0]
        for other in lanes[1:]:
            names = first.name, other.name
            found = compare(seconds[names[0]], seconds[names[1]], seed=self.request.seed)
            self.versus.append(
                Versus(first=names[0], other=names[1], phase=first.phase.name, length=length, comparison=found)
            )

    def _unmeasured(self, lane: Lane, length: int) -> Row:
        row = Row(
            contender=lane.name,
            phase=lane.phase.name,
            length=length,
            status="does not apply",
            reason=lane.refusal,
        )
        if lane.refusal:
            return row
        if lane.failure:
            return replace(row, status="failed", reason=lane.failure)
        assert self.device is not None
        expected, task = lane.expected(length), lane.task(length)
        why = "the weights do not fit into memory" if lane.subject is None else self._too_big([lane], length)
        why = why or "the time was used up (--minutes)"
        return replace(
            row,
            status="predicted",
            reason=why,
            amount=amount_of(task),
            expected=expected,
            bound=bound_of(task, self.device),
        )


@contextmanager
def _failing(lanes: Sequence[Lane]) -> Iterator[None]:
    """A model that raises fails its rows and no others; what was wrongly asked for is still said as it is."""
    try:
        yield
    except VitruviusError:
        raise
    except Exception as error:  # noqa: BLE001 (a user's component may raise anything)
        what = f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        for lane in lanes:
            lane.failure = what


def _crowded(share: float | None, device: str) -> tuple[str, ...]:
    """A note where the process had to wait for a processor."""
    if share is None or share >= CROWDED or device != "cpu":
        return ()
    return (f"it had {share:.0%} of a processor while it was timed: other work on the machine slows this row",)


def _contestant(name: str, job: Job) -> Contestant:
    return Contestant(name=name, run=job.run, reset=job.reset)


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None
