"""What the guard's detectors cost: the time of a reading over the time of the updates between two of them.

    python bench/guard_cost.py                      # a table, in about two minutes
    python bench/guard_cost.py --json

Detectors read in every tenth update of a run; what they take is `guard_seconds` of those rows, what an update takes is
the median over the rows between, of the same run. The share at the default interval is their ratio over that interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from vitruvius.data import PrepareOptions, prepare
from vitruvius.data.corpora.python_sources import fetch_standard_library
from vitruvius.runs import RunReader
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, train
from vitruvius.training.settings import Guard, Watch

CASES = (
    ("tiny-llama", 1, 512),
    ("tiny-llama", 4, 128),
    ("tiny-llama-moe", 4, 128),
    ("tiny-longcontext", 1, 1024),
    ("tiny-longcontext", 8, 256),
)
EVERY, STEPS, VOCABULARY = 10, 80, 1024


def measure(name: str, batch: int, context: int, data: Path, out: Path) -> dict[str, Any]:
    """One run."""
    architecture = preset(name, overrides=[f"context={context}", f"vocab_size={VOCABULARY}"])
    config = TrainConfig(
        steps=STEPS,
        batch=batch,
        threads=1,
        eval_every=0,
        final_eval_batches=1,
        checkpoint_every=STEPS,
        guard=Guard(every=EVERY),
        watch=Watch(every=None),
    )
    train(architecture, data=data, out=out, config=config)
    rows = [row for row in RunReader(out).metrics() if row["step"] > EVERY]
    plain = [batch * context / row["tokens_per_second"] for row in rows if "guard_seconds" not in row]
    reading = [row["guard_seconds"] for row in rows if "guard_seconds" in row]
    ratio = statistics.median(reading) / statistics.median(plain)
    return {
        "model": name,
        "batch": batch,
        "context": context,
        "update_seconds": statistics.median(plain),
        "reading_seconds": statistics.median(reading),
        "reading_over_update": ratio,
        "share_at_default": ratio / (Guard().every or 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fetch_standard_library(root / "corpus", limit_bytes=2_000_000)
        prepare([root / "corpus"], root / "data", PrepareOptions(vocab=VOCABULARY, held_out=0.05))
        found = [measure(*case, root / "data", root / f"run-{number}") for number, case in enumerate(CASES)]
    if chosen.json:
        print(json.dumps(found, indent=1))
        return
    print(f"| Model, batch | An update | A reading | A reading over an update | Share at every {Guard().every} |")
    print("|---|---|---|---|---|")
    for each in found:
        print(
            f"| {each['model']}, {each['batch']} x {each['context']} | {each['update_seconds'] * 1e3:.0f} ms "
            f"| {each['reading_seconds'] * 1e3:.0f} ms | {each['reading_over_update']:.2f} "
            f"| {each['share_at_default']:.2%} |"
        )


if __name__ == "__main__":
    main()
