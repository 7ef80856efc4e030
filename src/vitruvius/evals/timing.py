"""Runs taken in turns, their times, and what those times allow to say. No torch.

    round 1: B A C    round 2: C A B    ...        who goes when is drawn anew in each round

A machine's speed drifts, and other work comes and goes. Turns let it drift under all alike, so what is compared is the
ratio of two times of one round, never two averages.
"""

from __future__ import annotations

import gc
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import exp, log
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WARMUPS = 20
"""Runs before the first one that counts: caches, kernels compiled for a shape, and memory settle in them."""
RUNS = 30
"""Runs that count, where time allows."""
FEWEST_RUNS = 3
"""Below this there is no spread to speak of."""
LONG, WARM_SECONDS = 5.0, 10.0
"""A run that takes longer than so many seconds is long; warm-ups need not take longer than so many together."""
FEWEST_ROUNDS = 8
"""Rounds under which no comparison is decided: of fewer, not even all on one side are rare enough by chance."""
LEVEL = 0.99
"""Of the interval that decides. A bench decides a dozen times in one run, so 95 % would cry wolf in most of them."""
FLOOR = 0.02
"""Differences below this are never called one: where code and data happen to lie in memory moves times that much, and
no number of rounds in one process averages it away (Mytkowicz et al., 2009)."""
RESAMPLES = 2000

CROWDED = 0.85
"""Share of a processor below which a single-threaded run was kept waiting by other work."""

