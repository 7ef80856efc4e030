"""How long a run will take before it is run, from shorter runs; and how far off that can be. No torch.

    seconds(n) = a * passes(n) + b * work(n)        a, b >= 0, least squares of relative errors

`a` is what a pass costs however little it computes, `b` the pace of the work. How far off that can be is found from the
same runs; see `off_by`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

UNTRIED = 1.5
"""How far off one or two runs are taken to be, which nothing else is there to confirm."""
LEAST = 1.15
"""The same where there are more, and the least factor that is promised: machines are not steadier than that."""
FROM_THE_ROOFLINE = 4.0
"""The factor when nothing was run: what the rates of the machine allow, over the share that models reach of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One length that was run."""

    length: int
    passes: int
    work: float
    """Operations, or bytes where those bind."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What runs cost: seconds of a pass, and of a unit of work."""

    per_pass: float
    per_work: float

    def seconds(self, passes: int, work: float) -> float:
        """Of a run."""
        return self.per_pass * passes + self.per_work * work


def pace_of(known: Sequence[Known]) -> Pace:
    """The pace that fits the runs best, without negative costs. Raises ValueError without runs."""
    if not known:
        raise ValueError("no runs to learn a pace from")
    # Relative errors: each equation is divided by its own seconds, so that long runs do not drown short ones.
    rows = [(run.passes / run.seconds, run.work / run.seconds) for run in known]
    aa, bb, ab = (sum(x * y for x, y in pairs) for pairs in _products(rows))
    a1, b1 = sum(a for a, _ in rows), sum(b for _, b in rows)
    both = aa * bb - ab * ab
    candidates = [Pace(per_pass=0.0, per_work=b1 / bb)]
    if len(known) > 1:
        candidates.append(Pace(per_pass=a1 / aa, per_work=0.0))
        if both > 1e-9 * aa * bb:
            candidates.append(Pace(per_pass=(a1 * bb - b1 * ab) / both, per_work=(b1 * aa - a1 * ab) / both))
    allowed = [pace for pace in candidates if pace.per_pass >= 0 and pace.per_work >= 0]
    return min(allowed, key=lambda pace: sum((pace.seconds(k.passes, k.work) / k.seconds - 1) ** 2 for k in known))


def _products(rows: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], ...]:
    return [(a, a) for a, _ in rows], [(b, b) for _, b in rows], list(rows)


def off_by(known: Sequence[Known], *, passes: int, work: float, seconds: float, wobble: float = 1.0) -> float:
    """The factor by which a prediction of `seconds` may be off either way.

    Every pair of costs that agrees with each run up to the noise is taken for possible; the most and the least that any
    of them predicts are the bounds. Noise is what the best fit misses the runs by, and no less than `LEAST` or than
    `wobble`, the factor by which runs of one kind differ on this machine.
    """
    pace = pace_of(known)
    misses = [pace.seconds(run.passes, run.work) / run.seconds for run in known]
    noise = max(LEAST if len(known) > 2 else UNTRIED, wobble, *(max(miss, 1 / miss) for miss in misses)) * (1 + 1e-9)
    possible = [one.seconds(passes, work) for one in _corners(known, noise)]
    low, high = min([seconds, *possible]), max([seconds, *possible])
    return max(LEAST, wobble, high / seconds, seconds / low)


def _corners(known: Sequence[Known], noise: float) -> list[Pace]:
    """The corners of the area of costs that agree with every run within the noise; predictions are extreme there."""
    lines = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    # Scaled to the first run, so that numbers of any size meet on equal terms.
    passes, work = known[0].passes / known[0].seconds, known[0].work / known[0].seconds
    rows = [(run.passes / run.seconds / passes, run.work / run.seconds / work) for run in known]
    lines += [(p, w, edge) for p, w in rows for edge in (1 / noise, noise)]
    found: list[Pace] = []
    for (p1, w1, e1), (p2, w2, e2) in combinations(lines, 2):
        cross = p1 * w2 - p2 * w1
        if abs(cross) < 1e-9:
            continue
        a, b = (e1 * w2 - e2 * w1) / cross, (p1 * e2 - p2 * e1) / cross
        inside = all((1 - 1e-6) / noise <= p * a + w * b <= noise * (1 + 1e-6) for p, w in rows)
        if a >= -1e-9 and b >= -1e-9 and inside:
            found.append(Pace(per_pass=max(0.0, a) / passes, per_work=max(0.0, b) / work))
    return found
