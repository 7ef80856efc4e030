"""Trains in processes whose model DeepSpeed divides, as `sharded_ranks.py` does with FSDP2; prints JSON.

python deepspeed_ranks.py DATA FOLDER SCENARIO [CASE ...]
"""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sharded_ranks
import torch
from ranks import before_update, digests, ended, go_on, in_ranks, rows, start
from safetensors.torch import load_file

from vitruvius.runs import RunReader
from vitruvius.training import checkpoint, resume
from vitruvius.training.engines import deepspeed_zero
from vitruvius.training.loop import Trainer
from vitruvius.training.settings import EngineSettings, Guard
from vitruvius.training.stopping import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

ZERO = {stage: EngineSettings(kind="deepspeed", zero=stage, timeout=60) for stage in (2, 3)}
QUIET = sharded_ranks.QUIET
TWINS = ("seq2seq-small", "context-aware-bert", "gemma-2-2b", "mamba2", "speedrun", "tiny-mixtral", "gpt2-small")
EACH: dict[str, tuple[str, int, dict[str, Any]]] = {
    "dense": ("dense", 2, {}),
    "mixture": ("mixture", 2, {"accumulate": 2}),
    "biased": ("biased", 2, {"accumulate": 2, "checkpointing": "layers"}),
    "many-experts": ("many", 2, {}),
    "clipped": ("dense", 2, {"clip": 0.1}),
    "curriculum": ("dense", 2, {"packing": "by-length"}),
    "bf16": ("mixture", 2, {"dtype": "bf16", "accumulate": 2}),
    "uneven": ("dense", 3, {"batch": 6}),
    "alone": ("dense", 1, {}),
    "repeated": ("repeated", 2, {}),
    "borrowing": ("borrowing", 2, {"checkpointing": "layers"}),
    "untied": ("untied", 2, {"z_loss": 1e-3}),
    **{f"twin-{name}": (f"twin:{name}", 2, {"context": 16}) for name in TWINS},
}
CASES = {f"{name}-{stage}": (*case, stage) for stage in (2, 3) for name, case in EACH.items()}
"""Name -> architecture, processes, settings, stage."""


def equal(data: Path, folder: Path, *names: str) -> Any:
    """One process, and several that share its model."""
    found = {}
    for name in names:
        kind, count, settings, stage = CASES[name]
        shared: dict[str, Any] = {"steps": 4, "checkpoint_every": 4, "eval_every": 2, "guard": Guard(every=2)}
        shared |= settings
        one, many = folder / f"{name}-1", folder / f"{name}-n"
        start(kind, data, one, **shared)

        def work(_: int, kind: str = kind, run: Path = many, stage: int = stage, shared: Any = shared) -> Any:
            return start(kind, data, run, engine=ZERO[stage], **shared)

        ends = in_ranks(work, folder / f"{name}-ends", count)
        stored = [_stored(run, 4) for run in (one, many)]
        found[name] = {
            "one": rows(one),
            "two": rows(many) if many.exists() else [],
            "ends": ends,
            "events": [event["kind"] for event in RunReader(many).events()] if many.exists() else [],
            "shapes": [{key: [str(t.dtype), *t.shape] for key, t in each.items()} for each in stored],
        }
    return found


