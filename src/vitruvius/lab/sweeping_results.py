"""What a sweep came to: means over seeds with their intervals, and a winner only where the paired interval says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.lab.intervals import Interval, mean_interval
from vitruvius.lab.sweeping_record import SWEEP_SCHEMA
from vitruvius.runs.environment import now_utc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.lab.sweeping_plan import PlannedArm
    from vitruvius.lab.sweeping_record import RunState, SweepFolder

LEVEL = 0.95
"""Of all intervals; where the best arm is held against several others, each gets its share of what is left to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """One arm, over its seeds."""

    name: str
    losses: Mapping[int, float]
    """Seed -> nats per token on held-out text, of the runs that are finished."""
    scored: frozenset[int]
    """How many targets were scored: one number, where its runs compare."""
    failed: int = 0
    """Runs that ended with an error: what is left of the arm are the seeds that went well."""
    left: int = 0
    """Runs that are not done."""

    @property
    def interval(self) -> Interval | None:
        """Mean over the seeds; None without any."""
        return mean_interval(list(self.losses.values()), level=LEVEL) if self.losses else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The best arm held against another one, seed by seed."""

    a: str
    b: str
    seeds: int
    """Those that both have."""
    difference: Interval
    """Of the losses, a - b: below zero, a is better."""
    verdict: str
    """`better` or `inconclusive`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which arm is best, and whether that is more than chance."""

    best: str | None
    """The arm of the least mean loss."""
    winner: str | None
    """The same, where it is better than every other one."""
    why: str
    pairs: tuple[Pair, ...]
    level: float | None
    """Of each pair's interval."""


def judged(arms: Sequence[ArmResult]) -> Verdict:
    """The verdict over arms that were trained with the same seeds.

    Differences of the same seed have Student's t interval; with k others each is at level 1 - 0.05 / k (Bonferroni), so
    that all hold together with 95 %. It needs two seeds that the best arm shares with each other one, and every run of
    the best arm: one that fails with some seeds is not better for it.
    """
    scored = [arm for arm in arms if arm.losses]
    if not scored:
        return _none(None, "no run has been scored on held-out text")
    counts = frozenset[int]().union(*(arm.scored for arm in scored))
    if len(counts) > 1:
        shown = " and ".join(f"{count:,}" for count in sorted(counts))
        return _none(None, f"the arms were scored on different tokens of held-out text ({shown}), and do not compare")
    best = min(scored, key=lambda arm: sum(arm.losses.values()) / len(arm.losses))
    if len(arms) == 1:
        return _none(best.name, "there is one arm")
    if len(scored) < len(arms):
        missing = ", ".join(arm.name for arm in arms if not arm.losses)
        return _none(best.name, f"arms without a finished run: {missing}")
    if any(arm.left for arm in arms):
        return _none(best.name, f"runs are left: {sum(arm.left for arm in arms):,}")
    if best.failed:
        return _none(best.name, f"it failed with {best.failed:,} of its seeds, which are not in its mean")
    others = [arm for arm in scored if arm is not best]
    level = 1 - (1 - LEVEL) / len(others)
    pairs = tuple(pair for other in others if (pair := _pair(best, other, level)) is not None)
    if len(pairs) < len(others):
        return _none(best.name, "fewer than two seeds in common: --seeds 3 or more can tell")
    beaten = all(pair.verdict == "better" for pair in pairs)
    close = [pair.b for pair in pairs if pair.verdict != "better"]
    why = (
        f"its loss is below that of every other arm, seed by seed (intervals at {level:.2%} each)"
        if beaten
        else f"the intervals of the differences reach zero for: {', '.join(close)}"
    )
    return Verdict(best=best.name, winner=best.name if beaten else None, why=why, pairs=pairs, level=level)


def arm_result(name: str, states: Sequence[RunState]) -> ArmResult:
    """Of the finished runs of an arm."""
    done = [state for state in states if state.status == "finished" and state.val_loss is not None]
    return ArmResult(
        name=name,
        losses={state.planned.seed: state.val_loss for state in done if state.val_loss is not None},
        scored=frozenset(state.val_tokens for state in done if state.val_tokens is not None),
        failed=sum(state.status == "failed" for state in states),
        left=sum(state.status not in {"failed", "finished"} for state in states),
    )


def document(folder: SweepFolder) -> dict[str, Any]:
    """The record of a sweep as it stands, schema `vitruvius.sweep/1`."""
    plan = folder.plan
    verdict = judged([arm_result(arm.arm.name, folder.of_arm(arm.arm.name)) for arm in plan.arms])
    counts = [state.status for state in folder.states]
    return {
        "schema": SWEEP_SCHEMA,
        "command": folder.command,
        "started": folder.started,
        "written": now_utc(),
        "data": {"path": str(plan.data), "fingerprint": plan.fingerprint},
        "swept": list(plan.paths),
        "seeds": list(plan.seeds),
        "jobs": plan.jobs,
        "runs": {name: counts.count(name) for name in ("finished", "stopped", "failed", "running", "waiting")},
        "arms": [_arm(arm, folder.of_arm(arm.arm.name)) for arm in plan.arms],
        "verdict": {**asdict(verdict), "pairs": [asdict(pair) for pair in verdict.pairs]},
    }


def _arm(arm: PlannedArm, states: Sequence[RunState]) -> dict[str, Any]:
    done = [state for state in states if state.status == "finished"]
    per_byte = [state.val_bits_per_byte for state in done if state.val_bits_per_byte is not None]
    return {
        "name": arm.arm.name,
        "values": arm.values,
        "origins": arm.origins,
        "parameters": {"total": arm.plan.parameters_total, "active": arm.plan.parameters_active},
        "tokens": arm.plan.tokens,
        "flops": arm.plan.flops,
        "peak_bytes": arm.plan.peak_bytes,
        "val_loss": _interval(arm_result(arm.arm.name, states).interval),
        "val_bits_per_byte": _interval(mean_interval(per_byte, level=LEVEL) if per_byte else None),
        "tokens_per_second": _median([s.tokens_per_second for s in done if s.tokens_per_second is not None]),
        "runs": [state.to_dict() for state in states],
    }


def _interval(interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {"mean": None, "ci_low": None, "ci_high": None}
    return {"mean": interval.mean, "ci_low": interval.low, "ci_high": interval.high}


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _pair(best: ArmResult, other: ArmResult, level: float) -> Pair | None:
    common = sorted(best.losses.keys() & other.losses.keys())
    if len(common) < 2:
        return None
    difference = mean_interval([best.losses[seed] - other.losses[seed] for seed in common], level=level)
    is_below = difference.high is not None and difference.high < 0
    return Pair(
        a=best.name,
        b=other.name,
        seeds=len(common),
        difference=difference,
        verdict="better" if is_below else "inconclusive",
    )


def _none(best: str | None, why: str) -> Verdict:
    return Verdict(best=best, winner=None, why=why, pairs=(), level=None)
