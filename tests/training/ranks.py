"""Trains in several processes of one machine and says what came of it; prints JSON.

python ranks.py DATA FOLDER SCENARIO [CASE ...]

Children are forked from one process that has imported everything, as torchrun would start them: the store they meet at
lives in the parent. All of them have ended when `in_ranks` returns.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from vitruvius.errors import DataError, VitruviusError
from vitruvius.nn.weights import weights_of
from vitruvius.runs import RunReader
from vitruvius.spec import preset
from vitruvius.training import TrainConfig, resume, train
from vitruvius.training.config import CurriculumStage
from vitruvius.training.loop import Trainer
from vitruvius.training.settings import EngineSettings, Guard
from vitruvius.training.stopping import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.spec import Architecture

PATIENCE = 120.0
"""Seconds after which children that have not ended are killed, and the scenario has failed."""
SMALL = ["width=16", "context=16", "vocab_size=320"]
DENSE = [*SMALL, "blocks.layer.mixer.heads=2", "blocks.layer.mixer.kv_heads=1", "blocks.layer.ffn.hidden=16"]
MIXTURE = [*SMALL, "layers=dense moe", "blocks.dense.mixer.heads=2", "blocks.dense.mixer.kv_heads=1"]
MIXTURE += ["blocks.dense.ffn.hidden=16", "blocks.moe.ffn.experts=4", "blocks.moe.ffn.expert.hidden=16"]
MIXTURE += ["blocks.dense.mixer.sees=causal & sliding(4)"]
BIASED = [*MIXTURE, "blocks.moe.ffn.router={kind: sigmoid, balance_loss: 0.01}"]
MANY = [*MIXTURE, "blocks.moe.ffn.experts=64", "blocks.moe.ffn.top_k=1"]


def architecture_of(kind: str) -> Architecture:
    if kind in {"dense", "open"}:
        opened = ["blocks.layer.mixer.prefix=open"] if kind == "open" else []
        return preset("tiny-llama", overrides=[*DENSE, "layers=layer*2", *opened])
    return preset("tiny-llama-moe", overrides={"mixture": MIXTURE, "biased": BIASED, "many": MANY}[kind])


def config_of(**settings: Any) -> TrainConfig:
    defaults: dict[str, Any] = {"steps": 6, "batch": 4, "threads": 1, "checkpoint_every": 2, "eval_every": 3}
    return TrainConfig(**{**defaults, "eval_batches": 3, "dtype": "fp32", "keep": 9, **settings})


DDP = EngineSettings(kind="ddp", timeout=60)


def in_ranks(work: Callable[[int], Any], folder: Path, count: int = 2) -> list[dict[str, Any]]:
    """Do `work(rank)` in `count` children at once; how each ended: `value`, `error` or `signal`, and `seconds`."""
    folder.mkdir(parents=True, exist_ok=True)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    began, children = time.monotonic(), []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            _child(work, rank, count, store.port, folder)
        children.append(pid)
    ended: dict[int, tuple[int, float]] = {}
    while len(ended) < count:
        for pid in set(children) - ended.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended[pid] = (os.waitstatus_to_exitcode(status), time.monotonic() - began)
        if time.monotonic() - began > PATIENCE:
            for pid in set(children) - ended.keys():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    found = []
    for rank, pid in enumerate(children):
        code, seconds = ended[pid]
        file = folder / f"rank-{rank}.json"
        told = json.loads(file.read_text()) if file.exists() else {}
        found.append({"value": None, "error": None, **told, "signal": max(0, -code), "seconds": seconds})
    return found


def _child(work: Callable[[int], Any], rank: int, count: int, port: int, folder: Path) -> None:
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
        try:
            told = {"value": work(rank)}
        except VitruviusError as error:
            told = {"error": f"{type(error).__name__}: {error.where}: {error.what}"}
        (folder / f"rank-{rank}.json").write_text(json.dumps(told))
        code = 0
    except BaseException:  # noqa: BLE001 (the child ends here either way)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(result: Any) -> dict[str, Any]:
    return {"status": result.status, "step": result.step, "exit_code": result.exit_code}


def start(kind: str, data: Path, run: Path, **settings: Any) -> dict[str, Any]:
    with stop_on_signals() as stop:
        return ended(train(architecture_of(kind), data=data, out=run, config=config_of(**settings), stop=stop))


def go_on(run: Path) -> dict[str, Any]:
    with stop_on_signals() as stop:
        return ended(resume(run, stop=stop))


def rows(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in RunReader(run).metrics()]


def before_update(step: int, act: Callable[[Trainer], None]) -> None:
    """Do something in this process before it computes update `step` (from 0)."""
    update = Trainer._update

    def acting(trainer: Trainer, *arguments: Any) -> Any:
        if trainer.state.step == step:
            act(trainer)
        return update(trainer, *arguments)

    Trainer._update = acting


def digests(run: Path, step: int) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint."""
    manifest = json.loads((run / "checkpoints" / f"step-{step}" / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def equal(data: Path, folder: Path, *names: str) -> Any:
    """One process and two, in many settings or those named."""
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "dense": ("dense", {}),
        "mixture": ("mixture", {}),
        "biased": ("biased", {}),
        "many-experts": ("many", {}),
        "accumulate": ("mixture", {"accumulate": 2}),
        "checkpointing": ("mixture", {"accumulate": 2, "checkpointing": "layers"}),
        "muon": ("dense", {"optimizer": "muon", "muon_dtype": "fp32"}),
        "curriculum": ("dense", {"packing": "one-document", "curriculum": [{"until": 3, "context": 8}]}),
        "by-length": ("dense", {"packing": "by-length"}),
        "prefix": ("open", {"objective": "prefix-lm", "documents": "joined"}),
        "large-batch": ("dense", {"batch": 12}),
        "bf16": ("mixture", {"dtype": "bf16"}),
    }
    found = {}
    for name in names or cases:
        kind, settings = cases[name]
        if "curriculum" in settings:
            settings = {**settings, "curriculum": tuple(CurriculumStage(**s) for s in settings["curriculum"])}
        one, two = folder / f"{name}-1", folder / f"{name}-2"
        start(kind, data, one, **settings)

        def both(_: int, kind: str = kind, two: Path = two, settings: dict[str, Any] = settings) -> Any:
            return start(kind, data, two, engine=DDP, **settings)

        ends = in_ranks(both, folder / f"{name}-ends")
        found[name] = {"one": rows(one), "two": rows(two) if two.exists() else [], "ends": ends}
    return found


def reshard(data: Path, folder: Path) -> Any:
    """Stopped after three updates with so many processes, and resumed with so many."""
    start("mixture", data, folder / "straight-1", eval_every=0)
    two = folder / "straight-2"
    in_ranks(lambda _: start("mixture", data, two, engine=DDP, eval_every=0), folder / "straight-2-ends")
    found: dict[str, Any] = {
        "straight-1": rows(folder / "straight-1"),
        "straight-2": rows(two),
        "digests": {name: digests(folder / name, 6) for name in ("straight-1", "straight-2")},
    }
    for before, after in ((2, 1), (1, 2), (2, 2)):
        name = f"{before}-{after}"
        run = folder / name
        in_ranks(lambda _, run=run: _stopped(data, run), folder / f"{name}-first", before)
        ends = in_ranks(lambda _, run=run: _loaded(run), folder / f"{name}-second", after)
        found[name] = {
            "rows": rows(run),
            "ends": ends,
            "digests": digests(run, 6),
            "events": [event["kind"] for event in RunReader(run).events()],
        }
    return found


def _stopped(data: Path, run: Path) -> Any:
    """A run that SIGTERM stops, sent to the last process before the third update is computed."""
    ranks = int(os.environ["WORLD_SIZE"])
    if int(os.environ["RANK"]) == ranks - 1:
        before_update(2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    return start("mixture", data, run, engine=DDP if ranks > 1 else EngineSettings(), eval_every=0)


def _loaded(run: Path) -> Any:
    """Resume, and say whether what was loaded has the bits of the checkpoint's files."""
    folder = RunReader(run).checkpoints()[-1].path
    stored = load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")
    same: list[bool] = []
    update = Trainer.train

    def looking(trainer: Trainer, *arguments: Any) -> Any:
        loaded = weights_of(trainer.model) | trainer.optimizer.tensors()
        same.append(loaded.keys() == stored.keys() and all(torch.equal(loaded[name], stored[name]) for name in stored))
        return update(trainer, *arguments)

    Trainer.train = looking
    return {"same": same == [] or same[0], **go_on(run), "looked": len(same), "from": folder.name}


def killed(data: Path, folder: Path) -> Any:
    """One process is killed by SIGKILL before the fourth update; then both go on."""
    run = folder / "run"

    def work(rank: int) -> Any:
        if rank == 1:
            before_update(3, lambda _: os.kill(os.getpid(), signal.SIGKILL))
        return start("mixture", data, run, engine=DDP)

    first = in_ranks(work, folder / "first")
    record = RunReader(run).record()
    again = in_ranks(lambda _: go_on(run), folder / "second")
    in_ranks(lambda _: start("mixture", data, folder / "straight", engine=DDP), folder / "third")
    bits = [digests(folder / name, 6) for name in ("run", "straight")]
    return {"first": first, "status": record["status"], "again": again, "bits": bits}


def failing(data: Path, folder: Path) -> Any:
    """Errors of one process, in its own code and in silence."""

    def raised(_: Trainer) -> None:
        raise DataError("a shard is damaged", where="shard 7")

    def failed_in(rank: int, act: Callable[[Trainer], None], name: str, timeout: int = 60) -> list[dict[str, Any]]:
        def work(here: int) -> Any:
            if here == rank:
                before_update(1, act)
            return start("dense", data, folder / name, engine=dataclasses.replace(DDP, timeout=timeout))

        return in_ranks(work, folder / f"{name}-ends")

    def drifted(trainer: Trainer) -> None:
        next(iter(trainer.model.parameters())).data.view(-1)[0] += 1e-3

    def asleep(_: Trainer) -> None:
        time.sleep(6)  # without a word, and longer than the others wait
        os._exit(0)

    def elsewhere(rank: int) -> Any:
        return start("dense", data if rank == 0 else data.parent / "other", folder / "data", engine=DDP)

    def unlike(rank: int) -> Any:
        return start("dense", data, folder / "seed", seed=rank, engine=DDP)

    return {
        "drifted": failed_in(1, drifted, "drifted"),
        "main": failed_in(0, raised, "main"),
        "other": failed_in(1, raised, "other"),
        "silent": failed_in(1, asleep, "silent", timeout=2),
        "unlike": in_ranks(unlike, folder / "seed-ends"),
        "missing": in_ranks(elsewhere, folder / "data-ends"),
        "exists": in_ranks(lambda _: start("dense", data, folder / "main", engine=DDP), folder / "exists-ends"),
        "uneven": in_ranks(lambda _: start("dense", data, folder / "odd", batch=3, engine=DDP), folder / "odd-ends"),
        "local": in_ranks(lambda _: start("dense", data, folder / "local"), folder / "local-ends"),
        "absent": in_ranks(
            lambda rank: (
                start("dense", data, folder / "absent", engine=dataclasses.replace(DDP, timeout=3))
                if rank == 0
                else None
            ),
            folder / "absent-ends",
        ),
    }


def guarded(data: Path, folder: Path) -> Any:
    """A gradient that is no number, in the third batch and in the last process alone."""
    found = {}
    for policy in ("skip", "rewind"):
        for ranks in (1, 2):
            name = f"{policy}-{ranks}"

            def work(rank: int, run: Path = folder / name, ranks: int = ranks, policy: Any = policy) -> Any:
                def poison(trainer: Trainer) -> None:
                    if rank == ranks - 1 and trainer.state.batches == 2:
                        first = next(iter(trainer.model.parameters()))
                        handle = first.register_hook(lambda grad: (handle.remove(), grad * float("nan"))[1])

                before_update(2, poison)
                engine = DDP if ranks > 1 else EngineSettings()
                return start("dense", data, run, engine=engine, guard=Guard(not_finite=policy))

            ends = in_ranks(work, folder / f"{name}-ends", ranks)
            events = [event["kind"] for event in RunReader(folder / name).events()]
            found[name] = {"ends": ends, "rows": rows(folder / name), "events": events}
    return found


def pieces(data: Path, folder: Path) -> Any:
    """SIGTERM to the last process between two pieces of the third update, and on from there."""
    halves, straight, shared = folder / "halves", folder / "straight", {"accumulate": 2, "eval_every": 0}

    def first(rank: int) -> Any:
        if rank == 1:
            before_update(2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        return start("biased", data, halves, engine=DDP, **shared)

    stopped = in_ranks(first, folder / "first")
    again = in_ranks(lambda _: go_on(halves), folder / "second")
    in_ranks(lambda _: start("biased", data, straight, engine=DDP, **shared), folder / "third")
    same = rows(halves) == rows(straight) and digests(halves, 6) == digests(straight, 6)
    return {"stopped": stopped, "again": again, "same": same}


def draws(data: Path, folder: Path) -> Any:
    """What torch's generator gives before each update, in each process, straight and resumed."""
    found: dict[str, Any] = {}

    def drawn(run: Path, work: Callable[[], Any]) -> Any:
        seen: list[float] = []
        update = Trainer._update

        def looking(trainer: Trainer, *arguments: Any) -> Any:
            seen.append(float(torch.rand(())))
            return update(trainer, *arguments)

        Trainer._update = looking
        work()
        return seen

    straight, halves = folder / "straight", folder / "halves"
    found["straight"] = in_ranks(
        lambda _: drawn(straight, lambda: start("dense", data, straight, engine=DDP)), folder / "a"
    )
    found["first"] = in_ranks(lambda _: drawn(halves, lambda: _stopped(data, halves)), folder / "b")
    found["second"] = in_ranks(lambda _: drawn(halves, lambda: go_on(halves)), folder / "c")
    return found


SCENARIOS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (equal, reshard, killed, failing, guarded, pieces, draws)
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(SCENARIOS[sys.argv[3]](Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[4:])))
