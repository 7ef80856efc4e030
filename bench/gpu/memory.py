"""Predicted against measured peak memory of an update on a card, over a grid of settings.

    python bench/gpu/memory.py --out memory.json
    python bench/gpu/memory.py --model longcontext --way checkpointing --way 8-bit
    python bench/gpu/memory.py --device cpu --small --json

Predicted: what `vitruvius.sizing` says from the spec alone. Measured: the most that torch's allocator had handed out at
any moment of the second update (on a CPU the profiler adds up its blocks). The sizing accounts describe our kernels for
CPUs; on a card FlexAttention, flash and CUDA's own temporaries stand in their place, and the error column says by how
much that matters. No row fails: this bench finds out.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from card import Results, arguments, gigabytes, hardware_of, require, say, table, total_memory
from cases import CASES, small
from throughput_worker import batch_of, drawn_on, tokens

from vitruvius.checks.memory import measured_on
from vitruvius.spec import resolve
from vitruvius.training.config import TrainConfig, resolved
from vitruvius.training.numerics import numerics_of
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import make_optimizer
from vitruvius.training.room import memory_of_run
from vitruvius.training.stopping import StopRequest
from vitruvius.training.updating import Updater

if TYPE_CHECKING:
    from collections.abc import Callable

    from cases import Case

SCHEMA = "vitruvius.bench.gpu_memory/1"
MODELS = {
    "llama-moe": replace(CASES["llama-moe"], batch=2),
    "longcontext": replace(CASES["longcontext"], context=8192),
}
"""1B class, with short enough steps that all ways fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How an update is made."""

    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of `train.*`."""
    samples: int = 1
    """How many times the batch of the model."""
    note: str = ""
    when: Literal["always", "asked"] = "always"
    """`asked`: only where `--way` names it."""


WAYS = {
    "plain": Way(),
    "checkpointing": Way(settings={"checkpointing": "layers"}),
    "checkpointing 1 of 2": Way(settings={"checkpointing": "layers/2"}),
    "checkpointing 1 of 4": Way(settings={"checkpointing": "layers/4"}),
    "accumulate 4": Way(settings={"accumulate": 4}, samples=4),
    "8-bit": Way(settings={"optimizer": "adamw-8bit"}),
    "8-bit, checkpointing": Way(settings={"optimizer": "adamw-8bit", "checkpointing": "layers"}),
    "paged 8-bit": Way(
        settings={"optimizer": "adamw-8bit-paged"},
        note="moments are CUDA's managed memory, outside the allocator",
        when="asked",
    ),
    "ema": Way(settings={"ema": 0.999}),
    "z-loss": Way(settings={"z_loss": 1e-4}, note="not in the prediction"),
    "muon": Way(settings={"optimizer": "muon"}),
    "fp32": Way(settings={"dtype": "fp32"}),
    "documents apart": Way(settings={"documents": "separate"}),
}


