"""Memory that runs out in one of two processes; prints JSON.

python oom_ranks.py DATA FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ranks import DDP, digests, go_on, in_ranks, rows, start

from vitruvius.runs import RunReader
from vitruvius.training.objectives.base import TokenObjective
from vitruvius.training.pieces import LEFT_FILE, Pieces
from vitruvius.training.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Callable

SHARDED = EngineSettings(kind="fsdp2", timeout=60)


def short_in(rank: int, *, since: int, rows: int = 1) -> None:
    """In the process of a rank, passes over more rows than these fail from a pass on."""
    passes, train = 0, TokenObjective.train

    def limited(self: Any, model: Any, piece: Any) -> Any:
        nonlocal passes
        passes += 1
        if int(os.environ["RANK"]) == rank and passes >= since and len(piece.tokens) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return train(self, model, piece)

    TokenObjective.train = limited  # type: ignore[method-assign]


def cut(since: int) -> None:
    """Twice the pieces from a step on, though nothing fails."""
    before = Pieces.before

    def halved(self: Pieces, step: int) -> None:
        self.accumulate = 2 if step >= since else self.accumulate
        before(self, step)

    Pieces.before = halved  # type: ignore[method-assign]


def told(run: Path, ends: Any) -> dict[str, Any]:
    return {
        "ends": ends,
        "rows": rows(run),
        "bits": {name: value for name, value in digests(run, 6).items() if name != "state.json"},
        "shortages": [event for event in RunReader(run).events() if event["kind"] == "out-of-memory"],
    }


def main(data: Path, folder: Path) -> dict[str, Any]:
    def played(name: str, before: Callable[[], None], kind: str = "dense", engine: EngineSettings = DDP) -> Any:
        def work(_: int) -> Any:
            before()
            return start(kind, data, folder / name, engine=engine, eval_every=0)

        return in_ranks(work, folder / f"{name}-ends")

    found = {
        "halved": told(folder / "halved", played("halved", lambda: short_in(1, since=3))),
        "smaller": told(folder / "smaller", played("smaller", lambda: cut(3))),
    }
    for name, kind, engine in (("mixture", "mixture", DDP), ("sharded", "dense", SHARDED)):
        first = played(name, lambda: short_in(1, since=3), kind, engine)
        word = json.loads((folder / name / LEFT_FILE).read_text())
        ends = in_ranks(lambda _, name=name: go_on(folder / name), folder / f"{name}-again")
        smaller = played(f"{name}-smaller", lambda: cut(3), kind, engine)
        found[name] = {"first": first, "word": word, **told(folder / name, ends)}
        found[f"{name}-smaller"] = told(folder / f"{name}-smaller", smaller)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
