"""FlexAttention on CUDA, forward and backward: right against fp64 on the CPU, and how fast beside torch's own kernels.

    python bench/gpu/flex_backward.py
    python bench/gpu/flex_backward.py --length 16384 --rounds 20 --json
    python bench/gpu/flex_backward.py --device cpu --small          # the forward pass of one pattern, no speed

Right: for each pattern and set of terms, output and all gradients in bf16 and fp32 against the reference backend in
fp64, as relative error. Fast: the same forward and backward beside the chunked backend, causal attention and a dense
mask, taking turns. Exits with 1 when an error is beyond its bound.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from card import require, written
from torch.nn import functional as F  # noqa: N812 (as everyone writes it)

from vitruvius.nn.backends import BACKENDS, Request, TableBias
from vitruvius.nn.place import Place, place_packed
from vitruvius.patterns import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

PATTERNS = {
    "sliding": "causal & sliding(512)",
    "dilated": "causal & dilated(128, every=4)",
    "global": "causal & (sliding(512) | global(every=128))",
    "causal": "causal",
}
TERMS = ("none", "decay", "sink", "table", "softcap", "documents", "prefix", "everything")
BOUNDS = {torch.float32: 5e-3, torch.bfloat16: 3e-2}
"""Relative error of a tensor, by number format; fp32 products may run as TF32."""
BATCH, HEADS, GROUPS, WIDTH, SCALE = 2, 8, 2, 64, 0.125


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "q1": low, "q3": high}


def buckets(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """32 classes of distance."""
    return (q.unsqueeze(-1) - k.unsqueeze(-2)).clamp(0, 31)


def case(pattern: str, terms: str, length: int, device: str, dtype: torch.dtype) -> tuple[Request, dict[str, Any]]:
    """A request, and the tensors whose gradients are compared."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64).to(torch.bfloat16)
        return values.to(device=device, dtype=dtype).requires_grad_()

    leaves = {
        "q": drawn(BATCH, HEADS, length, WIDTH),
        "k": drawn(BATCH, GROUPS, length, WIDTH),
        "v": drawn(BATCH, GROUPS, length, WIDTH),
    }
    every = terms == "everything"
    asked: dict[str, Any] = {}
    if every or terms == "decay":
        leaves["gates"] = drawn(BATCH, HEADS, length)
        c = F.logsigmoid(leaves["gates"].to(torch.promote_types(dtype, torch.float32))).cumsum(-1)
        asked["decay"] = (c, c)
    if every or terms == "sink":
        leaves["sink"] = drawn(HEADS)
        asked["sink_H"] = leaves["sink"]
    if every or terms == "table":
        leaves["table"] = drawn(32, HEADS)
        asked["table"] = TableBias(weight_RH=leaves["table"], index=buckets)
    if every or terms == "softcap":
        asked["softcap"] = 5.0
    if every or terms == "prefix":
        asked["prefix_B"] = torch.tensor([length // 3, length // 5], device=device)
    documents = None
    if every or terms == "documents":
        documents = torch.arange(length, device=device).div(length // 3 + 7, rounding_mode="floor").expand(BATCH, -1)
    positions = torch.arange(length, device=device) if documents is None else place_packed(documents)
    place = Place(positions=positions, documents=documents)
    return Request(pattern=parse(pattern), scale=SCALE, place=place, **asked), leaves


def results(backend: str, request: Request, leaves: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Output and gradients, in fp64 on the CPU; the output alone of FlexAttention on a CPU, which has no more there."""
    if backend == "flex" and leaves["q"].device.type == "cpu":
        with torch.no_grad():
            return {"out": BACKENDS[backend](leaves["q"], leaves["k"], leaves["v"], request).double()}
    out = BACKENDS[backend](leaves["q"], leaves["k"], leaves["v"], request)
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    grads = torch.autograd.grad(out, list(leaves.values()), seed)
    return {name: x.detach().double().cpu() for name, x in zip(("out", *leaves), (out, *grads), strict=True)}


def forget_kernels() -> None:
    """Past two dozen kernels flex leaves its work to the chunked backend, which is not what is measured here."""
    from vitruvius.nn.backends import flex

    flex._KERNELS.clear()  # noqa: SLF001 (no run needs this)
    torch._dynamo.reset()  # noqa: SLF001 (torch documents it)


def errors(length: int, device: str, patterns: Sequence[str], every: Sequence[str]) -> list[dict[str, Any]]:
    """Relative error of each tensor, for all patterns, terms and number formats."""
    rows: list[dict[str, Any]] = []
    for name in patterns:
        pattern = PATTERNS[name]
        for terms in every:
            forget_kernels()
            exact = results("reference", *case(pattern, terms, length, "cpu", torch.float64))
            for dtype, bound in BOUNDS.items():
                found = results("flex", *case(pattern, terms, length, device, dtype))
                worst = {n: ((x - exact[n]).norm() / exact[n].norm().clamp_min(1e-9)).item() for n, x in found.items()}
                rows.append(
                    {
                        "pattern": name,
                        "terms": terms,
                        "dtype": str(dtype).removeprefix("torch."),
                        "worst": max(worst.values()),
                        "where": max(worst, key=lambda n: worst[n]),
                        "passed": max(worst.values()) <= bound,
                    }
                )
    return rows


def speeds(length: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a forward and a backward pass in bf16, contestants taking turns."""
    rows: list[dict[str, Any]] = []
    for name, pattern in PATTERNS.items():
        forget_kernels()
        request, leaves = case(pattern, "none", length, "cuda", torch.bfloat16)
        q, k, v = leaves["q"], leaves["k"], leaves["v"]
        ways: dict[str, Any] = {
            "flex": lambda q=q, k=k, v=v, r=request: BACKENDS["flex"](q, k, v, r),
            "chunked": lambda q=q, k=k, v=v, r=request: BACKENDS["chunked"](q, k, v, r),
            "causal": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=SCALE, enable_gqa=True
            ),
        }
        milliseconds: dict[str, list[float]] = {way: [] for way in ways}
        for index in range(rounds + 3):
            for way, compute in ways.items():
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                out = compute()
                torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
                stop.record()
                torch.cuda.synchronize()
                if index >= 3:
                    milliseconds[way].append(start.elapsed_time(stop))
        rows.append({"pattern": name, "milliseconds": {way: spread(times) for way, times in milliseconds.items()}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=8192, help="tokens of the timed part")
    parser.add_argument("--checked-length", type=int, default=1000, help="tokens of the compared part")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="one pattern without terms, to see that it works")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON, written as soon as a part is done")
    asked = parser.parse_args()
    require(asked.device)
    patterns, every = (("sliding",), ("none",)) if asked.small else (tuple(PATTERNS), TERMS)
    length = 256 if asked.small else asked.checked_length
    result: dict[str, Any] = {
        "schema": "vitruvius.bench.flex_backward/1",
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "finished": False,
        "errors": [],
        "speeds": [],
    }
    # Speed first: it is soon known, and the many errors may be cut off.
    for part, work in (
        ("speeds", lambda: [] if asked.device == "cpu" else speeds(asked.length, asked.rounds)),
        ("errors", lambda: errors(length, asked.device, patterns, every)),
    ):
        result |= {part: work(), "finished": part == "errors"}
        if asked.out is not None:
            written(asked.out, json.dumps(result, indent=1) + "\n")
    if asked.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{result['device']}, torch {result['torch']}")
        for row in result["errors"]:
            verdict = "ok" if row["passed"] else "TOO FAR OFF"
            print(
                f"{row['pattern']:8}  {row['terms']:10}  {row['dtype']:8}  "
                f"{row['worst']:.1e} in {row['where']:6}  {verdict}"
            )
        for row in result["speeds"]:
            times = "  ".join(f"{way} {ms['median']:.2f} ms" for way, ms in row["milliseconds"].items())
            print(f"{row['pattern']:8}  {asked.length:,} tokens, forward and backward in bf16: {times}")
    sys.exit(0 if all(row["passed"] for row in result["errors"]) else 1)


if __name__ == "__main__":
    main()
