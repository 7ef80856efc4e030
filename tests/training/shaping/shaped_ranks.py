"""One process and two under a schedule by step, one by a signal of validation and one of the watch; prints JSON.

python shaped_ranks.py DATA FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ranks import (  # pyright: ignore[reportMissingImports]
    DDP,
    before_update,
    digests,
    go_on,
    in_ranks,
    rows,
    start,
)

from vitruvius.runs import RunReader
from vitruvius.training.settings import Watch
from vitruvius.training.settings.shape import Plateau, ShapeSchedule, Signal

SHAPE = (
    ShapeSchedule(field="blocks.*.mixer.sees.sliding", steps={0: 2, 4: 4}, between="linear", every=1),
    ShapeSchedule(field="blocks.moe.ffn.router.noise", steps={0: 1.0, 3: 0.5}),
    ShapeSchedule(
        field="blocks.moe.ffn.top_k",
        when=Signal(signal="val_loss", plateau=Plateau(patience=1, min_change=9.0)),
        then=(1,),
    ),
    ShapeSchedule(field="head.softcap", when=Signal(signal="attention_entropy", above=0.0), then=(30.0,)),
)
SETTINGS: dict[str, Any] = {"shape": SHAPE, "eval_every": 2, "watch": Watch(every=2)}


def shapes(run: Path) -> list[Any]:
    return [[e["step"], e["field"], e["to"]] for e in RunReader(run).events() if e["kind"] == "shape"]


def main(data: Path, folder: Path) -> Any:
    one, two, halves = folder / "one", folder / "two", folder / "halves"
    start("mixture", data, one, **SETTINGS)
    ends = in_ranks(lambda _: start("mixture", data, two, engine=DDP, **SETTINGS), folder / "ends")

    def stopped(rank: int) -> Any:
        if rank == 1:
            before_update(4, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        return start("mixture", data, halves, engine=DDP, **SETTINGS)

    first = in_ranks(stopped, folder / "first")
    second = in_ranks(lambda _: go_on(halves), folder / "second")
    return {
        "ends": ends,
        "one": rows(one),
        "two": rows(two),
        "shapes": [shapes(one), shapes(two)],
        "stopped": [end["value"] for end in first],
        "again": [end["value"] for end in second],
        "same": digests(halves, 6) == digests(two, 6),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
