"""Attention over windows, dilation and globals: ours beside torch's on a CPU, forward and backward.

    python bench/attention_patterns.py
    python bench/attention_patterns.py --lengths 4096 16384 --rounds 3 --threads 1 --skip flex --json

Contestants take turns over the same tensors; ratios are taken per round, their medians printed. `dense mask` is
torch's attention with the pattern as a mask, which is made once and neither timed nor counted as memory; `causal` the
same without any pattern (what one pays for full attention); `flex` compiled FlexAttention, which has no backward pass
on a CPU. The bars: ours linear in the length in time and memory, and at least 5x as fast as the dense mask at 16K.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 (as everyone writes it)

from vitruvius.nn.backends import BACKENDS, Request
from vitruvius.nn.place import Place
from vitruvius.patterns import parse

PATTERNS = {
    "sliding": "causal & sliding(512)",
    "dilated": "causal & dilated(128, every=4)",
    "global": "causal & (sliding(512) | global(every=128))",
}
PEERS = ("dense mask", "causal", "flex")
OURS = "ours"
BATCH, HEADS, GROUPS, WIDTH, SCALE = 1, 4, 2, 64, 0.125
Run = Callable[[], None]


def say(text: str) -> None:
    """Talk goes to stderr; stdout is the result."""
    print(text, file=sys.stderr, flush=True)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "q1": low, "q3": high}


def contestants(pattern: str, length: int, dtype: torch.dtype, peers: list[str]) -> dict[tuple[str, str], Run]:
    """(name, "forward" or "both") -> one computation."""
    shapes = [(BATCH, HEADS, length, WIDTH), (BATCH, GROUPS, length, WIDTH), (BATCH, GROUPS, length, WIDTH)]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    seed = torch.randn(shapes[0], generator=generator).to(dtype)
    request = Request(pattern=parse(pattern), scale=SCALE, place=Place(positions=torch.arange(length)))

    masks: list[torch.Tensor] = []

    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if not masks:
            positions = torch.arange(length)
            parts = [request.pattern.allows(some.unsqueeze(1), positions) for some in positions.split(512)]
            masks.append(torch.cat(parts))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=masks[0], scale=SCALE, enable_gqa=True)

    ways: dict[str, Callable[..., torch.Tensor]] = {
        OURS: lambda q, k, v: BACKENDS["chunked"](q, k, v, request),
        "dense mask": masked,
        "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=SCALE, enable_gqa=True),
        "flex": lambda q, k, v: BACKENDS["flex"](q, k, v, request),
    }

    def forward(way: Callable[..., torch.Tensor]) -> Run:
        def run() -> None:
            with torch.no_grad():
                way(*inputs)

        return run

    def both(way: Callable[..., torch.Tensor]) -> Run:
        def run() -> None:
            torch.autograd.grad(way(*inputs), inputs, seed)

        return run

    found: dict[tuple[str, str], Run] = {}
    for name in (OURS, *peers):
        found[name, "forward"] = forward(ways[name])
        if name != "flex":
            found[name, "both"] = both(ways[name])
    return found


def peak_bytes(run: Run) -> int | None:
    """By how much a run raises the process's resident memory at most; None where Linux does not say."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")

    def kilobytes(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    before = kilobytes("VmRSS:")
    run()
    return max(0, kilobytes("VmHWM:") - before) * 1024


def measure(runs: dict[tuple[str, str], Run], rounds: int) -> dict[str, Any]:
    """Memory in the warm-up, then seconds in rounds; who begins moves on by one each round."""
    peaks = {}
    for at, run in runs.items():
        run()
        peaks[at] = peak_bytes(run)
    turns = list(runs)
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {at: [] for at in turns}
    for index in range(rounds):
        first = index % len(turns)
        for at in turns[first:] + turns[:first]:
            wall, cpu = time.perf_counter(), time.process_time()
            runs[at]()
            seconds[at].append((time.perf_counter() - wall, time.process_time() - cpu))
    found: dict[str, Any] = {}
    for (name, what), rows in seconds.items():
        pairs = list(zip(rows, seconds[OURS, what], strict=True))
        found.setdefault(what, {})[name] = {
            "milliseconds": spread([1e3 * wall for wall, _ in rows]),
            "ours_faster": spread([theirs[0] / ours[0] for theirs, ours in pairs]),
            "ours_faster_cpu": spread([theirs[1] / ours[1] for theirs, ours in pairs]),
            "peak_bytes": peaks[name, what],
        }
    return found


def table(result: dict[str, Any]) -> str:
    config = result["config"]
    said = f"{config['dtype']}, {config['threads']} threads, {config['rounds']} rounds"
    lines = [
        f"{HEADS} query and {GROUPS} key heads of {WIDTH}, {said}; how much faster ours is, by CPU time in brackets",
        f"{'pattern':8}  {'length':>7}  {'what':8}  {'contestant':11}  {'ms':>9}  {'ours is':>15}  {'peak MB':>8}",
    ]
    for row in result["rows"]:
        for what, names in row["found"].items():
            for name, entry in names.items():
                peak = "" if entry["peak_bytes"] is None else f"{entry['peak_bytes'] / 1e6:8,.0f}"
                faster = f"{entry['ours_faster']['median']:.2f}x ({entry['ours_faster_cpu']['median']:.2f}x)"
                lines.append(
                    f"{row['pattern']:8}  {row['length']:7,}  {what:8}  {name:11}  "
                    f"{entry['milliseconds']['median']:9,.1f}  {'' if name == OURS else faster:>15}  {peak}"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16_384, 65_536])
    parser.add_argument("--peers-up-to", type=int, default=16_384, help="longest sequence that peers run, too")
    parser.add_argument("--pattern", action="append", choices=tuple(PATTERNS), help="only this one (repeatable)")
    parser.add_argument("--skip", action="append", choices=PEERS, default=[], help="leave this peer out (repeatable)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows: list[dict[str, Any]] = []
    for name in asked.pattern or PATTERNS:
        for length in asked.lengths:
            peers = [peer for peer in PEERS if peer not in asked.skip] if length <= asked.peers_up_to else []
            runs = contestants(PATTERNS[name], length, getattr(torch, asked.dtype), peers)
            rows.append({"pattern": name, "length": length, "found": measure(runs, asked.rounds)})
            say(f"{name} at {length:,} done")
    config = {key: getattr(asked, key) for key in ("threads", "rounds", "dtype")} | {"torch": torch.__version__}
    result = {"schema": "vitruvius.bench.attention_patterns/1", "config": config, "rows": rows}
    print(json.dumps(result, indent=2) if asked.json else table(result))


if __name__ == "__main__":
    main()
