"""Trains in processes that share one model, as `ranks.py` does with those that have one each; prints JSON.

python sharded_ranks.py DATA FOLDER SCENARIO [CASE ...]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ranks
import torch
from ranks import DENSE, MIXTURE, before_update, digests, ended, go_on, in_ranks, rows, start
from safetensors.torch import load_file

from vitruvius.runs import RunReader
from vitruvius.spec import from_plain, preset, shrink, to_data
from vitruvius.training import resume
from vitruvius.training.loop import Trainer
from vitruvius.training.settings import EngineSettings, Guard
from vitruvius.training.stopping import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.spec import Architecture

FSDP = EngineSettings(kind="fsdp2", timeout=60)
EVEN = [text.replace("kv_heads=1", "kv_heads=2") for text in DENSE]
EVEN_MIXTURE = [text.replace("kv_heads=1", "kv_heads=2") for text in MIXTURE]
QUIET = {"eval_every": 0, "guard": Guard(every=None)}


def of_two(degree: int) -> EngineSettings:
    return replace(FSDP, tensor_parallel=degree)


def architecture_of(kind: str) -> Architecture:
    """One of `ranks.py`, one whose heads two processes can share, or the small twin of a preset."""
    if kind.startswith("twin:"):
        return replace(shrink(preset(kind.removeprefix("twin:"))), vocab_size=320)
    if kind == "borrowing":
        plain = to_data(preset("tiny-llama", overrides=[*EVEN, "layers=layer*2"]))
        own = plain["blocks"]["layer"]
        plain["blocks"]["other"] = {**own, "mixer": {**own["mixer"], "kv_from": "layer"}}
        return from_plain({**plain, "layers": "layer other layer other"})
    if kind == "repeated":
        return preset("tiny-llama-moe", overrides=[*EVEN_MIXTURE, "layers=dense^2 moe^2"])
    if kind in {"even", "odd-vocabulary", "untied"}:
        extra = {"even": [], "odd-vocabulary": ["vocab_size=321"], "untied": ["head.tied=false"]}[kind]
        return preset("tiny-llama", overrides=[*EVEN, "layers=layer*2", *extra])
    if kind == "even-mixture":
        return preset("tiny-llama-moe", overrides=EVEN_MIXTURE)
    return _others(kind)


_others = ranks.architecture_of
ranks.architecture_of = architecture_of

CASES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "dense": ("dense", 2, 1, {}),
    "mixture": ("mixture", 2, 1, {}),
    "tensor": ("even", 2, 2, {}),
    "tensor-mixture": ("even-mixture", 2, 2, {"accumulate": 2}),
    "biased": ("biased", 2, 1, {"accumulate": 2, "checkpointing": "layers"}),
    "many-experts": ("many", 2, 1, {}),
    "muon": ("dense", 2, 1, {"optimizer": "muon", "muon_dtype": "fp32"}),
    "average": ("dense", 2, 1, {"ema": 0.9}),
    "curriculum": ("dense", 2, 1, {"packing": "by-length"}),
    "bf16": ("mixture", 2, 1, {"dtype": "bf16"}),
    "uneven": ("dense", 3, 1, {"batch": 6}),
    "repeated": ("repeated", 2, 1, {}),
    "borrowing": ("borrowing", 2, 1, {"checkpointing": "layers"}),
    "grid": ("even-mixture", 4, 2, {"checkpointing": "layers"}),
    "grid-muon": ("even", 4, 2, {"optimizer": "muon", "muon_dtype": "fp32", "ema": 0.9}),
    "tensor-bf16": ("untied", 2, 2, {"dtype": "bf16"}),
    "tensor-z-loss": ("untied", 2, 2, {"z_loss": 1e-3}),
    "tensor-odd-vocabulary": ("odd-vocabulary", 2, 2, {}),
    "tensor-borrowing": ("borrowing", 2, 2, {}),
    "tensor-repeated": ("repeated", 2, 2, {}),
}
"""Name -> architecture, processes, of which so many share a layer, settings."""
TWINS = ("seq2seq-small", "context-aware-bert", "deepseek-v3", "gemma-2-2b", "mamba2", "speedrun", "tiny-mixtral")
TENSOR_TWINS = ("seq2seq-small", "deepseek-v3", "pythia-160m")
CASES |= {f"twin-{name}": (f"twin:{name}", 2, 1, {"context": 16}) for name in TWINS}
CASES |= {f"tensor-twin-{name}": (f"twin:{name}", 2, 2, {"context": 16}) for name in TENSOR_TWINS}


def equal(data: Path, folder: Path, *names: str) -> Any:
    """One process, and several that share its model."""
    found = {}
    for name in names:
        kind, count, degree, settings = CASES[name]
        shared: dict[str, Any] = {
            "steps": 4,
            "checkpoint_every": 4,
            "eval_every": 2,
            "guard": Guard(every=2),
            **settings,
        }
        one, many = folder / f"{name}-1", folder / f"{name}-n"
        start(kind, data, one, **shared)

        def work(_: int, kind: str = kind, run: Path = many, degree: int = degree, shared: Any = shared) -> Any:
            return start(kind, data, run, engine=of_two(degree), **shared)

        ends = in_ranks(work, folder / f"{name}-ends", count)
        stored = [_stored(run, 4) for run in (one, many)]
        found[name] = {
            "one": rows(one),
            "two": rows(many) if many.exists() else [],
            "ends": ends,
            "shapes": [{key: [str(t.dtype), *t.shape] for key, t in each.items()} for each in stored],
        }
    return found


def _stored(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{step}"
    files = sorted(folder.glob("*.safetensors"))
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def reshard(data: Path, folder: Path) -> Any:
    """One run that changes its engine at every stop; what each process has loaded; the same run without stops."""
    straight = folder / "straight"
    start("even-mixture", data, straight, steps=12, checkpoint_every=12, **QUIET)
    run = folder / "run"
    ways: list[tuple[int, EngineSettings]] = [
        (2, FSDP),
        (2, replace(FSDP, kind="ddp")),
        (1, EngineSettings()),
        (2, of_two(2)),
        (1, FSDP),
        (2, FSDP),
    ]
    found: dict[str, Any] = {"ways": []}
    for number, (count, engine) in enumerate(ways):
        last = number == len(ways) - 1

        def work(rank: int, number: int = number, engine: Any = engine, count: int = count, last: bool = last) -> Any:
            if rank == count - 1 and not last:
                before_update(2 * number + 2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            if number == 0:
                return start("even-mixture", data, run, engine=engine, steps=12, checkpoint_every=12, **QUIET)
            return _loaded(run, engine)

        found["ways"].append(in_ranks(work, folder / f"ends-{number}", count))
    again = folder / "again"
    in_ranks(
        lambda _: start("even-mixture", data, again, engine=FSDP, steps=12, checkpoint_every=12, **QUIET),
        folder / "ends-again",
    )
    twice = folder / "twice"

    def stopped(rank: int) -> Any:
        if rank == 0:
            before_update(5, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        return start("even-mixture", data, twice, engine=FSDP, steps=12, checkpoint_every=12, **QUIET)

    found["stopped"] = in_ranks(stopped, folder / "ends-stopped")
    found["resumed"] = in_ranks(lambda _: go_on(twice), folder / "ends-resumed")
    found["bits"] = [digests(each, 12) for each in (again, twice)]
    found["rows"] = {each.name: rows(each) for each in (straight, run, again, twice)}
    return found


def _loaded(run: Path, engine: EngineSettings) -> Any:
    """Resume, and say whether this process's parts have the bits of the files."""
    folder = RunReader(run).checkpoints()[-1].path
    stored = load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors")
    same: list[bool] = []
    train = Trainer.train

    def looking(trainer: Trainer, *arguments: Any) -> Any:
        shards = getattr(trainer.engine, "shards", None)
        for name, slot in trainer.optimizer.named_slots():
            shard = None if shards is None else shards.by_name[name]
            box = ... if shard is None else shard.box(shards.grid, shards.rank)
            same.append(torch.equal(slot.weight, stored[0][name][box]))
            same.extend(torch.equal(kept, stored[1][f"{key}.{name}"][box]) for key, kept in slot.state.items())
        return train(trainer, *arguments)

    Trainer.train = looking
    with stop_on_signals() as stop:
        end = ended(resume(run, changes=None if engine is None else {"engine": engine}, stop=stop))
    return {"same": all(same), "looked": len(same), **end}


