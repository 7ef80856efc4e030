"""What a sweep will cost, arm by arm and in all, before anything is spent. Loads torch only to measure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vitruvius.spec import to_data
from vitruvius.training.config import to_plain
from vitruvius.training.timing import bounded, counts_of

if TYPE_CHECKING:
    from vitruvius.lab.sweeping_plan import PlannedArm, SweepPlan
    from vitruvius.sizing.hardware import Device
    from vitruvius.training.timing import Estimate

BILL_SCHEMA = "vitruvius.sweep-plan/1"


def bill_of(plan: SweepPlan, *, on: Device | None = None, measured: bool = False) -> dict[str, Any]:
    """The bill as plain data, schema `vitruvius.sweep-plan/1`.

    on: hardware to bound the time on. measured: do a few updates of each arm here. The total time is that of all runs
    over the jobs, which share cores and memory: with several jobs at a time it can be longer.
    """
    known: dict[str, Estimate | None] = {}
    for arm in plan.arms:
        shape = _shape(arm)
        if shape not in known:
            known[shape] = _time(arm, on, measured=measured)
    times = [known[_shape(arm)] for arm in plan.arms]
    seeds = len(plan.seeds)
    each = [time.seconds for time in times if time is not None]
    whole = sum(each) * seeds if len(each) == len(times) else None
    return {
        "schema": BILL_SCHEMA,
        "out": str(plan.out),
        "data": str(plan.data),
        "swept": list(plan.paths),
        "seeds": list(plan.seeds),
        "jobs": plan.jobs,
        "threads": plan.threads,
        "arms": [_arm(arm, time) for arm, time in zip(plan.arms, times, strict=True)],
        "total": {
            "runs": len(plan.runs),
            "tokens": plan.tokens,
            "flops": plan.flops,
            "peak_bytes": plan.peak_bytes,
            "run_seconds": whole,
            "seconds_over_jobs": None
            if whole is None
            else _over_jobs([s for s in each for _ in range(seeds)], plan.jobs),
        },
    }


_NO_SHAPE = frozenset({"lr", "muon_lr", "min_lr", "betas", "eps", "weight_decay", "warmup", "seed", "wsd_decay"})
"""Settings that change what is learned, and not how long an update takes."""


def _shape(arm: PlannedArm) -> str:
    """What the time of an arm depends on."""
    settings = {key: value for key, value in to_plain(arm.request.config).items() if key not in _NO_SHAPE}
    return json.dumps([settings, to_data(arm.request.reading.architecture)], sort_keys=True)


def _time(arm: PlannedArm, on: Device | None, *, measured: bool) -> Estimate | None:
    request = arm.request
    if measured:
        from vitruvius.training.measured_time import measured_estimate

        return measured_estimate(request)
    if on is None:
        return None
    return bounded(request.reading.architecture, request.config, counts_of(request.config, request.data), on)


def _arm(arm: PlannedArm, time: Estimate | None) -> dict[str, Any]:
    plan = arm.plan
    return {
        "name": arm.arm.name,
        "values": arm.values,
        "origins": arm.origins,
        "parameters": {"total": plan.parameters_total, "active": plan.parameters_active},
        "tokens": plan.tokens,
        "epochs": plan.epochs,
        "flops": plan.flops,
        "peak_bytes": plan.peak_bytes,
        "time": None if time is None else time.to_dict(),
        "runs": [run.folder for run in arm.runs],
    }


def _over_jobs(seconds: list[float], jobs: int) -> float:
    """When the last of several jobs is done, each taking the next run when it is free."""
    free = [0.0] * jobs
    for each in seconds:
        first = free.index(min(free))
        free[first] += each
    return max(free)
