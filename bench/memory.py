"""Predicted against measured memory of a training step and of decoding, over a matrix of components.

    python bench/memory.py                              the whole table
    python bench/memory.py --only dense --only moe      some architectures
    python bench/memory.py --process --json             with fresh processes: what fragmentation and libraries add

A row is one architecture and one way to run it: what `vitruvius.sizing` says from the spec alone, what torch's
allocator handed out at the highest moment (weights, optimizer, temporaries inside kernels included), and the error of
the first against the second. `--device cuda` measures on a GPU, where other kernels run than the accounts describe.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.checks.memory import measure_decode
from vitruvius.runs.environment import environment
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.training import training_memory
from vitruvius.sizing.workload import Workload
from vitruvius.spec import read_with_findings as read
from vitruvius.spec import resolve
from vitruvius.training.measuring import measure_process, measure_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture

SCHEMA = "vitruvius.bench-memory/1"
SMALL = ("width=192", "context=512", "vocab_size=2048")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One architecture."""

    spec: str
    overrides: tuple[str, ...] = ()

    def architecture(self) -> Architecture:
        return read(self.spec, overrides=list(self.overrides)).architecture


CASES = {
    "dense": Case(spec="tiny-llama", overrides=(*SMALL, "layers=layer*6")),
    "untied": Case(spec="tiny-llama", overrides=(*SMALL, "head.tied=false")),
    "learned positions": Case(spec="tiny-gpt2", overrides=(*SMALL, "embedding.position.size=512")),
    "alibi": Case(spec="tiny-llama", overrides=(*SMALL, "blocks.layer.mixer.position=alibi")),
    "t5 biases": Case(spec="tiny-llama", overrides=(*SMALL, "blocks.layer.mixer.position=t5")),
    "sliding, dilated": Case(spec="tiny-longcontext", overrides=SMALL),
    "sandwich, soft caps": Case(
        spec="gemma-2-2b",
        overrides=(
            *SMALL,
            "blocks.local.mixer.heads=6",
            "blocks.local.mixer.kv_heads=3",
            "blocks.local.mixer.head_width=32",
            "blocks.local.mixer.sees=causal & sliding(128)",
            "blocks.local.ffn.hidden=512",
            "layers=(local global)*3",
        ),
    ),
    "u-net, values mixed": Case(
        spec="speedrun",
        overrides=(*SMALL, "blocks.first.mixer.heads=3", "blocks.first.ffn.hidden=768", "layers=first rest*5"),
    ),
    "moe": Case(spec="tiny-llama-moe", overrides=SMALL),
    "many experts": Case(spec="tiny-qwen3-moe", overrides=SMALL),
    "latent attention": Case(
        spec="deepseek-v3",
        overrides=(
            *SMALL,
            "blocks.dense.mixer.heads=6",
            "blocks.dense.mixer.q_rank=96",
            "blocks.dense.mixer.kv_rank=64",
            "blocks.dense.mixer.nope_width=32",
            "blocks.dense.mixer.rope_width=16",
            "blocks.dense.mixer.value_width=32",
            "blocks.dense.ffn.hidden=512",
            "blocks.moe.ffn.experts=16",
            "blocks.moe.ffn.top_k=4",
            "blocks.moe.ffn.router.groups=4",
            "blocks.moe.ffn.router.top_groups=2",
            "blocks.moe.ffn.expert.hidden=64",
            "blocks.moe.ffn.shared_expert.hidden=64",
            "layers=dense moe*2",
        ),
    ),
    "state space": Case(spec="mamba2", overrides=(*SMALL, "blocks.layer.mixer.heads=6", "layers=layer*4")),
    "delta net": Case(
        spec="gated-deltanet-hybrid",
        overrides=(
            *SMALL,
            "blocks.linear.mixer.heads=6",
            "blocks.linear.mixer.key_heads=3",
            "blocks.linear.mixer.head_width=32",
            "blocks.linear.mixer.value_width=32",
            "blocks.linear.ffn.hidden=512",
            "blocks.full.mixer.heads=6",
            "blocks.full.mixer.head_width=32",
            "layers=linear*3 full",
        ),
    ),
    "encoder-decoder": Case(
        spec="seq2seq-small",
        overrides=(
            "width=192",
            "context=256",
            "vocab_size=2048",
            "blocks.encode.mixer.heads=6",
            "blocks.decode.mixer.heads=6",
            "blocks.decode.cross.heads=6",
            "encoder.layers=encode*3",
            "layers=decode*3",
        ),
    ),
    "masked lm": Case(
        spec="context-aware-bert",
        overrides=(*SMALL, "blocks.layer.mixer.heads=6", "blocks.layer.ffn.hidden=768", "layers=layer*4"),
    ),
}
"""Designs with dimensions that a laptop measures in seconds."""

