"""Our mixture-of-experts layer against Hugging Face's MixtralSparseMoeBlock, forward and backward, taking turns.

    python bench/moe_layer.py                             fp32 and bf16, 8 experts of which 2
    python bench/moe_layer.py --dtype bf16 --rounds 30 --threads 1
    python bench/moe_layer.py --tokens 4096 --width 1024 --hidden 3584 --json

Run it with a Python that has Vitruvius and transformers (`pip install 'vitruvius[dev]'`). Contestants are ours, their
loop over experts (`eager`) and their grouped product (`grouped_mm`). All have the same weights and see the same tokens,
other ones in each round; who begins moves on by one each round. Only ratios within a round mean anything: the machine's
speed drifts, and turn-taking lets it drift under all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.nn.ffn.moe import MoeModule
from vitruvius.nn.ops import keep_freed_memory
from vitruvius.nn.place import Place
from vitruvius.nn.registry import Factory, load_modules
from vitruvius.spec import Scope
from vitruvius.spec.ffn.mlp import SwiGLU
from vitruvius.spec.ffn.moe import Moe

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = "vitruvius"
PEERS = {"hf-eager": "eager", "hf-grouped": "grouped_mm"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAME = 1e-4
"""Relative difference of outputs and input gradients in fp32 that different orders of summation leave."""


def our_layer(asked: argparse.Namespace, dtype: torch.dtype) -> MoeModule:
    load_modules()
    spec = Moe(experts=asked.experts, top_k=asked.top_k, expert=SwiGLU(hidden=asked.hidden))
    scope = Scope(width=asked.width, vocab_size=2, context=asked.tokens, depth=1)
    module = MoeModule(spec, scope, Factory(device=torch.device("cpu"), dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return module.train()


def their_layer(ours: MoeModule, asked: argparse.Namespace, implementation: str, dtype: torch.dtype) -> Any:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=asked.width,
        intermediate_size=asked.hidden,
        num_local_experts=asked.experts,
        num_experts_per_tok=asked.top_k,
    )
    config._experts_implementation = implementation  # noqa: SLF001 (from_pretrained's argument sets this)
    module = MixtralSparseMoeBlock(config).to(dtype)
    own: Any = ours.experts
    state = {
        "gate.weight": ours.router.weight,
        "experts.gate_up_proj": torch.cat([own.gate_weight, own.up_weight], dim=1),
        "experts.down_proj": own.down_weight,
    }
    module.load_state_dict({name: value.detach() for name, value in state.items()})
    return module.train()


def turn(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, grad: torch.Tensor) -> dict[str, Any]:
    """One forward and backward pass, its times and what it came to."""
    x = x.clone().requires_grad_()
    cpu, began = time.process_time(), time.perf_counter()
    y = layer(x)
    between = time.perf_counter()
    y.backward(grad)
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    return {"forward": between - began, "both": ended - began, "cpu": cpu, "y": y.detach(), "grad": x.grad}


def measure(asked: argparse.Namespace, dtype: torch.dtype) -> dict[str, list[dict[str, Any]]]:
    ours = our_layer(asked, dtype)
    place = Place(positions=torch.arange(asked.tokens))
    modules: dict[str, Any] = {OURS: ours}
    modules |= {name: their_layer(ours, asked, how, dtype) for name, how in PEERS.items()}
    layers = {name: module if name != OURS else (lambda x: ours(x, place)) for name, module in modules.items()}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in layers}
    for index in range(asked.warmups + asked.rounds):
        generator = torch.Generator().manual_seed(index)
        shape = (1, asked.tokens, asked.width)
        x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        names = list(layers)
        names = names[index % len(names) :] + names[: index % len(names)]
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            modules[name].zero_grad(set_to_none=True)
            found[name] = turn(layers[name], x, grad)
        if dtype == torch.float32:
            agree(found)
        for name, row in found.items():
            if index >= asked.warmups:
                rows[name].append({what: row[what] for what in ("forward", "both", "cpu")})
    return rows


def agree(found: dict[str, dict[str, Any]]) -> None:
    """Contestants that compute different things are not compared. In bf16 they route differently: ours in fp32."""
    for name in PEERS:
        for what in ("y", "grad"):
            ours, theirs = found[OURS][what], found[name][what]
            gap = ((ours - theirs).norm() / theirs.norm()).item()
            assert gap <= SAME, f"{what} of {name} differs by {gap:.1e}"


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "q1": low, "q3": high}


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ours = rows[OURS]
    return {
        name: {
            "forward_ms": spread([1e3 * row["forward"] for row in mine]),
            "both_ms": spread([1e3 * row["both"] for row in mine]),
            "ours_over_this_forward": spread([a["forward"] / b["forward"] for a, b in zip(mine, ours, strict=True)]),
            "ours_over_this": spread([a["both"] / b["both"] for a, b in zip(mine, ours, strict=True)]),
            "ours_over_this_cpu": spread([a["cpu"] / b["cpu"] for a, b in zip(mine, ours, strict=True)]),
        }
        for name, mine in rows.items()
    }


def table(result: dict[str, Any]) -> str:
    config = result["config"]
    sizes = f"{config['experts']} experts, top {config['top_k']}, width {config['width']}, hidden {config['hidden']}"
    lines = [f"{sizes}, {config['tokens']:,} tokens, {config['threads']} threads, {config['rounds']} rounds"]
    for dtype, contestants in result["dtypes"].items():
        lines.append(
            f"{dtype:11}  {'forward ms':>10}  {'both ms':>8}  {'ours/this':>9}  {'quartiles':>11}  {'CPU time':>8}  "
            f"{'quartiles':>11}  forward alone"
        )
        for name, row in contestants.items():
            ratio, cpu = row["ours_over_this"], row["ours_over_this_cpu"]
            lines.append(
                f"{name:11}  {row['forward_ms']['median']:10.1f}  {row['both_ms']['median']:8.1f}  "
                f"{ratio['median']:8.2f}x  {ratio['q1']:5.2f}-{ratio['q3']:<5.2f}  "
                f"{cpu['median']:7.2f}x  {cpu['q1']:5.2f}-{cpu['q3']:<5.2f}  "
                f"{row['ours_over_this_forward']['median']:.2f}x"
            )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", action="append", choices=tuple(DTYPES), help="only this format; default: both")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmups", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    keep_freed_memory()
    config = {name: value for name, value in vars(asked).items() if name not in {"json", "dtype"}}
    result = {
        "schema": "vitruvius.bench.moe_layer/1",
        "config": config,
        "versions": {"torch": torch.__version__, "transformers": __import__("transformers").__version__},
        "dtypes": {name: summary(measure(asked, DTYPES[name])) for name in asked.dtype or DTYPES},
    }
    print(json.dumps(result, indent=2) if asked.json else table(result))
    worst = min(
        row["ours_over_this"]["median"]
        for contestants in result["dtypes"].values()
        for name, row in contestants.items()
        if name != OURS
    )
    print(f"the better of them: ours is {worst:.2f}x as fast (bar: 1.00x)", file=sys.stderr)


if __name__ == "__main__":
    main()