def killed(data: Path, folder: Path) -> Any:
    """One process is killed before the fourth update; then both go on."""
    run = folder / "run"

    def work(rank: int) -> Any:
        if rank == 1:
            before_update(3, lambda _: os.kill(os.getpid(), signal.SIGKILL))
        return start("mixture", data, run, engine=FSDP, **QUIET)

    first = in_ranks(work, folder / "first")
    status = RunReader(run).record()["status"]
    again = in_ranks(lambda _: go_on(run), folder / "second")
    in_ranks(lambda _: start("mixture", data, folder / "straight", engine=FSDP, **QUIET), folder / "third")
    bits = [digests(folder / name, 6) for name in ("run", "straight")]
    return {"first": first, "status": status, "again": again, "bits": bits}


def guarded(data: Path, folder: Path) -> Any:
    """A gradient that is no number in one process, and a disk that is full while parts are gathered."""
    found: dict[str, Any] = {}
    for policy in ("skip", "rewind"):
        run = folder / policy

        def work(rank: int, run: Path = run, policy: Any = policy) -> Any:
            def poison(trainer: Trainer) -> None:
                if rank == 1 and trainer.state.batches == 2:
                    done = trainer.engine.reduce

                    def reduce(optimizer: Any) -> None:
                        done(optimizer)
                        del trainer.engine.reduce
                        next(slot for slot in optimizer.slots() if slot.weight.numel()).gradient().fill_(torch.nan)

                    trainer.engine.reduce = reduce

            before_update(2, poison)
            return start("dense", data, run, engine=FSDP, **{**QUIET, "guard": Guard(not_finite=policy, every=None)})

        ends = in_ranks(work, folder / f"{policy}-ends")
        found[policy] = {"ends": ends, "applied": [row.get("applied", 1) for row in rows(run)]}

    def full(_: int) -> Any:
        import errno

        from vitruvius.training import checkpoint

        write, count = checkpoint.write_tensors, [0]

        def writing(path: Path, tensors: Any) -> None:
            count[0] += 1
            if count[0] == 3:
                next(iter(tensors.values())).detach()
                raise OSError(errno.ENOSPC, "no space left")
            write(path, tensors)

        checkpoint.write_tensors = writing
        return start("dense", data, folder / "full", engine=FSDP, **QUIET)

    found["full"] = in_ranks(full, folder / "full-ends")
    found["kept"] = [each.step for each in RunReader(folder / "full").checkpoints()]
    return found