WAYS: tuple[dict[str, Any], ...] = (
    {"batch": 4, "dtype": "bf16"},
    {"batch": 1, "dtype": "fp32"},
    {"batch": 4, "dtype": "bf16", "checkpointing": "layers"},
    {"batch": 4, "dtype": "bf16", "optimizer": "muon"},
    {"batch": 2, "dtype": "bf16", "accumulate": 2},
)
"""How each is trained."""


def training_row(
    name: str, architecture: Architecture, way: dict[str, Any], *, device: str, process: bool
) -> dict[str, Any]:
    """Predicted and measured peak of one way to train."""
    measured = measure_step(architecture, device=device, **way)
    settings = {key: value for key, value in way.items() if key != "dtype"}
    said = training_memory(resolve(architecture), Workload(mode="train", weights=way["dtype"], **settings))
    row = _row(name, architecture, "train", way, said.peak, measured.peak)
    row |= {"moment": said.highest.name, "unsure_bytes": said.unsure, "measured_phases": dict(measured.phases)}
    if process:
        grown = measure_process(architecture, **way)
        row |= {"process_peak_bytes": grown.peak, "process_growth_bytes": grown.growth}
    return row


def decode_row(name: str, architecture: Architecture, *, device: str, new_tokens: int = 4) -> dict[str, Any]:
    """Predicted and measured peak of a prompt and some tokens after it."""
    tokens = architecture.context - new_tokens
    measured = measure_decode(architecture, batch=2, tokens=tokens, new_tokens=new_tokens, device=device)
    said = memory_of(resolve(architecture), Workload(batch=2, context=architecture.context))
    row = _row(name, architecture, "decode", {"batch": 2, "dtype": "bf16"}, said.peak, measured.peak)
    return row | {"moment": "prefill", "unsure_bytes": said.unsure, "measured_phases": dict(measured.phases)}


def _row(
    name: str, architecture: Architecture, work: str, way: dict[str, Any], predicted: int, measured: int
) -> dict[str, Any]:
    return {
        "component": name,
        "work": work,
        "batch": way["batch"],
        "tokens": architecture.context,
        "dtype": way["dtype"],
        "optimizer": way.get("optimizer", "adamw") if work == "train" else None,
        "checkpointing": way.get("checkpointing", "none") if work == "train" else None,
        "accumulate": way.get("accumulate", 1) if work == "train" else None,
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "error_percent": 100 * (predicted - measured) / measured,
    }


def rows(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The table, row by row."""
    for name, case in CASES.items():
        if asked.only and name not in asked.only:
            continue
        architecture = case.architecture()
        for way in WAYS if "train" in asked.work else ():
            yield training_row(name, architecture, way, device=asked.device, process=asked.process)
        if "decode" in asked.work and resolve(architecture).is_causal:
            yield decode_row(name, architecture, device=asked.device)


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    way = [row["dtype"], f"batch {row['batch']}"]
    way += [f"{row['optimizer']}"] if row["optimizer"] not in {None, "adamw"} else []
    way += ["checkpointing"] if row["checkpointing"] == "layers" else []
    way += [f"accumulate {row['accumulate']}"] if (row["accumulate"] or 1) > 1 else []
    return (
        f"{row['component']:<20} {row['work']:<7} {', '.join(way):<28} {row['predicted_bytes']:>14,} "
        f"{row['measured_bytes']:>14,} {row['error_percent']:>+7.2f} %  {row['moment']}"
    )


def main() -> int:
    """Print the table, then the worst errors; 1 where a training peak is outside the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(CASES), help="an architecture; may be repeated")
    parser.add_argument("--work", nargs="+", choices=["train", "decode"], default=["train", "decode"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--process", action="store_true", help="measure each training step in a fresh process too")
    parser.add_argument("--json", action="store_true", help="rows as JSON, with the environment they were measured in")
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    for row in rows(asked):
        found.append(row)
        sys.stderr.write(line(row) + "\n")
    if asked.json:
        print(json.dumps({"schema": SCHEMA, "environment": environment(), "rows": found}, indent=1))
    trained = [row["error_percent"] for row in found if row["work"] == "train"]
    if trained:
        sys.stderr.write(f"training: {min(trained):+.2f} % to {max(trained):+.2f} %\n")
    return 0 if all(-2 <= error <= 5 for error in trained) else 1


if __name__ == "__main__":
    raise SystemExit(main())
