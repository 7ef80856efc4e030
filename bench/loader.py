"""How fast batches come, and what that costs: our loader against torch's DataLoader over the same packing.

    python bench/loader.py
    python bench/loader.py --rounds 9 --batches 200 --json

Each contestant is a process of its own and reads the same batches (a digest over all of their bytes is compared). They
take turns; ratios are taken per round. The consumer does nothing, so this is what a loader can do at most.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

CONTEXT, BATCH = 1024, 32
HOOKS = {"none": [], "fim": [{"hook": "fim"}]}
CONTESTANTS = {
    "ours, no workers": ("ours", 0, "auto"),
    "ours, 1 thread": ("ours", 1, "threads"),
    "ours, 2 threads": ("ours", 2, "threads"),
    "ours, 1 process": ("ours", 1, "processes"),
    "ours, 2 processes": ("ours", 2, "processes"),
    "DataLoader, no workers": ("torch", 0, ""),
    "DataLoader, 1 worker": ("torch", 1, ""),
    "DataLoader, 2 workers": ("torch", 2, ""),
}
AGAINST = {
    "ours, no workers": "DataLoader, no workers",
    "ours, 1 thread": "DataLoader, 1 worker",
    "ours, 2 threads": "DataLoader, 2 workers",
    "ours, 1 process": "DataLoader, 1 worker",
    "ours, 2 processes": "DataLoader, 2 workers",
}


def write_data(folder: Path) -> None:
    """About six million tokens in documents of 50 to 1,200."""
    import numpy as np

    from vitruvius.data import read_index
    from vitruvius.data.packing.index import DATA_SCHEMA, fingerprint_of
    from vitruvius.data.packing.writing import SplitWriter

    draw = np.random.default_rng(0)
    index: dict[str, Any] = {"schema": DATA_SCHEMA, "vocab_size": 30_000, "dtype": "<u2", "eos": "<eos>", "eos_id": 0}
    index |= {"tokenizer": {"file": "tokenizer.json", "sha256": "0" * 64}, "splits": {}}
    for split, documents in (("train", 10_000), ("validation", 10)):
        writer = SplitWriter(folder, split, vocab_size=30_000, shard_tokens=2_000_000)
        for _ in range(documents):
            ids = draw.integers(1, 30_000, int(draw.integers(50, 1200)))
            ids[-1] = 0
            writer.add(ids, text_bytes=4 * len(ids))
        index["splits"][split] = writer.close()
    index["fingerprint"] = fingerprint_of(index)
    (folder / "index.json").write_text(json.dumps(index))
    read_index(folder)


def recipe(folder: str, hooks: str) -> Any:
    """How both sides come to the batches."""
    from vitruvius.data import PackedBatches, TokenShards
    from vitruvius.training.loading.recipe import recipe_of
    from vitruvius.training.preprocessing.use import HookUse

    batches = PackedBatches(TokenShards.open(folder, verify="sizes"), batch=BATCH, context=CONTEXT)
    return recipe_of(batches, tuple(HookUse(**use) for use in HOOKS[hooks]), vocab_size=30_010)


class Batches:
    """A dataset of whole batches, for DataLoader's workers to open where they are."""

    def __init__(self, plain: dict[str, Any]) -> None:
        self.plain, self.reader = plain, None

    def __getitem__(self, number: int) -> dict[str, Any]:
        if self.reader is None:
            from vitruvius.training.loading.recipe import Recipe

            self.reader = Recipe.from_plain(self.plain).reader()
        batch = self.reader.read(number)
        names = ("inputs", "targets", "documents", "crosses", "sample_ids", "epochs")
        return {name: getattr(batch, name) for name in names}

    def __len__(self) -> int:
        return 1 << 30


def ours(folder: str, hooks: str, workers: int, by: str) -> Any:
    """Our loader's batches from 0 on."""
    from vitruvius.data import PackedBatches, TokenShards
    from vitruvius.training import TrainConfig
    from vitruvius.training.loading import BatchLoader
    from vitruvius.training.preprocessing.use import HookUse
    from vitruvius.training.settings import Loader

    uses = tuple(HookUse(**use) for use in HOOKS[hooks])
    config = TrainConfig(steps=10**9, preprocess=uses, loader=Loader(workers=workers, by=by or "auto", ahead=4))
    batches = PackedBatches(TokenShards.open(folder, verify="sizes"), batch=BATCH, context=CONTEXT)
    with closing(BatchLoader(batches, config, vocab_size=30_010)) as loader:
        number = 0
        while True:
            batch = loader.at(number)
            yield [batch.inputs, batch.targets, batch.documents, batch.crosses, batch.sample_ids, batch.epochs]
            number += 1


