"""Decoding at 100K against 4K tokens of context: the LongContext layout beside full attention of the same size.

    python bench/decode_length.py
    python bench/decode_length.py --shrink 8 --rounds 9 --threads 1 --json

The model is the preset `longcontext` with its width, its heads and their width divided by `--shrink`; the feed-forward
makes up for the maps of attention, which shrink faster. Weights and keys so shrink by the same factor, and a step reads
both in the proportion of the 5.8 B original, four queries to a key. Contestants take turns step by step; the slowdown
is taken per round. The bar: at most 1.15x for the layout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

import torch

import vitruvius as vt

BAR = 1.15
LAYOUTS = {"layout": "local*16 dilated*12 full*4", "full attention": "full*32"}


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "q1": low, "q3": high}


class Contestant:
    """A model and a cache for the longest context; what the cache holds does not change what a step costs."""

    def __init__(self, layers: str, *, shrink: int, capacity: int, dtype: str) -> None:
        width, groups, head_width = 4096 // shrink, 8 // shrink, 128 // shrink
        attention = 2 * width * head_width * groups * 5
        original = 2 * 4096 * (4096 + 1024) + 3 * 4096 * 11008
        sizes: dict[str, Any] = {
            "width": width,
            "vocab_size": 32000 // shrink,
            "context": capacity,
            "blocks.local.mixer.heads": 4 * groups,
            "blocks.local.mixer.kv_heads": groups,
            "blocks.local.mixer.head_width": head_width,
            "blocks.local.ffn.hidden": (original // shrink**2 - attention) // (3 * width),
        }
        overrides = [*(f"{key}={value}" for key, value in sizes.items()), f"layers='{layers}'"]
        architecture = vt.preset("longcontext", overrides=overrides)
        self.model = vt.build(architecture, dtype=dtype).eval()
        self.cache = self.model.cache(1, capacity=capacity)
        self.weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        bill = vt.size(architecture, context=capacity, dtype=dtype)
        self.predicted = bill.kv_cache_bytes + bill.state_bytes
        for part in self.cache.parts():
            for tensor in part.tensors():
                tensor.normal_()
        self.token = torch.zeros(1, 1, dtype=torch.int64)

    def step(self, held: int) -> tuple[float, float]:
        """Wall and CPU seconds of one token after `held` others."""
        self.cache.lengths = [held]
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            self.model(self.token, cache=self.cache)
        return time.perf_counter() - wall, time.process_time() - cpu


def measure(contestants: dict[str, Contestant], lengths: list[int], rounds: int, warmups: int) -> dict[str, Any]:
    """Seconds of each contestant at each length, in rounds; who begins moves on by one each round."""
    turns = [(name, length) for name in contestants for length in lengths]
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {turn: [] for turn in turns}
    for index in range(warmups + rounds):
        first = index % len(turns)
        for name, length in turns[first:] + turns[:first]:
            took = contestants[name].step(length - 1)
            if index >= warmups:
                seconds[name, length].append(took)
    short, long = lengths
    found: dict[str, Any] = {}
    for name, contestant in contestants.items():
        pairs = list(zip(seconds[name, short], seconds[name, long], strict=True))
        found[name] = {
            "weights_bytes": contestant.weights,
            "cache_bytes": contestant.cache.nbytes,
            "cache_bytes_predicted": contestant.predicted,
            "milliseconds": {n: spread([1e3 * wall for wall, _ in seconds[name, n]]) for n in lengths},
            "slowdown": spread([b[0] / a[0] for a, b in pairs]),
            "slowdown_cpu": spread([b[1] / a[1] for a, b in pairs]),
        }
    return found


def table(result: dict[str, Any]) -> str:
    short, long = result["config"]["lengths"]
    config = result["config"]
    names = ("weights", "cache", f"ms at {short:,}", f"ms at {long:,}")
    lines = [
        f"bf16, {config['threads']} threads, {config['rounds']} rounds; the bar for the layout is {BAR}x",
        f"{'':15}  {names[0]:>9}  {names[1]:>9}  {names[2]:>12}  {names[3]:>13}  slowdown  quartiles  by CPU time",
    ]
    for name, row in result["contestants"].items():
        slow, ms = row["slowdown"], row["milliseconds"]
        exact = "" if row["cache_bytes"] == row["cache_bytes_predicted"] else "  cache bytes NOT as predicted"
        lines.append(
            f"{name:15}  {row['weights_bytes'] / 1e6:6,.0f} MB  {row['cache_bytes'] / 1e6:6,.0f} MB  "
            f"{ms[short]['median']:12.1f}  {ms[long]['median']:13.1f}  {slow['median']:7.2f}x  "
            f"{slow['q1']:.2f}-{slow['q3']:.2f}  {row['slowdown_cpu']['median']:10.2f}x{exact}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shrink", type=int, choices=(1, 2, 4, 8), default=4, help="divides every width")
    parser.add_argument("--lengths", type=int, nargs=2, default=[4096, 102_400], metavar=("SHORT", "LONG"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmups", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    contestants = {
        name: Contestant(layers, shrink=asked.shrink, capacity=asked.lengths[1], dtype="bf16")
        for name, layers in LAYOUTS.items()
    }
    print("models are ready", file=sys.stderr)
    result = {
        "schema": "vitruvius.bench.decode_length/1",
        "config": {
            "shrink": asked.shrink,
            "lengths": asked.lengths,
            "rounds": asked.rounds,
            "threads": asked.threads,
            "torch": torch.__version__,
        },
        "contestants": measure(contestants, asked.lengths, asked.rounds, asked.warmups),
    }
    print(json.dumps(result, indent=2) if asked.json else table(result))


if __name__ == "__main__":
    main()
