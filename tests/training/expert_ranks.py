"""Trains in processes that divide the experts of a model, as `sharded_ranks.py` does with all of it; prints JSON.

python expert_ranks.py DATA FOLDER SCENARIO [CASE ...]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ranks
import sharded_ranks
import torch
from ranks import MIXTURE, before_update, digests, go_on, in_ranks, rows, start
from sharded_ranks import EVEN_MIXTURE, QUIET, _loaded, _stored

from vitruvius.runs import RunReader
from vitruvius.spec import from_plain, preset, to_data
from vitruvius.training.settings import EngineSettings, Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.spec import Architecture
    from vitruvius.training.loop import Trainer

FSDP = EngineSettings(kind="fsdp2", expert_parallel=2, timeout=60)
DDP = replace(FSDP, kind="ddp")
TENSOR = replace(FSDP, tensor_parallel=2)
PLAIN = replace(FSDP, expert_parallel=1)
EXPERT = "blocks.moe.ffn.expert"
KINDS: dict[str, list[str]] = {
    "capacity": ["blocks.moe.ffn.capacity=1"],
    "shared-gated": [
        "blocks.moe.ffn.shared_expert={kind: swiglu, hidden: 16}",
        "blocks.moe.ffn.shared_gate=sigmoid",
    ],
    "hash": ["blocks.moe.ffn.router={kind: hash}"],
    "noisy": ["blocks.moe.ffn.router={kind: softmax, noise: 0.5, z_loss: 0.01, balance_loss: 0.02}"],
    "with-biases": [f"{EXPERT}={{kind: mlp, hidden: 16, bias: true}}"],
    "repeated": ["layers=dense^2 moe^2"],
    # A width that torch's grouped product does not take.
    "odd": [f"{EXPERT}.hidden=15"],
}


def _ahead(plain: Any) -> None:
    plain["mtp"] = {"depth": 2, "block": "moe", "loss_weight": 0.3}


def _parallel(plain: Any) -> None:
    plain["blocks"]["moe"]["order"] = "parallel"


def _expert_choice(plain: Any) -> None:
    plain["head"] = {"kind": "mlm"}
    plain["blocks"]["dense"]["mixer"]["sees"] = plain["blocks"]["moe"]["mixer"]["sees"] = "everything"
    plain["blocks"]["moe"]["ffn"]["router"] = {"kind": "expert-choice"}


def _pairs(plain: Any) -> None:
    moe = plain["blocks"]["moe"]
    plain["blocks"]["read"] = {**moe, "mixer": {**moe["mixer"], "sees": "everything"}}
    moe["cross"] = {"kind": "attention", "heads": 2}
    plain["blocks"]["dense"]["cross"] = {"kind": "attention", "heads": 2}
    plain["encoder"] = {"layers": "read"}


CHANGES: dict[str, Callable[[Any], None]] = {
    "ahead": _ahead,
    "parallel": _parallel,
    "expert-choice": _expert_choice,
    "encoder-decoder": _pairs,
}


def architecture_of(kind: str) -> Architecture:
    """Mixtures of every kind, or what `sharded_ranks.py` has."""
    if kind in KINDS:
        return preset("tiny-llama-moe", overrides=[*MIXTURE, *KINDS[kind]])
    if kind in CHANGES:
        plain = to_data(preset("tiny-llama-moe", overrides=EVEN_MIXTURE))
        CHANGES[kind](plain)
        return from_plain(plain)
    return _others(kind)


_others = sharded_ranks.architecture_of
ranks.architecture_of = architecture_of

CASES: dict[str, tuple[str, int, EngineSettings, dict[str, Any]]] = {
    "mixture": ("mixture", 2, FSDP, {}),
    "ddp": ("mixture", 2, DDP, {}),
    "biased": ("biased", 2, FSDP, {"accumulate": 2, "checkpointing": "layers"}),
    "ddp-biased": ("biased", 2, DDP, {"accumulate": 2, "checkpointing": "layers"}),
    "many-experts": ("many", 2, FSDP, {}),
    **{name: (name, 2, FSDP, {}) for name in KINDS if name != "capacity"},
    "ahead": ("ahead", 2, FSDP, {"checkpointing": "layers"}),
    "parallel": ("parallel", 2, FSDP, {}),
    "expert-choice": ("expert-choice", 2, FSDP, {"mask_token": 310}),
    "encoder-decoder": ("encoder-decoder", 2, FSDP, {}),
    "curriculum": ("mixture", 2, FSDP, {"packing": "by-length"}),
    "muon": ("mixture", 2, FSDP, {"optimizer": "muon", "muon_dtype": "fp32"}),
    "ddp-muon": ("mixture", 2, DDP, {"optimizer": "muon", "muon_dtype": "fp32", "ema": 0.9}),
    "average": ("biased", 2, FSDP, {"ema": 0.9, "z_loss": 1e-3}),
    "bf16": ("mixture", 2, FSDP, {"dtype": "bf16"}),
    "copies": ("mixture", 4, FSDP, {"checkpointing": "layers"}),
    "ddp-copies": ("mixture", 4, DDP, {"accumulate": 1, "optimizer": "muon", "muon_dtype": "fp32"}),
    "tensor": ("even-mixture", 4, TENSOR, {}),
    "four": ("mixture", 4, replace(FSDP, expert_parallel=4), {}),
}
"""Name -> architecture, processes, how they share the work, settings."""
TWINS = (
    "deepseek-v3",
    "jamba-like",
    "llama-moe",
    "llama-moe-16e",
    "llama-moe-70b",
    "mixtral-8x7b",
    "qwen3-30b-a3b",
    "tiny-llama-moe",
    "tiny-mixtral",
    "tiny-qwen3-moe",
)
"""Every preset with a mixture."""
CASES |= {f"twin-{name}": (f"twin:{name}", 2, FSDP, {"context": 16}) for name in TWINS}
CASES |= {f"ddp-twin-{name}": (f"twin:{name}", 2, DDP, {"context": 16}) for name in TWINS}


def equal(data: Path, folder: Path, *names: str) -> Any:
    """One process, and several that divide the experts of its model."""
    found = {}
    for name in names:
        kind, count, engine, settings = CASES[name]
        shared: dict[str, Any] = {
            "steps": 4,
            "checkpoint_every": 4,
            "eval_every": 2,
            "guard": Guard(every=2),
            **settings,
        }
        one, many = folder / f"{name}-1", folder / f"{name}-n"
        start(kind, data, one, **shared)

        def work(_: int, kind: str = kind, run: Path = many, engine: Any = engine, shared: Any = shared) -> Any:
            return start(kind, data, run, engine=engine, **shared)

        ends = in_ranks(work, folder / f"{name}-ends", count)
        stored = [_stored(run, 4) for run in (one, many) if run.exists()]
        found[name] = {
            "one": rows(one),
            "two": rows(many) if many.exists() else [],
            "ends": ends,
            "shapes": [{key: [str(t.dtype), *t.shape] for key, t in each.items()} for each in stored],
        }
    return found


SCENARIOS: dict[str, Callable[..., Any]] = {each.__name__: each for each in (equal,)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(SCENARIOS[sys.argv[3]](Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[4:])))
