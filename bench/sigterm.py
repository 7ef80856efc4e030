"""How long a run takes to leave after SIGTERM, its checkpoint written, verified and renamed.

    python bench/sigterm.py                                 three runs, eight signals each
    python bench/sigterm.py --signals 20 --json
    python bench/sigterm.py --write docs/benchmarks/sigterm.md

Each run is `vitruvius train` in a process of its own. The signal comes at a moment drawn at random within the updates
after the third, so it meets every part of one: reading, forward, backward, the optimizer, a row being written. Then the
exit code (75) and the newest checkpoint are looked at: it must hold the last update that the metrics have. Seconds are
those from the signal until the process is gone, the unloading of torch included, on the disk under --folder.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from checkpoint import SPEC

from vitruvius.data import PrepareOptions, prepare
from vitruvius.runs import RunReader
from vitruvius.runs.environment import environment

STOPPED = 75
RUNS: dict[str, tuple[list[str], list[str]]] = {
    "tiny-llama": ([], ["--batch", "8", "--context", "128"]),
    "47 M parameters": (SPEC, ["--batch", "1", "--context", "256"]),
    "47 M, accumulate 16": (SPEC, ["--batch", "16", "--context", "256", "--set", "train.accumulate=16"]),
}
QUIET = ["--set", "train.eval_every=0", "--steps", "1000000", "--checkpoint-every", "1000000"]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The metrics so far; none before the run has its folder."""
    return list(RunReader(folder).metrics()) if (folder / "run.json").exists() else []


def one(name: str, data: Path, folder: Path, drawn: random.Random) -> dict[str, float]:
    """Start, signal, wait."""
    fields, flags = RUNS[name]
    sets = [word for field in fields for word in ("--set", field)]
    command = [sys.executable, "-m", "vitruvius", "train", "tiny-llama", *sets, *flags, *QUIET]
    process = subprocess.Popen(
        [*command, "--data", str(data), "--out", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while len(rows_of(folder)) < 3:
        if process.poll() is not None:
            assert process.stderr is not None
            raise SystemExit(f"{name} ended by itself: {process.stderr.read().decode()[-500:]}")
        time.sleep(0.05)
    each = statistics.median(row["tokens"] / row["step"] / row["tokens_per_second"] for row in rows_of(folder)[1:])
    time.sleep(drawn.uniform(0, 2 * each))
    process.send_signal(signal.SIGTERM)
    began = time.perf_counter()
    process.communicate()
    seconds = time.perf_counter() - began
    newest = RunReader(folder).checkpoints()[-1]
    rows = rows_of(folder)
    if process.returncode != STOPPED or newest.step != rows[-1]["step"]:
        raise SystemExit(f"{name}: exit code {process.returncode}, checkpoint {newest.step}, rows {rows[-1]['step']}")
    size = sum(file.stat().st_size for file in newest.path.iterdir())
    return {"seconds": seconds, "update_seconds": each, "bytes": size}


def measure(signals: int, folder: Path | None, seed: int) -> dict[str, Any]:
    """Every run, so many times."""
    drawn = random.Random(seed)
    found: dict[str, Any] = {"seed": seed, "signals": signals, "environment": environment(), "runs": {}}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        text = " ".join(str(drawn.randrange(1000)) for _ in range(200_000))
        (place / "text.txt").write_text(text)
        prepare([place / "text.txt"], place / "data", PrepareOptions(vocab=512, held_out=0.0))
        for case in RUNS:
            times = []
            for _ in range(signals):
                times.append(one(case, place / "data", place / "run", drawn))
                shutil.rmtree(place / "run")
            found["runs"][case] = {
                "bytes": times[0]["bytes"],
                "update_seconds": statistics.median(each["update_seconds"] for each in times),
                "median": statistics.median(each["seconds"] for each in times),
                "most": max(each["seconds"] for each in times),
            }
    return found


def page(found: dict[str, Any]) -> str:
    """The page of docs."""
    made = found["environment"]
    where = (
        f"Written by `bench/sigterm.py` on {datetime.now(UTC):%Y-%m-%d}; {made['cpu']}, {made['cores']} cores shared "
        f"with others; python {made['python']}, torch {made['packages']['torch']}; seed {found['seed']}."
    )
    what = (
        f"{found['signals']} signals for each run, at random moments of an update. All left with 75 and a checkpoint "
        "of the newest state, written, flushed to the disk, read back and compared. Seconds from the signal until the "
        "process is gone."
    )
    lines = [
        *("# SIGTERM: how long a run takes to leave", "", where, "", what, ""),
        "| Run | Checkpoint | An update | Median | Longest |",
        "|---|---|---|---|---|",
    ]
    for name, run in found["runs"].items():
        seconds = " | ".join(f"{run[key]:.2f} s" for key in ("update_seconds", "median", "most"))
        lines.append(f"| {name} | {run['bytes'] / 1e6:,.0f} MB | {seconds} |")
    lines += ["", "The bar is 10 s. What is left of the update, or of its piece, and the disk decide: see"]
    lines[-1] += " [checkpoints](../training/checkpoints.md)."
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the page when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=8, help="for each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to write; the file system matters")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="the page of docs")
    asked = parser.parse_args()
    found = measure(asked.signals, asked.folder, asked.seed)
    print(json.dumps(found, indent=2) if asked.json else page(found))
    if asked.write:
        asked.write.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