def part_sizes(data: Path, folder: Path) -> Any:
    """Bytes of weights, gradients, masters and moments in each process, in bf16, before an update is applied."""
    found = {}
    for name, kind, count, engine in (
        ("1", "even", 1, EngineSettings()),
        ("2", "even", 2, FSDP),
        ("2x2", "even", 4, of_two(2)),
    ):

        def work(_: int, name: str = name, kind: str = kind, engine: EngineSettings = engine) -> Any:
            sizes: list[int] = []

            def looking(trainer: Trainer) -> None:
                apply = trainer.updater.apply

                def measured(*arguments: Any, **options: Any) -> Any:
                    total = 0
                    for slot in trainer.optimizer.slots():
                        for tensor in (slot.weight, slot.gradient(), slot.master, *slot.state.values()):
                            assert tensor is not None
                            total += tensor.numel() * tensor.element_size()
                    sizes.append(total)
                    return apply(*arguments, **options)

                trainer.updater.apply = measured

            before_update(0, looking)
            start(kind, data, folder / name, engine=engine, steps=1, dtype="bf16", **QUIET)
            return sizes[0]

        found[name] = [end["value"] for end in in_ranks(work, folder / f"{name}-ends", count)]
    return found


SCENARIOS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (equal, reshard, killed, guarded, part_sizes)
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(SCENARIOS[sys.argv[3]](Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[4:])))
