"""A sweep on paper: every arm read, checked and billed before anything starts. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.data import TokenShards
from vitruvius.errors import DataError, Finding, SpecError, UsageError
from vitruvius.lab.sweeping_values import listing_of, swept
from vitruvius.runs.environment import environment
from vitruvius.spec import to_data
from vitruvius.spec.overrides import argument_name
from vitruvius.spec.reporting import listed
from vitruvius.training.checking import config_hash
from vitruvius.training.plan import Plan
from vitruvius.training.plan import plan as plan_run
from vitruvius.training.request import read_request, swept_by
from vitruvius.training.room import ensure_room, room_here
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.lab.sweeping_values import Arm, Listing
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.request import Request

MOST_JOBS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One arm with one seed: a run folder."""

    arm: str
    seed: int
    folder: str
    """In the sweep's folder."""
    config: TrainConfig
    belongs_to: str
    """Hash of what decides its numbers, whatever device and number of threads compute them."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedArm:
    """One choice of all values, with its bill."""

    arm: Arm
    request: Request
    """With the first seed."""
    plan: Plan
    runs: tuple[PlannedRun, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Path -> value."""
        return {value.path: value.value for value in self.arm.values}

    @property
    def origins(self) -> dict[str, str]:
        """Path -> where its value was written."""
        marks = {value.path: value.mark for value in self.arm.values}
        return {path: f"{mark.file}:{mark.line}:{mark.column}" for path, mark in marks.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """A sweep that makes sense."""

    out: Path
    data: Path
    fingerprint: str
    """Of the data."""
    seeds: tuple[int, ...]
    """The same for every arm, so that arms differ in nothing else."""
    paths: tuple[str, ...]
    """What is swept."""
    jobs: int
    threads: int | None
    """Of each job, where the settings do not say; None leaves it to torch."""
    arms: tuple[PlannedArm, ...]

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """All of them: each seed of all arms, then the next, so that a sweep cut short compares what it has."""
        return tuple(arm.runs[number] for number in range(len(self.seeds)) for arm in self.arms)

    @property
    def flops(self) -> float:
        """Useful operations of all runs, without validation."""
        return sum(arm.plan.flops for arm in self.arms) * len(self.seeds)

    @property
    def tokens(self) -> int:
        """Tokens of all runs."""
        return sum(arm.plan.tokens for arm in self.arms) * len(self.seeds)

    @property
    def peak_bytes(self) -> int:
        """What the jobs take together at most, when the largest arms meet."""
        return _together([arm.plan.peak_bytes for arm in self.arms], self.jobs, len(self.seeds))


def plan_sweep(
    spec: str,
    *,
    data: str | None = None,
    out: str | None = None,
    flags: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    sample: int | None = None,
    seeds: int | None = None,
    jobs: int = 1,
) -> SweepPlan:
    """The sweep that a SPEC or RUN.yaml, flags and `--set` texts ask for, lists among them.

    flags: settings of `train` by name, as for `read_request`. Raises SpecError with the findings of all arms at their
    places, UsageError where a folder is not named, nothing is swept, or the arms do not fit beside each other.
    """
    if not 1 <= jobs <= MOST_JOBS:
        raise UsageError(f"{jobs:,} jobs are out of range", where="--jobs", fix=f"use 1 to {MOST_JOBS}")
    lists, rest = swept(settings)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    fixed = [text.partition("=")[0] for text in rest] + [f"train.{name}" for name in given]
    listing = listing_of(swept_by(spec), texts=lists, fixed=fixed, sample=sample, seeds=seeds)
    if not listing.axes and listing.seeds == 1:
        fix = "--set train.lr=[1e-3,3e-3], a sweep: section in the run file, or --seeds 3"
        raise UsageError("one arm with one seed is no sweep", fix=fix)
    _refuse_seeds(listing)
    reader = _Reader(spec, data=data, out=out, flags=given, settings=rest, listing=listing)
    requests = reader.requests()
    seen = [_seeds(request.config.seed, listing.seeds) for _, request in requests]
    shards = TokenShards.open(requests[0][1].data, "train", verify="sizes")
    threads = _threads(jobs)
    base = reader.out
    arms = tuple(
        PlannedArm(
            arm=arm,
            request=request,
            plan=_planned(arm, request),
            runs=tuple(
                _run(arm, seed, request, several=listing.seeds > 1, fingerprint=shards.fingerprint, threads=threads)
                for seed in own
            ),
        )
        for (arm, request), own in zip(requests, seen, strict=True)
    )
    for arm in arms:
        _ensure_room(arm)
    _ensure_beside(arms, jobs, listing.seeds)
    return SweepPlan(
        out=base,
        data=requests[0][1].data,
        fingerprint=shards.fingerprint,
        seeds=seen[0],
        paths=tuple(path for axis in listing.axes for path in axis.paths),
        jobs=jobs,
        threads=threads,
        arms=arms,
    )


def _seeds(first: int, count: int) -> tuple[int, ...]:
    return tuple(first + number for number in range(count))


def _refuse_seeds(listing: Listing) -> None:
    """Seeds are paired over arms, so they are not swept beside."""
    for axis in listing.axes:
        if "train.seed" in axis.paths:
            mark = axis.range.mark if axis.range is not None else axis.choices[0][0].mark
            what, fix = "seeds are no arms: every arm has the same ones", "use seeds: 3 or --seeds 3"
            place = {"file": mark.file, "line": mark.line, "column": mark.column}
            raise SpecError([Finding(path="train.seed", what=what, fix=fix, **place)])


def _run(arm: Arm, seed: int, request: Request, *, several: bool, fingerprint: str, threads: int | None) -> PlannedRun:
    config = replace(request.config, seed=seed)
    if config.threads is None:
        config = replace(config, threads=threads)
    return PlannedRun(
        arm=arm.name,
        seed=seed,
        folder=f"{arm.name}/seed-{seed}" if several else arm.name,
        config=config,
        belongs_to=identity(config, to_data(request.reading.architecture), fingerprint),
    )


def identity(config: TrainConfig, spec: dict[str, Any], fingerprint: str) -> str:
    """Hash of what decides a run's numbers but the machine that computes them."""
    return config_hash(replace(config, threads=None, device="auto"), spec, fingerprint)


def _threads(jobs: int) -> int | None:
    """Of each of several jobs: an even share of the cores that this process may use."""
    return None if jobs == 1 else max(1, (environment()["cores_usable"] or 1) // jobs)


class _Reader:
    """Reads the request of every arm; a finding about a listed value stands where that value was written."""

    def __init__(
        self,
        spec: str,
        *,
        data: str | None,
        out: str | None,
        flags: Mapping[str, Any],
        settings: Sequence[str],
        listing: Listing,
    ) -> None:
        self.spec, self.data, self.given_out, self.flags, self.settings = spec, data, out, flags, settings
        self.listing = listing
        self.out = Path()

    def requests(self) -> list[tuple[Arm, Request]]:
        """All of them. Raises SpecError with the findings of all arms, each once."""
        found: dict[str, tuple[Finding, list[str]]] = {}
        requests: list[tuple[Arm, Request]] = []
        for arm in self.listing.arms():
            try:
                request = self._request(arm)
            except SpecError as error:
                for finding in error.findings:
                    placed = self._placed(finding, arm)
                    # What is wrong with a listed value by itself is so in all of its arms.
                    arms = [] if placed is not finding else [arm.name]
                    found.setdefault(str(placed), (placed, []))[1].extend(arms)
                continue
            self.out = request.out
            requests.append((arm, request))
        if found:
            raise SpecError([_of_arms(finding, arms) for finding, arms in found.values()])
        return requests

    def _request(self, arm: Arm) -> Request:
        request = read_request(
            self.spec,
            data=self.data,
            out=self.given_out,
            flags=self.flags,
            settings=[*self.settings, *(value.text for value in arm.values)],
        )
        if request.config.engine.kind != "local":
            what = f"an arm is one process, and the engine is {request.config.engine.kind}"
            fix = "leave train.engine.kind out; --jobs runs several arms at a time"
            raise SpecError([Finding(path="train.engine.kind", what=what, fix=fix)])
        return request

    def _placed(self, finding: Finding, arm: Arm) -> Finding:
        """A finding about a value that the sweep lists, at the place where it lists it."""
        for value in arm.values:
            if finding.file == argument_name(value.text):
                mark = value.mark
                return replace(finding, file=mark.file, line=mark.line, column=mark.column)
        return finding


def _of_arms(finding: Finding, arms: Sequence[str]) -> Finding:
    """Which arms have it, where it says nothing of a listed value."""
    return finding if not arms else replace(finding, what=f"{finding.what} (in {listed(arms, limit=3)})")


def _planned(arm: Arm, request: Request) -> Plan:
    """The bill of an arm. Raises what `plan` raises, with the name of the arm."""
    try:
        return plan_run(request)
    except DataError as error:
        raise DataError(error.what, where=f"arm {arm.name}: {error.where}", fix=error.fix) from None
    except UsageError as error:
        raise UsageError(error.what, where=f"arm {arm.name}: {error.where}", fix=error.fix) from None


def _ensure_room(arm: PlannedArm) -> None:
    """Raise UsageError where an arm by itself does not fit into this machine's memory."""
    config = arm.request.config
    try:
        ensure_room(arm.request.reading.architecture, config, room_here(config.device))
    except UsageError as error:
        raise UsageError(error.what, where=f"arm {arm.arm.name}", fix=error.fix) from None


def _ensure_beside(arms: Sequence[PlannedArm], jobs: int, seeds: int) -> None:
    """Raise UsageError where as many arms as there are jobs do not fit beside each other."""
    room = min((arm.plan.available_bytes for arm in arms if arm.plan.available_bytes is not None), default=None)
    refusing = all(arm.request.config.memory_check == "refuse" for arm in arms)
    if room is None or not refusing:
        return
    # Refused is what surely does not fit; how much masks of packed documents take is known at most.
    sure = [arm.plan.peak_bytes - arm.plan.unsure_bytes for arm in arms]
    needed = _together(sure, jobs, seeds)
    if needed > room:
        fitting = max(n for n in range(1, jobs + 1) if n == 1 or _together(sure, n, seeds) <= room)
        what = f"{jobs} jobs take {format_bytes(needed)} when the largest arms meet, and there is {format_bytes(room)}"
        raise UsageError(what, where="--jobs", fix=f"--jobs {fitting}")


def _together(peaks: Sequence[int], jobs: int, seeds: int) -> int:
    each = [peak for peak in sorted(peaks, reverse=True) for _ in range(seeds)]
    return sum(each[:jobs])
