"""Trains in a process whose address space is limited, so that an allocation really fails; prints JSON.

python oom_real.py DATA RUN ACCUMULATE [BYTES]
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch

from vitruvius.runs import RunReader
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, train
from vitruvius.training.settings import Watch

DESIGN = ["width=64", "context=256", "vocab_size=320", "blocks.layer.mixer.heads=2", "blocks.layer.mixer.kv_heads=1"]
DESIGN += ["blocks.layer.ffn.hidden=256", "layers=layer*4"]


def main(data: str, run: str, accumulate: int, limit: int | None) -> None:
    torch.set_num_threads(1)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    config = TrainConfig(
        steps=2, batch=192, accumulate=accumulate, threads=1, eval_every=0, final_eval_batches=1,
        memory_check="warn", watch=Watch(every=None),
    )  # fmt: skip
    result = train(preset("tiny-llama", overrides=DESIGN), data=data, out=run, config=config)
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmPeak"))
    reader = RunReader(run)
    print(
        json.dumps(
            {
                "status": result.status,
                "peak": peak,
                "losses": [row["loss"] for row in reader.metrics()],
                "shortages": [event for event in reader.events() if event["kind"] == "out-of-memory"],
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
