"""Chunked linear-time mixers against Hugging Face's slow paths, forward and backward, taking turns.

    python bench/linear_mixers.py                              SSD and Gated DeltaNet at 4,096 tokens
    python bench/linear_mixers.py --case ssd --rounds 15 --threads 1
    python bench/linear_mixers.py --case scan --tokens 256     Mamba's scan, whose peer takes a loop over tokens
    python bench/linear_mixers.py --tokens 16384 --json

Run it with a Python that has Vitruvius and transformers (`pip install 'vitruvius[dev]'`). The slow paths are what
transformers runs without its CUDA kernels: `mamba2_chunk_scan`, `torch_chunk_gated_delta_rule`, `mamba_selective_scan`.
Each case is measured twice: the recurrence alone, and the whole mixer around it with equal weights. Sizes are those of
Mamba-2 130M, of the preset gated-deltanet-hybrid and of Mamba 130M. Both see the same inputs, other ones in each round;
who begins alternates. Only ratios within a round mean anything: the machine's speed drifts, and turn-taking lets it
drift under both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from vitruvius.nn.ops import keep_freed_memory
from vitruvius.nn.ops.recurrence import gated_delta, selective_scan
from vitruvius.nn.place import Place
from vitruvius.nn.registry import Factory, make
from vitruvius.spec import Scope
from vitruvius.spec.mixers.deltanet import GatedDeltaNet
from vitruvius.spec.mixers.mamba import Mamba
from vitruvius.spec.mixers.mamba2 import Mamba2

if TYPE_CHECKING:
    from collections.abc import Callable

OURS, THEIRS = "vitruvius", "hf"
SAME = 1e-3
"""Relative difference of outputs and gradients in fp32 that different orders of summation leave."""

Inputs = list[torch.Tensor]
Pair = tuple["Callable[[torch.Generator], Inputs]", dict[str, "Callable[..., torch.Tensor]"]]
"""How to draw the inputs of a round, and what each contestant does with them."""

HEADS, HEAD_WIDTH, STATE = 24, 64, 128
KEY_HEADS, VALUE_HEADS, DELTA_WIDTH = 8, 16, 128
CHANNELS, SCAN_STATE = 1536, 16


def ssd(tokens: int) -> Pair:
    """Mamba-2's recurrence with the step sizes and decays of a fresh model."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    rates = -torch.arange(1.0, HEADS + 1)

    def draw(gen: torch.Generator) -> Inputs:
        x = torch.randn(1, tokens, HEADS, HEAD_WIDTH, generator=gen)
        b, c = (torch.randn(1, tokens, 1, STATE, generator=gen) for _ in range(2))
        return [x, 10 ** (-3 + 2 * torch.rand(1, tokens, HEADS, generator=gen)), b, c]

    def ours(x: torch.Tensor, dt: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return gated_delta(c, b, x * dt.unsqueeze(-1), log_decay=rates * dt)[0]

    return draw, {OURS: ours, THEIRS: lambda x, dt, b, c: mamba2_chunk_scan(x, dt, rates, b, c, 256)}


def delta(tokens: int) -> Pair:
    """Gated DeltaNet's recurrence with the decays of a fresh model."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    def draw(gen: torch.Generator) -> Inputs:
        q, k = (torch.randn(1, tokens, KEY_HEADS, DELTA_WIDTH, generator=gen) for _ in range(2))
        v = torch.randn(1, tokens, VALUE_HEADS, DELTA_WIDTH, generator=gen)
        dt = 10 ** (-3 + 2 * torch.rand(1, tokens, VALUE_HEADS, generator=gen))
        g = -dt * 16 * torch.rand(VALUE_HEADS, generator=gen)
        return [
            functional.normalize(q, dim=-1),
            functional.normalize(k, dim=-1),
            v,
            g,
            torch.rand(g.shape, generator=gen),
        ]

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return gated_delta(q * DELTA_WIDTH**-0.5, k, v, log_decay=g, beta_BTH=beta)[0]

    return draw, {OURS: ours, THEIRS: lambda *inputs: torch_chunk_gated_delta_rule(*inputs)[0]}


def scan(tokens: int) -> Pair:
    """Mamba's selective scan with the step sizes and decays of a fresh model."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    rates = -torch.arange(1.0, SCAN_STATE + 1).expand(CHANNELS, -1)

    def draw(gen: torch.Generator) -> Inputs:
        x = torch.randn(1, tokens, CHANNELS, generator=gen)
        dt = 10 ** (-3 + 2 * torch.rand(1, tokens, CHANNELS, generator=gen))
        return [x, dt, *(torch.randn(1, tokens, SCAN_STATE, generator=gen) for _ in range(2))]

    def theirs(x: torch.Tensor, dt: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        turned = (part.transpose(1, 2) for part in (x, dt))
        return mamba_selective_scan(*turned, rates, b.transpose(1, 2), c.transpose(1, 2)).transpose(1, 2)

    return draw, {OURS: lambda x, dt, b, c: selective_scan(x, dt, rates, b, c)[0], THEIRS: theirs}


def mamba2_layer(tokens: int) -> Pair:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    ours = our_mixer(Mamba2(heads=HEADS, head_width=HEAD_WIDTH, state=STATE), 768)
    config = Mamba2Config(
        hidden_size=768, num_heads=HEADS, head_dim=HEAD_WIDTH, n_groups=1, state_size=STATE, num_hidden_layers=1
    )
    values = {name.replace("conv.", "conv1d."): value for name, value in ours.named_parameters()}
    return layers(ours, Mamba2Mixer(config, 0), values, 768, tokens)


def delta_layer(tokens: int) -> Pair:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    ours = our_mixer(GatedDeltaNet(heads=VALUE_HEADS, key_heads=KEY_HEADS, head_width=DELTA_WIDTH), 1024)
    config = Qwen3NextConfig(
        hidden_size=1024, linear_num_value_heads=VALUE_HEADS, linear_num_key_heads=KEY_HEADS, num_hidden_layers=1,
        linear_key_head_dim=DELTA_WIDTH, linear_value_head_dim=DELTA_WIDTH, layer_types=["linear_attention"],
    )  # fmt: skip
    values = dict(ours.named_parameters())

    def by_key_head(*names: str) -> torch.Tensor:
        parts = [values.pop(f"{name}.weight").unflatten(0, (KEY_HEADS, -1)) for name in names]
        return torch.cat(parts, dim=1).flatten(0, 1)

    values["in_proj_qkvz.weight"] = by_key_head("q", "k", "v", "gate")
    values["in_proj_ba.weight"] = by_key_head("beta", "dt")
    values["conv1d.weight"], values["out_proj.weight"] = values.pop("conv.weight"), values.pop("out.weight")
    return layers(ours, Qwen3NextGatedDeltaNet(config, 0), values, 1024, tokens)


def mamba_layer(tokens: int) -> Pair:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    ours = our_mixer(Mamba(state=SCAN_STATE), 768)
    config = MambaConfig(hidden_size=768, state_size=SCAN_STATE, num_hidden_layers=1)
    values = {name.replace("conv.", "conv1d."): value for name, value in ours.named_parameters()}
    return layers(ours, MambaMixer(config, 0), values, 768, tokens)


def our_mixer(spec: Any, width: int) -> Any:
    """Our mixer with small random weights and the decays of a fresh model."""
    scope = Scope(width=width, vocab_size=2, context=4096, depth=1)
    module = make(spec, scope, Factory(device=torch.device("cpu"), dtype=torch.float32))
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=gen) * (0.5 if "conv" in name else 0.02))
            if name == "A_log":
                parameter.copy_(torch.arange(1, parameter.shape[-1] + 1).float().log().expand(parameter.shape))
            elif name in {"dt_bias", "dt_proj.bias"}:
                parameter.sub_(4.0)
            elif name in {"D", "norm.weight"}:
                parameter.add_(1.0)
    return module


