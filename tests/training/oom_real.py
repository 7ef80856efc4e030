"""Trains in a process whose address space is limited, so that an allocation really fails; prints JSON.

python oom_real.py DATA RUN ACCUMULATE [TENSORS]
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from vitruvius.nn.ops import hold_reserve
from vitruvius.runs import RunReader
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, train
from vitruvius.training.settings import Watch
from vitruvius.training.updating import Updater

DESIGN = ["width=32", "context=256", "vocab_size=320", "blocks.layer.mixer.heads=2", "blocks.layer.mixer.kv_heads=1"]
DESIGN += ["blocks.layer.ffn.hidden=4096", "layers=layer*1"]
BATCH = 64
LARGEST = BATCH * 256 * 4096 * 2
"""Bytes of each tensor that the feed-forward keeps (four of them); between two of those, little else is allocated.

One of them is to fail, and nothing small: a library in C that gets no hundred bytes may end the process by a signal.
"""


def limit_before_the_first_update(room: int) -> None:
    """Limit the address space to so many bytes more than are taken when the first update begins."""
    gradients = Updater.gradients

    def limited(self: Updater, *arguments: Any) -> Any:
        if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
            limit = taken("VmSize") + room
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            hold_reserve()
        return gradients(self, *arguments)

    Updater.gradients = limited


def taken(name: str) -> int:
    """Bytes that the system says of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def main(data: str, run: str, accumulate: int, tensors: float | None) -> None:
    torch.set_num_threads(1)
    if tensors is not None:
        limit_before_the_first_update(int(tensors * LARGEST))
    config = TrainConfig(
        steps=2, batch=BATCH, accumulate=accumulate, threads=1, eval_every=0, final_eval_batches=1,
        memory_check="warn", watch=Watch(every=None),
    )  # fmt: skip
    result = train(preset("tiny-llama", overrides=DESIGN), data=data, out=run, config=config)
    reader = RunReader(run)
    print(
        json.dumps(
            {
                "status": result.status,
                "peak": taken("VmPeak"),
                "largest": LARGEST,
                "losses": [row["loss"] for row in reader.metrics()],
                "shortages": [event for event in reader.events() if event["kind"] == "out-of-memory"],
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]) if len(sys.argv) > 4 else None)