def _stored(run: Path, step: int) -> dict[str, torch.Tensor]:
    files = sorted((run / "checkpoints" / f"step-{step}").glob("*.safetensors"))
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def reshard(data: Path, folder: Path, dtype: str) -> Any:
    """One run that changes its engine at every stop; what each process has loaded; the same run without stops."""
    shared: dict[str, Any] = {**QUIET, "steps": 12, "checkpoint_every": 12, "dtype": dtype}
    straight, run = folder / "straight", folder / "run"
    start("even-mixture", data, straight, **shared)
    ways: list[tuple[int, EngineSettings]] = [
        (2, ZERO[3]),
        (1, EngineSettings()),
        (2, EngineSettings(kind="ddp", timeout=60)),
        (2, sharded_ranks.FSDP),
        (2, ZERO[2]),
        (2, ZERO[3]),
    ]
    found: dict[str, Any] = {"ways": []}
    for number, (count, engine) in enumerate(ways):
        last = number == len(ways) - 1

        def work(rank: int, number: int = number, engine: Any = engine, count: int = count, last: bool = last) -> Any:
            if rank == count - 1 and not last:
                before_update(2 * number + 2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            if number == 0:
                return start("even-mixture", data, run, engine=engine, **shared)
            return _loaded(run, engine)

        found["ways"].append(in_ranks(work, folder / f"ends-{number}", count))
    found["rows"] = {each.name: rows(each) for each in (straight, run)}
    return found


def _loaded(run: Path, engine: EngineSettings) -> Any:
    """Resume, and say whether this process's runs have the bits of the files."""
    folder = RunReader(run).checkpoints()[-1].path
    weights, kept = load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors")
    same: list[bool] = []
    train = Trainer.train

    def looking(trainer: Trainer, *arguments: Any) -> Any:
        fragments = getattr(trainer.engine, "fragments", None)
        for name, slot in trainer.optimizer.named_slots():
            if fragments is None:
                continue
            box = fragments.run(name)
            master = kept.get(f"master.{name}", weights[name]).flatten()[box]
            same.append(torch.equal(trainer.optimizer.zero.weight(name), weights[name].flatten()[box]))
            same.append(torch.equal(slot.master, master))
            same.extend(torch.equal(each, kept[f"{key}.{name}"].flatten()[box]) for key, each in slot.state.items())
        return train(trainer, *arguments)

    Trainer.train = looking
    with stop_on_signals() as stop:
        end = ended(resume(run, changes={"engine": engine}, stop=stop))
    return {"same": all(same), "looked": len(same), **end}


def again(data: Path, folder: Path, stage: str) -> Any:
    """Stopped by SIGTERM between two pieces, killed by SIGKILL, and straight: the same run each time."""
    engine = ZERO[int(stage)]
    shared: dict[str, Any] = {"engine": engine, "accumulate": 2, "eval_every": 0, "dtype": "bf16"}
    straight, halves, dead = folder / "straight", folder / "halves", folder / "dead"
    in_ranks(lambda _: start("biased", data, straight, **shared), folder / "a")

    def stopped(rank: int) -> Any:
        if rank == 1:
            before_update(2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        return start("biased", data, halves, **shared)

    def killed(rank: int) -> Any:
        if rank == 1:
            before_update(3, lambda _: os.kill(os.getpid(), signal.SIGKILL))
        return start("biased", data, dead, **shared)

    found: dict[str, Any] = {"stopped": in_ranks(stopped, folder / "b"), "killed": in_ranks(killed, folder / "c")}
    found["status"] = RunReader(dead).record()["status"]
    found["resumed"] = [in_ranks(lambda _, run=run: go_on(run), folder / f"d-{run.name}") for run in (halves, dead)]
    found["bits"] = [digests(run, 6) for run in (straight, halves, dead)]
    found["rows"] = [rows(run) for run in (straight, halves, dead)]
    return found


def guarded(data: Path, folder: Path, stage: str) -> Any:
    """A gradient that is no number in one process, and a disk that is full while tensors are gathered."""
    engine, found = ZERO[int(stage)], dict[str, Any]()
    for policy in ("skip", "rewind"):
        run = folder / policy

        def work(rank: int, run: Path = run, policy: Any = policy) -> Any:
            def poison(trainer: Trainer) -> None:
                if rank == 1 and trainer.state.batches == 2:
                    first = next(iter(trainer.model.parameters()))
                    handle = first.register_hook(lambda grad: (handle.remove(), grad * float("nan"))[1])

            before_update(2, poison)
            guard = Guard(not_finite=policy, every=None)
            return start("dense", data, run, engine=engine, **{**QUIET, "guard": guard}, accumulate=2)

        ends = in_ranks(work, folder / f"{policy}-ends")
        found[policy] = {"ends": ends, "applied": [row.get("applied", 1) for row in rows(run)], "rows": rows(run)}

    def full(_: int) -> Any:
        write, count = checkpoint.write_tensors, [0]

        def writing(path: Path, tensors: Any) -> None:
            count[0] += 1
            if count[0] == 3:
                next(iter(tensors.values())).detach()
                raise OSError(errno.ENOSPC, "no space left")
            write(path, tensors)

        checkpoint.write_tensors = writing
        return start("dense", data, folder / "full", engine=engine, **QUIET)

    found["full"] = in_ranks(full, folder / "full-ends")
    found["kept"] = [each.step for each in RunReader(folder / "full").checkpoints()]
    return found


def sizes(data: Path, folder: Path) -> Any:
    """Bytes of all tensors in each process, in bf16: between two updates, and with the gradients of one at hand."""
    # A buffer of this model's size would be most of what is counted; also, tensors larger than it go another way.
    deepspeed_zero.BUCKET = 64
    found = {}
    for name, count, engine in (("1", 1, EngineSettings()), ("2", 2, ZERO[2]), ("3", 2, ZERO[3])):

        def work(_: int, name: str = name, engine: EngineSettings = engine) -> Any:
            taken: dict[str, Any] = {}

            def looking(trainer: Trainer) -> None:
                taken["between"] = _bytes()
                taken["parameters"] = sum(_count(slot) for slot in trainer.optimizer.slots())
                apply = trainer.updater.apply

                def measured(*arguments: Any, **options: Any) -> Any:
                    taken["gradients"] = _bytes()
                    return apply(*arguments, **options)

                trainer.updater.apply = measured

            before_update(1, looking)
            start("even", data, folder / name, engine=engine, steps=2, dtype="bf16", **QUIET)
            return taken

        found[name] = [end["value"] for end in in_ranks(work, folder / f"{name}-ends", count)]
    return found


def planned(data: Path, folder: Path, dtype: str, accumulate: str, most: str, *ways: str) -> Any:
    """Bytes that each process keeps of weights, gradients, masters with moments, and the bucket, by what they are."""
    deepspeed_zero.BUCKET = int(most)
    found = {}
    for way in ways:
        stage, count = map(int, way.split("-"))

        def work(_: int, stage: int = stage, way: str = way) -> Any:
            taken: dict[str, Any] = {}

            def looking(trainer: Trainer) -> None:
                zero = trainer.engine._zero
                _bucket_seen(zero._zero, stage, taken)
                if stage == 2:
                    _sums_seen(zero, taken)
                apply = trainer.updater.apply

                def measured(*arguments: Any, **options: Any) -> Any:
                    taken.update(_kept(zero, stage))
                    return apply(*arguments, **options)

                trainer.updater.apply = measured

            before_update(1, looking)
            shared = {**QUIET, "steps": 2, "dtype": dtype, "accumulate": int(accumulate), "batch": 12}
            start("odd-vocabulary", data, folder / way, engine=ZERO[stage], **shared)
            return taken

        ends = in_ranks(work, folder / f"{way}-ends", count)
        found[way] = [end["value"] or end for end in ends]
    return found


def _kept(zero: Any, stage: int) -> dict[str, int]:
    """What is there when the gradients are, before the step."""
    inner = zero._zero
    if stage == 2:
        weights = inner.bit16_groups_flat
        gradients = [each for group in inner.averaged_gradients.values() for each in group]
    else:
        weights = [parameter.ds_tensor for parameter in zero.names.values()]
        gradients = [inner.grad_partitions_flat_buffer]
    flats = zero._flats()
    moments = [each for flat in flats for key, each in zero._inner.state[flat].items() if key != "step"]
    return {
        "weights": _stored_bytes(weights),
        "gradients": _stored_bytes(gradients),
        "optimizer": _stored_bytes([*flats, *moments]),
        "parameters": sum(_count_of(parameter) for parameter in zero.names.values()),
    }


def _bucket_seen(inner: Any, stage: int, taken: dict[str, Any]) -> None:
    """Note how large the bucket is while gradients travel."""
    if stage == 3:
        taken["bucket"] = _stored_bytes([bucket.buffer for bucket in inner.ipg_buckets.values()])
        return
    setup = inner.setup_buckets

    def noting(*arguments: Any) -> Any:
        given = setup(*arguments)
        taken["bucket"] = _stored_bytes([each for bucket in inner.ipg_buckets.values() for each in bucket.buffer])
        return given

    inner.setup_buckets = noting


def _sums_seen(zero: Any, taken: dict[str, Any]) -> None:
    """Note what is there at most of gradients, and of the sums of the pieces before, when a piece is added to them."""
    inner = zero._zero
    gradients = inner.get_all_grad_tensors

    def noting(*arguments: Any, **options: Any) -> Any:
        sums = [each for group in inner.all_grad_tensors.values() for each in group or ()]
        news = [each.grad for each in zero.names.values() if each.grad is not None]
        taken["summing"] = max(taken.get("summing", 0), _stored_bytes([*sums, *news]))
        return gradients(*arguments, **options)

    inner.get_all_grad_tensors = noting


def _stored_bytes(tensors: Any) -> int:
    """Of the memory behind tensors, each piece once."""
    return sum({(s := tensor.untyped_storage()).data_ptr(): s.nbytes() for tensor in tensors}.values())


def _count_of(parameter: Any) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())


def _count(slot: Any) -> int:
    return getattr(slot.parameter, "ds_numel", slot.parameter.numel())


def _bytes() -> int:
    """Of all memory that tensors hold, each counted once."""
    gc.collect()
    found = {}
    for each in gc.get_objects():
        if isinstance(each, torch.Tensor) and each.layout == torch.strided and each.device.type == "cpu":
            for tensor in (each, each.grad if each.is_leaf else None):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def unlike(data: Path, folder: Path) -> Any:
    """A batch that the processes do not divide, and a process that never comes."""
    engine = ZERO[2]
    return {
        "odd": in_ranks(lambda _: start("dense", data, folder / "odd", batch=3, engine=engine), folder / "odd-ends"),
        "absent": in_ranks(
            lambda rank: (
                start("dense", data, folder / "absent", engine=replace(engine, timeout=3)) if rank == 0 else None
            ),
            folder / "absent-ends",
        ),
    }


SCENARIOS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (equal, reshard, again, guarded, sizes, planned, unlike)
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(SCENARIOS[sys.argv[3]](Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[4:])))