def layers(ours: Any, theirs: Any, values: dict[str, torch.Tensor], width: int, tokens: int) -> Pair:
    state = theirs.state_dict()
    theirs.load_state_dict({name: value.detach().reshape(state[name].shape) for name, value in values.items()})
    place = Place(positions=torch.arange(tokens))

    def output(x: torch.Tensor) -> torch.Tensor:
        found = theirs(x)
        return found[0] if isinstance(found, tuple) else found

    return lambda gen: [torch.randn(1, tokens, width, generator=gen)], {OURS: lambda x: ours(x, place), THEIRS: output}


CASES: dict[str, dict[str, Callable[[int], Pair]]] = {
    "ssd": {"recurrence": ssd, "whole mixer": mamba2_layer},
    "gated-deltanet": {"recurrence": delta, "whole mixer": delta_layer},
    "scan": {"recurrence": scan, "whole mixer": mamba_layer},
}


def turn(function: Callable[..., torch.Tensor], inputs: Inputs) -> dict[str, Any]:
    """One forward and backward pass, its times and what it came to."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    cpu, began = time.process_time(), time.perf_counter()
    y = function(*inputs)
    between = time.perf_counter()
    y.backward(torch.ones_like(y).cumsum(-1).cos())
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    times = {"forward": between - began, "both": ended - began, "cpu": cpu}
    return times | {"found": [y.detach(), *(x.grad for x in inputs)]}


def measure(pair: Pair, *, rounds: int, warmups: int) -> dict[str, list[dict[str, float]]]:
    draw, contestants = pair
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for index in range(warmups + rounds):
        inputs = draw(torch.Generator().manual_seed(index))
        names = list(contestants) if index % 2 else list(contestants)[::-1]
        turns = {name: turn(contestants[name], inputs) for name in names}
        agree(turns)
        for name, row in turns.items():
            del row["found"]
            if index >= warmups:
                rows[name].append(row)
    return rows


def agree(turns: dict[str, dict[str, Any]]) -> None:
    """Contestants that compute different things are not compared."""
    for ours, theirs in zip(turns[OURS]["found"], turns[THEIRS]["found"], strict=True):
        gap = ((ours - theirs).norm() / theirs.norm()).item()
        assert gap <= SAME, f"outputs or gradients differ by {gap:.1e}"


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "q1": low, "q3": high}


def summary(rows: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {f"{what}_ms": spread([1e3 * row[what] for row in mine]) for what in ("forward", "both", "cpu")}
        for name, mine in rows.items()
    }
    pairs = list(zip(rows[THEIRS], rows[OURS], strict=True))
    return found | {
        "times_as_fast": {
            what: spread([theirs[what] / ours[what] for theirs, ours in pairs]) for what in ("forward", "both", "cpu")
        }
    }


def table(result: dict[str, Any]) -> str:
    config = result["config"]
    lines = [
        f"{config['tokens']:,} tokens, fp32, {config['threads']} threads, {config['rounds']} rounds",
        f"{'':28}  {'ours ms':>8}  {'hf ms':>8}  {'times as fast':>13}  {'quartiles':>12}  {'CPU time':>8}  forward",
    ]
    for case, parts in result["cases"].items():
        for part, row in parts.items():
            ratio = row["times_as_fast"]
            ours, theirs = (row[name]["both_ms"]["median"] for name in (OURS, THEIRS))
            lines.append(
                f"{case + ', ' + part:28}  {ours:8,.0f}  {theirs:8,.0f}  {ratio['both']['median']:12.2f}x  "
                f"{ratio['both']['q1']:5.2f}-{ratio['both']['q3']:<6.2f}  {ratio['cpu']['median']:7.2f}x  "
                f"{ratio['forward']['median']:6.2f}x"
            )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=tuple(CASES), help="only this (repeatable)")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9, help="counted turns of each contestant")
    parser.add_argument("--warmups", type=int, default=2, help="turns of each that do not count")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    keep_freed_memory()  # for both: they share the process
    cases: dict[str, Any] = {}
    for name in asked.case or ("ssd", "gated-deltanet"):
        cases[name] = {}
        for part, make_pair in CASES[name].items():
            print(f"{name}, {part} ...", file=sys.stderr, flush=True)
            with contextlib.redirect_stderr(io.StringIO()):  # their advice to install CUDA kernels
                rows = measure(make_pair(asked.tokens), rounds=asked.rounds, warmups=asked.warmups)
            cases[name][part] = summary(rows)
    config = {"tokens": asked.tokens, "threads": asked.threads, "rounds": asked.rounds}
    result = {"schema": "vitruvius.bench.linear_mixers/1", "config": config, "cases": cases}
    print(json.dumps(result, indent=2) if asked.json else table(result))


if __name__ == "__main__":
    main()
