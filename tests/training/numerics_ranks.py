"""Scale, ZClip, average and z-loss in one process and in two; prints JSON.

python numerics_ranks.py DATA FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from ranks import digests, ended, in_ranks, rows, start
from safetensors.torch import load_file

from vitruvius.nn import Model
from vitruvius.runs import RunReader
from vitruvius.training import resume
from vitruvius.training.settings import EngineSettings, Scaler, ZClipSettings
from vitruvius.training.stopping import StopRequest, stop_on_signals
from vitruvius.training.updating import Updater

SETTINGS: dict[str, Any] = {
    "dtype": "fp16",
    "scaler": Scaler(growth_every=2),
    "clipping": "zclip",
    "zclip": ZClipSettings(warmup=2, z=0.5, decay=0.5),
    "ema": 0.9,
    "z_loss": 1e-3,
    "eval_every": 3,
    "final_eval_batches": 2,
}
SICK = 3
"""The update, from 1, whose gradients overflow."""


def fall_ill(*, ranks: frozenset[int]) -> None:
    """Multiply the loss of update `SICK`, in the processes of these ranks alone."""
    gradients, loss, at = Updater.gradients, Model.loss, {"step": 0, "rank": 0}

    def watched(self: Updater, batch: Any, stop: StopRequest) -> Any:
        at.update(step=self.optimizer.steps + 1, rank=self.engine.rank)
        at["tries"] = at.get("tries", 0) + (at["step"] == SICK)
        return gradients(self, batch, stop)

    def sick(self: Model, *arguments: Any, **options: Any) -> Any:
        found = loss(self, *arguments, **options)
        ill = at["step"] == SICK and at["tries"] == 1 and at["rank"] in ranks and not options.get("per_token")
        return found * 1e4 if ill else found

    Updater.gradients, Model.loss = watched, sick


def healthy_then_ill(data: Path, run: Path, engine: EngineSettings | None, *, ranks: frozenset[int]) -> Any:
    fall_ill(ranks=ranks)
    engines = {} if engine is None else {"engine": engine}
    return start("mixture", data, run, **SETTINGS, **engines)


def go_on(run: Path) -> Any:
    with stop_on_signals() as stop:
        return ended(resume(run, stop=stop))


def main(data: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    everybody = frozenset({0, 1})
    in_ranks(lambda _: healthy_then_ill(data, folder / "one", None, ranks=everybody), folder / "one-ends", 1)
    found["one"] = {"rows": rows(folder / "one")}
    for kind in ("ddp", "fsdp2"):
        engine = EngineSettings(kind=kind, timeout=60)
        for name, ranks in (("all", everybody), ("second", frozenset({1}))):
            run = folder / f"{kind}-{name}"
            ends = in_ranks(
                lambda _, run=run, ranks=ranks, engine=engine: healthy_then_ill(data, run, engine, ranks=ranks),
                folder / f"{run.name}-ends",
            )
            found[run.name] = {"rows": rows(run) if run.exists() else [], "ends": ends}
        # Resumed in the middle, after the overflow: the checkpoints of the last steps are taken away.
        run = folder / f"{kind}-all"
        straight = digests(run, 6)
        average = load_file(run / "checkpoints" / "step-6" / "ema.safetensors")
        whole = load_file(run / "checkpoints" / "step-6" / "model.safetensors")
        for checkpoint in RunReader(run).checkpoints():
            if checkpoint.step > 4:
                for file in checkpoint.path.iterdir():
                    file.unlink()
                checkpoint.path.rmdir()
        ends = in_ranks(lambda _, run=run: go_on(run), folder / f"{kind}-again")
        found[f"{kind}-resumed"] = {"rows": rows(run), "ends": ends, "same": digests(run, 6) == straight}
        found[f"{kind}-resumed"]["whole"] = {name: list(each.shape) for name, each in average.items()} == {
            name: list(each.shape) for name, each in whole.items()
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