Outcome = Literal["faster", "slower", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle of some measured values, and how far they lie apart."""

    median: float
    q1: float
    """A quarter of the values lies below."""
    q3: float
    """A quarter of the values lies above."""
    count: int

    @property
    def iqr(self) -> float:
        """Interquartile range: the width of the middle half."""
        return self.q3 - self.q1

    def inverted(self, amount: float) -> Spread:
        """Of `amount` divided by each value: tokens per second, from seconds per run."""
        return Spread(median=amount / self.median, q1=amount / self.q3, q3=amount / self.q1, count=self.count)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"median": self.median, "iqr": self.iqr, "q1": self.q1, "q3": self.q3}


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles. Raises ValueError without values."""
    if not values:
        raise ValueError("the middle of nothing")
    if len(values) == 1:
        return Spread(median=values[0], q1=values[0], q3=values[0], count=1)
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Spread(median=middle, q1=low, q3=high, count=len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One thing that is timed."""

    name: str
    run: Callable[[], None]
    """What is timed; returns when the work is done."""
    reset: Callable[[], None] = lambda: None
    """What makes the next run like the last; not timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How often something is run."""

    warmups: int
    runs: int
    notes: tuple[str, ...] = ()
    """Why it is less often than it should be."""

    def seconds(self, one_run: float) -> float:
        """What it takes when a run takes so long."""
        return (self.warmups + self.runs) * one_run


def fewest(one_run: float, *, warmups: int = WARMUPS, runs: int = RUNS) -> Schedule:
    """The fewest runs that are worth the name when one takes `one_run` seconds.

    All warm-ups, or ten seconds of them where they take longer; the rounds that a comparison takes, or three runs where
    each takes longer than five seconds.
    """
    least_warmups = min(warmups, max(1, int(WARM_SECONDS / max(one_run, 1e-9))))
    return Schedule(warmups=least_warmups, runs=min(runs, FEWEST_ROUNDS if one_run <= LONG else FEWEST_RUNS))


def schedule(one_run: float, budget: float, *, warmups: int = WARMUPS, runs: int = RUNS) -> Schedule | None:
    """As many runs as fit into `budget` seconds when one takes `one_run`; None when not even the fewest do.

    Runs are given up first, then warm-ups. What was given up is noted.
    """
    affordable = int(budget / max(one_run, 1e-9) + 1e-6)
    if affordable >= warmups + runs:
        return Schedule(warmups=warmups, runs=runs)
    least = fewest(one_run, warmups=warmups, runs=runs)
    if affordable < least.warmups + least.runs:
        return None
    kept = max(least.warmups, min(warmups, affordable - min(runs, FEWEST_ROUNDS)))
    found = Schedule(warmups=kept, runs=min(runs, affordable - kept))
    notes = [f"{found.warmups} warm-ups instead of {warmups}"] if found.warmups < warmups else []
    notes += [f"{found.runs} runs instead of {runs}"] if found.runs < runs else []
    why = f"one run takes about {one_run:.2g} s, and {budget:.2g} s were left for this row"
    return Schedule(warmups=found.warmups, runs=found.runs, notes=(f"{' and '.join(notes)}: {why}",))


def poured(amount: float, least: Sequence[float], whole: Sequence[float]) -> list[float]:
    """An amount shared out: everyone gets the least, then all rise together until they have their whole or it is gone.

    So what is cheap gets all it wants, and what is dear shares the rest evenly. Needs `amount` >= the sum of `least`.
    """
    low, high = 0.0, max(whole, default=0.0)

    def at(level: float) -> list[float]:
        return [min(most, max(few, level)) for few, most in zip(least, whole, strict=True)]

    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) <= amount else (low, middle)
    return at(low)


@dataclass(slots=True, kw_only=True)
class Turns:
    """Times of contestants, round by round."""

    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """By name; entry i of each is from round i."""
    orders: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    """Who went when, by round."""
    warmups: int = 0
    notes: list[str] = field(default_factory=list[str])
    wall: float = 0.0
    """Seconds of all timed runs together."""
    processor: float = 0.0
    """Seconds that processors worked for this process meanwhile, over all of its threads."""

    @property
    def share(self) -> float | None:
        """Processors that the process had on average while it was timed; None before any run."""
        return self.processor / self.wall if self.wall else None

    @property
    def rounds(self) -> int:
        """Rounds that count."""
        return len(self.orders)


def take_turns(
    contestants: Sequence[Contestant],
    plan: Schedule,
    *,
    seed: int,
    deadline: float | None = None,
    clock: Callable[[], float] = perf_counter,
) -> Turns:
    """Run every contestant once in each round, warm-ups first, in an order drawn anew for each round.

    Past `deadline` (by `clock`) no further round is begun once there are the fewest that count; that is noted.
    """
    generator = random.Random(seed)  # noqa: S311 (an order, no secret)
    turns = Turns(seconds={contestant.name: [] for contestant in contestants}, warmups=plan.warmups)
    turns.notes.extend(plan.notes)
    for index in range(plan.warmups + plan.runs):
        counts = index >= plan.warmups
        late = deadline is not None and clock() > deadline
        if late and counts and turns.rounds >= FEWEST_RUNS:
            turns.notes.append(f"stopped after {turns.rounds} of {plan.runs} runs: the time was used up")
            break
        if late and 1 <= index < plan.warmups:
            if turns.warmups == plan.warmups:
                turns.warmups = index
                turns.notes.append(f"{index} warm-ups instead of {plan.warmups}: the time was used up")
            continue
        order = list(contestants)
        generator.shuffle(order)
        for contestant in order:
            contestant.reset()
            with _without_collector():
                worked, began = process_time(), clock()
                contestant.run()
                taken = clock() - began
            if counts:
                turns.seconds[contestant.name].append(taken)
                turns.wall += taken
                turns.processor += process_time() - worked
        if counts:
            turns.orders.append(tuple(contestant.name for contestant in order))
    return turns


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python's garbage collector out of a timed run: it pauses for as long as the whole process is large."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How much faster one thing is than another, and whether that can be said at all."""

    ratio: float
    """Time of the other over time of the one in the same round, the median over rounds: 1.1 is 1.1 times as fast."""
    low: float
    high: float
    """Ends of the bootstrap interval of that median."""
    level: float
    rounds: int
    verdict: Outcome
    """Of the one, against the other."""
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "times_as_fast": self.ratio,
            "ci_low": self.low,
            "ci_high": self.high,
            "level": self.level,
            "rounds": self.rounds,
            "verdict": self.verdict,
            "reason": self.reason,
        }


def compare(
    mine: Sequence[float], other: Sequence[float], *, seed: int = 0, level: float = LEVEL, floor: float = FLOOR
) -> Comparison:
    """Whether `mine` is faster than `other`, from their times of the same rounds, in seconds.

    A difference is called one only where the whole interval lies on one side of 1 and the median is at least `floor`
    away from it; everything else is inconclusive. Raises ValueError when the numbers of rounds differ or are 0.
    """
    if len(mine) != len(other) or not mine:
        raise ValueError(f"{len(mine)} and {len(other)} times are no rounds")
    logs = [log(theirs / ours) for ours, theirs in zip(mine, other, strict=True)]
    centre = median(logs)
    low, high = bootstrap(logs, seed=seed, level=level)
    ratio, rounds = exp(centre), len(logs)
    verdict: Outcome = "inconclusive"
    if rounds < FEWEST_ROUNDS:
        reason = f"{rounds} rounds decide nothing; at least {FEWEST_ROUNDS} do"
    elif low <= 0.0 <= high:
        reason = f"the {level:.0%} interval holds 1, so the difference is inside the noise"
    elif abs(centre) < log(1.0 + floor):
        reason = f"a difference under {floor:.0%} may come from where things lie in memory"
    else:
        verdict = "faster" if centre > 0 else "slower"
        reason = f"the {level:.0%} interval leaves out 1"
    return Comparison(
        ratio=ratio, low=exp(low), high=exp(high), level=level, rounds=rounds, verdict=verdict, reason=reason
    )


def bootstrap(values: Sequence[float], *, seed: int, level: float, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The bootstrap interval of the median, by percentiles, never narrower than the one by order statistics.

    The percentile bootstrap of a median is too narrow for few values; the interval between two order statistics holds
    the median with at least the stated probability whatever the distribution (Conover, 1999, section 3.2).
    """
    generator, count = random.Random(seed), len(values)  # noqa: S311 (resampling, no secret)
    medians = sorted(median(generator.choices(values, k=count)) for _ in range(resamples))
    outside = (1.0 - level) / 2
    low, high = medians[int(outside * resamples)], medians[min(resamples - 1, int((1.0 - outside) * resamples))]
    ordered, rank = sorted(values), _rank(count, outside)
    return min(low, ordered[rank]), max(high, ordered[count - 1 - rank])


def _rank(count: int, outside: float) -> int:
    """The highest rank (from 0) below which the median lies with a probability of at most `outside`; 0 if none."""
    below, term, rank = 0.0, 0.5**count, 0
    for k in range(count // 2):
        below += term
        if below > outside:
            break
        rank = k
        term *= (count - k) / (k + 1)
    return rank
