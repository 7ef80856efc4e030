"""The structured search of `vitruvius solve` against a plain grid with as many evaluations.

    python bench/solve.py
    python bench/solve.py --json

For each request both evaluate equally many shapes with the same evaluator. Printed: the share of evaluations that meet
every constraint, and the best value of each objective among those, as a ratio ours / grid (below 1 is better; `-` where
the grid found none). No time is compared: an evaluation costs the same in both.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.solve import Problem, Style
from vitruvius.sizing.solve.evaluating import Point, score, violations
from vitruvius.sizing.solve.grid import grid_search
from vitruvius.sizing.solve.request import settled
from vitruvius.sizing.solve.searching import search

LONG = Style(context=102_400)
CASES = {
    "7B, 100k tokens, 80 GiB, 2x": Problem(style=LONG, parameters=7e9, memory_bytes=80 * 2**30, decode_slowdown=2.0),
    "7B, 100k tokens, 18 GiB, 1.2x": Problem(style=LONG, parameters=7e9, memory_bytes=18 * 2**30, decode_slowdown=1.2),
    "dense 3B on an RTX 3060": Problem(
        parameters=3e9, device=device_named("rtx-3060-12gb"), experts=(1,), tokens_per_second=45.0
    ),
    "1e21 FLOPs, an RTX 4090": Problem(train_flops=1e21, device=device_named("rtx-4090")),
    "loss 2.5 for $1,000 on an H100": Problem(loss=2.5, cost=1000.0, device=device_named("h100-80gb")),
}
NAMES = ("memory_bytes", "step_seconds", "train_flops", "loss", "departure")


def summary(points: list[Point], problem: Problem) -> dict[str, Any]:
    """How many points meet everything, and the best of each objective among them."""
    meeting = [point for point in points if not violations(point, problem)]
    best = {name: min((point.metrics.value(name) for point in meeting), default=None) for name in NAMES}
    balance = min((score(point, problem) for point in meeting), default=None)
    return {"evaluations": len(points), "meeting": len(meeting), "best": best, "score": balance}


def compared(name: str, problem: Problem) -> dict[str, Any]:
    """Both searches of one request."""
    problem = settled(problem)
    ours = search(problem)
    grid = grid_search(problem, ours.evaluations)
    first, second = (summary(list(found.points.values()), problem) for found in (ours, grid))
    ratios = {
        key: None if not second["best"][key] else first["best"][key] / second["best"][key]
        for key in NAMES
        if first["best"][key] is not None
    }
    return {"case": name, "ours": first, "grid": second, "ratios": ratios}


def main() -> None:
    """Compare every case and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    found = [compared(name, problem) for name, problem in CASES.items()]
    if parser.parse_args().json:
        print(json.dumps(found, indent=2))
        return
    for row in found:
        ours, grid = row["ours"], row["grid"]
        shares = f"{ours['meeting']}/{ours['evaluations']} meet all, grid {grid['meeting']}/{grid['evaluations']}"
        print(f"{row['case']}: {shares}")
        shown = {name: "-" if ratio is None else f"{ratio:.3f}" for name, ratio in row["ratios"].items()}
        ratios = ", ".join(f"{name} {ratio}" for name, ratio in shown.items())
        print(f"  ours / grid: {ratios}")
        gap = None if grid["score"] is None or ours["score"] is None else ours["score"] - grid["score"]
        print(f"  balance (lower is better): {'the grid found nothing' if gap is None else f'{gap:+.2f}'}")


if __name__ == "__main__":
    main()