class Work:
    """Updates as `vitruvius train` does them, companions included."""

    def __init__(self, case: Case, config: TrainConfig, device: str) -> None:
        architecture = case.architecture
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[config.dtype]
        self.model = drawn_on(architecture, dtype, device)
        self.model.checkpointing = config.checkpointing
        self.optimizer = make_optimizer(self.model, config)
        self.updater = Updater(
            config=config,
            model=self.model,
            optimizer=self.optimizer,
            objective=make_objective(config),
            device=torch.device(device),
            companions=tuple(numerics_of(config)),
        )
        wide = replace(case, batch=config.batch)
        self.batch = batch_of(tokens(wide, architecture.vocab_size, 1))
        if config.documents == "separate":
            third = max(1, case.context // 3)
            self.batch.documents[:] = torch.arange(case.context).div(third, rounding_mode="floor").numpy()

    def run(self, done: Callable[[str], None]) -> None:
        """One update."""
        gathered = self.updater.gradients(self.batch, StopRequest())
        assert gathered is not None
        done("gradients")
        self.updater.apply(gathered, lr=1e-4, clip=1.0)
        done("update")


def row_of(name: str, case: Case, label: str, way: Way, asked: Any, room: int | None) -> dict[str, Any]:
    """One way to train one model."""
    architecture = case.architecture
    config = resolved(
        TrainConfig(
            **{"documents": "joined", "device": asked.device, "batch": case.batch * way.samples, **way.settings}
        ),
        architecture,
    )
    said = memory_of_run(architecture, replace(config, threads=torch.get_num_threads()))
    row: dict[str, Any] = {
        "model": name,
        "way": label,
        "settings": way.settings,
        "note": way.note,
        "parameters": sum(tensor.count for tensor in resolve(architecture).tensors().values()),
        "batch": config.batch,
        "context_tokens": case.context,
        "command": case.command,
        "predicted_bytes": said.peak,
        "predicted_moment": said.highest.name,
        "margin_bytes": said.margin,
        "unsure_bytes": said.unsure,
        "measured_bytes": None,
        "measured_phases": None,
        "at_rest_bytes": None,
        "reserved_bytes": None,
        "error_percent": None,
        "why_not": None,
    }
    if room is not None and said.peak > 0.9 * room:
        return {**row, "why_not": f"predicted {gigabytes(said.peak)} of {gigabytes(room)}"}
    if asked.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        measured = measured_on(asked.device, lambda: Work(case, config, asked.device))
    except Exception as raised:  # noqa: BLE001 (the other rows go on)
        return {**row, "why_not": f"{type(raised).__name__}: {raised}"[:500]}
    finally:
        gc.collect()
        if asked.device == "cuda":
            row["reserved_bytes"] = torch.cuda.max_memory_reserved()
            torch.cuda.empty_cache()
    return {
        **row,
        "measured_bytes": measured.peak,
        "measured_phases": dict(measured.phases),
        "at_rest_bytes": measured.before,
        "error_percent": 100 * (said.peak - measured.peak) / measured.peak,
    }


def page(data: dict[str, Any]) -> str:
    """The table."""
    rows = [
        [
            row["model"],
            row["way"],
            f"{row['batch']} x {row['context_tokens']:,}",
            gigabytes(row["predicted_bytes"]),
            gigabytes(row["measured_bytes"]),
            "" if row["error_percent"] is None else f"{row['error_percent']:+.1f} %",
            gigabytes(row["reserved_bytes"]),
            row["why_not"] or row["note"],
        ]
        for row in data["rows"]
    ]
    specs = dict.fromkeys(
        f"- `{row['model']}`: {row['parameters']:,} parameters, `{row['command']}`" for row in data["rows"]
    )
    return "\n".join(
        [
            table(("model", "way", "update", "predicted", "measured", "error", "reserved", ""), rows),
            "",
            (
                "Error: predicted less measured, over measured. Reserved: what the allocator had taken from the card, "
                "which fragmentation adds to. cuBLAS's workspaces were there before and are not counted."
            ),
            "",
            *specs,
        ]
    )


def main() -> int:
    """Measure what was asked for; 1 where nothing could be measured."""
    parser = arguments(__doc__)
    parser.add_argument("--model", action="append", choices=tuple(MODELS), help="only this one (repeatable)")
    parser.add_argument("--way", action="append", choices=tuple(WAYS), help="only this one (repeatable)")
    asked = parser.parse_args()
    require(asked.device)
    if asked.small:
        torch.set_num_threads(1)
    results = Results(
        schema=SCHEMA,
        asked=asked,
        hardware=hardware_of(asked.device, asked.on),
        page=page,
        title="Memory of an update on a card, predicted and measured",
        script="memory.py",
    )
    for label in asked.way or [label for label, way in WAYS.items() if way.when == "always"]:
        for name in asked.model or MODELS:
            if not results.in_time:
                results.note(f"{name}, {label}: not started, out of time")
                continue
            case = small(MODELS[name]) if asked.small else MODELS[name]
            row = row_of(name, case, label, WAYS[label], asked, total_memory(asked.device))
            results.add(row)
            off = row["why_not"] if row["error_percent"] is None else f"{row['error_percent']:+.1f} %"
            say(f"{name}, {label}: {off}")
    results.end()
    return 0 if any(row["measured_bytes"] is not None for row in results.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