def theirs(folder: str, hooks: str, workers: int) -> Any:
    """DataLoader's batches from 0 on; workers are spawned, as ours are."""
    from torch.utils.data import DataLoader

    more = {"multiprocessing_context": "spawn", "prefetch_factor": max(1, 4 // workers)} if workers else {}
    dataset = Batches(recipe(folder, hooks).to_plain())
    for batch in DataLoader(dataset, batch_size=None, shuffle=False, num_workers=workers, **more):
        yield [array.numpy() for array in batch.values()]


def contestant(folder: str, hooks: str, name: str, batches: int) -> dict[str, Any]:
    """Take batches; how long that took, and what."""
    kind, workers, by = CONTESTANTS[name]
    before = time.perf_counter()
    source = ours(folder, hooks, workers, by) if kind == "ours" else theirs(folder, hooks, workers)
    digest = hashlib.blake2b()
    first = next(source)
    startup = time.perf_counter() - before
    for array in first:
        digest.update(array.data)
    began = time.perf_counter()
    for _ in range(batches):
        arrays = next(source)
        for array in arrays:
            digest.update(array[:1].tobytes())
    seconds = time.perf_counter() - began
    worker_bytes = [_private(pid) for pid in _children()]
    source.close()
    total = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "startup": startup,
        "per_second": batches / seconds,
        "cpu": sum(use.ru_utime + use.ru_stime for use in total),
        "worker_mib": max(worker_bytes, default=0) / 2**20,
        "digest": digest.hexdigest(),
    }


def _children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


def _private(pid: str) -> int:
    """Bytes of a process that are its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def transfer(rounds: int) -> dict[str, float]:
    """Milliseconds until the run has a batch that another process has ready: through a pipe and from shared memory."""
    import numpy as np

    from vitruvius.data.packing.batches import Batch
    from vitruvius.training.loading.memory import Layout, SharedMemory

    rows = {name: np.zeros((BATCH, CONTEXT), dtype=np.int64) for name in ("inputs", "targets", "documents")}
    ids = {name: np.zeros(BATCH, dtype=np.int64) for name in ("sample_ids", "epochs")}
    batch = Batch(**rows, **ids, crosses=np.zeros((BATCH, CONTEXT), dtype=bool))
    memory = SharedMemory.made(Layout(workers=1, slots=1, samples=BATCH, context=CONTEXT))
    size = memory.layout.slot_bytes
    code = f"import os\ndata = bytes({size})\nwhile True:\n left = memoryview(data)\n"
    code += " while left: left = left[os.write(1, left):]"
    pipe, shared = [], []
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, bufsize=0) as child:
        shape = memory.put(0, batch)
        for _ in range(rounds * 20):
            began, done = time.perf_counter(), 0
            target = memoryview(bytearray(size))
            while done < size:
                done += child.stdout.readinto(target[done:])
            pipe.append(time.perf_counter() - began)
            began = time.perf_counter()
            memory.get(0, shape)
            shared.append(time.perf_counter() - began)
        child.kill()
    memory.close()
    return {"bytes": size, "pipe_ms": statistics.median(pipe) * 1e3, "shared_ms": statistics.median(shared) * 1e3}


def measure(rounds: int, batches: int) -> dict[str, Any]:
    """Everything, in turns."""
    found: dict[str, Any] = {"hooks": {}}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for hooks in HOOKS:
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
            for round_number in range(rounds):
                names = list(CONTESTANTS)
                for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
                    command = [sys.executable, __file__, "--one", folder, hooks, name, str(batches)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    runs[name].append(json.loads(done.stdout))
            assert len({run["digest"] for each in runs.values() for run in each}) == 1, "they read other batches"
            found["hooks"][hooks] = runs
    found["transfer"] = transfer(rounds)
    return found


def rows(found: dict[str, Any]) -> list[list[str]]:
    """The table."""
    lines = []
    for hooks, runs in found["hooks"].items():
        for name, each in runs.items():
            other = AGAINST.get(name)
            ratio = cost = ""
            if other is not None:
                costs = [a["cpu"] / b["cpu"] for a, b in zip(each, runs[other], strict=True)]
                cost = f"**{statistics.median(costs):.2f}** ({min(costs):.2f} to {max(costs):.2f})"
                ratios = [a["per_second"] / b["per_second"] for a, b in zip(each, runs[other], strict=True)]
                ratio = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
            middle = {
                key: statistics.median(run[key] for run in each)
                for key in ("startup", "per_second", "cpu", "worker_mib")
            }
            memory = f"{middle['worker_mib']:.0f}" if middle["worker_mib"] else ""
            lines.append(
                [
                    hooks,
                    name,
                    f"{middle['per_second']:.0f}",
                    f"{middle['startup']:.2f}",
                    f"{middle['cpu']:.2f}",
                    memory,
                    ratio,
                    cost,
                ]
            )
    return lines


HEAD = ["Hooks", "Loader", "Batches/s", "First batch, s", "CPU s", "Own MiB per worker", "Speed ratio", "CPU ratio"]


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--one"]:
        folder, hooks, name, batches = sys.argv[2:]
        print(json.dumps(contestant(folder, hooks, name, int(batches))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.rounds, asked.batches)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    for line in [HEAD, ["---"] * len(HEAD), *rows(found)]:
        print("| " + " | ".join(line) + " |")
    sent = found["transfer"]
    print(f"\n{sent['bytes']:,} bytes: {sent['pipe_ms']:.2f} ms by pipe, {sent['shared_ms']:.2f} ms by shared memory")


if __name__ == "__main__":
    main()
