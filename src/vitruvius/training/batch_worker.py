"""Measures real updates with one batch size, in a process of its own; asked on stdin, answered on stdout, both JSON.

What runs out of memory, or is killed for it, takes nobody else down, and the peak of the process is that of this size.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitruvius.checks.memory import measured_on
from vitruvius.data import Batch, TokenShards
from vitruvius.errors import VitruviusError
from vitruvius.evals.memory import high_water, resident
from vitruvius.nn.ops import keep_freed_memory
from vitruvius.nn.updates import after_step
from vitruvius.runs.shortage import is_out_of_memory
from vitruvius.spec import from_plain
from vitruvius.training.checking import from_plain as config_from_plain
from vitruvius.training.config import batches_of
from vitruvius.training.determinism import deterministic
from vitruvius.training.engines import LocalEngine
from vitruvius.training.numerics import numerics_of
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import make_optimizer
from vitruvius.training.parts import model_of, settled
from vitruvius.training.pieces import Shortage
from vitruvius.training.settings import EngineSettings
from vitruvius.training.stopping import StopRequest
from vitruvius.training.updating import Gathered, Updater

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig

WARM = 2
"""Updates that come first: kernels are chosen and memory is asked for in them."""
LEAST, MOST = 3, 50
"""Updates that count: at least and at most."""
_PARENT_DIES = 1
_TEXTS = 3
"""Documents in a row of random tokens."""


class Updates:
    """Updates of one size, one after another."""

    def __init__(self, architecture: Architecture, config: TrainConfig, data: str | None) -> None:
        self.config = config
        engine = LocalEngine()
        model = model_of(architecture, config, engine)
        model.train()
        after_step(model)
        self.updater = Updater(
            config=config,
            model=model,
            optimizer=make_optimizer(model, config),
            objective=make_objective(config),
            device=torch.device(config.device),
            engine=engine,
            companions=tuple(numerics_of(config)),
        )
        self._number = 0
        self._batch = _of_data(data, config) if data is not None else _random(architecture, config)

    def run(self, done: Callable[[str], None]) -> None:
        """One; `done` is told when gradients are there, and when weights have changed."""
        batch = self._batch(self._number)
        self._number += 1
        gathered = self.updater.gradients(batch, StopRequest())
        assert isinstance(gathered, Gathered)
        done("gradients")
        if gathered.finite:
            self.updater.apply(gathered, lr=self.config.lr, clip=self.config.clip)
        else:
            self.updater.discard()
        done("update")


def _of_data(data: str, config: TrainConfig) -> Callable[[int], Batch]:
    return batches_of(TokenShards.open(data, "train", verify="sizes"), config).at


def _random(architecture: Architecture, config: TrainConfig) -> Callable[[int], Batch]:
    rows, tokens = config.batch, config.context or architecture.context
    places = np.arange(tokens)[None, :] + 37 * np.arange(rows)[:, None]

    def at(number: int) -> Batch:
        drawn = np.random.default_rng(number).integers(0, architecture.vocab_size, (rows, tokens + 1))
        return Batch(
            inputs=drawn[:, :-1].copy(),
            targets=drawn[:, 1:].copy(),
            documents=places // max(1, tokens // _TEXTS),
            crosses=np.zeros((rows, tokens), dtype=bool),
            sample_ids=np.arange(rows) + rows * number,
            epochs=np.zeros(rows, dtype=np.int64),
        )

    return at


def measured(asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the gradients and of the optimizer's step of some updates, and what they took of memory.

    asked: `spec`, `config`, `data` (or null), `seconds`, and whether `peak` is wanted.
    """
    architecture = from_plain(asked["spec"])
    wanted = settled(config_from_plain(asked["config"]))
    config = replace(
        wanted, engine=EngineSettings(), curriculum=(), recovery=replace(wanted.recovery, out_of_memory="stop")
    )
    at_rest, room = resident(), torch.cuda.mem_get_info()[0] if config.device == "cuda" else None
    with deterministic(seed=config.seed, threads=config.threads):
        keep_freed_memory()
        updates = Updates(architecture, config, asked["data"])
        gradients, applied = _timed(updates, config.device, asked["seconds"])
        found: dict[str, Any] = {"gradients": gradients, "applied": applied, "device": config.device, "room": room}
        found |= {"taken": _taken(config.device, at_rest), "peak": None}
        if asked["peak"]:
            del updates
            device = "cuda" if config.device == "cuda" else "cpu"
            found["peak"] = measured_on(device, lambda: Updates(architecture, config, asked["data"])).peak
    return found


def _timed(updates: Updates, device: str, seconds: float) -> tuple[list[float], list[float]]:
    marks: dict[str, float] = {}

    def done(name: str) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        marks[name] = time.perf_counter()

    gradients: list[float] = []
    applied: list[float] = []
    began = time.perf_counter()
    while len(gradients) < WARM + MOST:
        done("begun")
        updates.run(done)
        gradients.append(marks["gradients"] - marks["begun"])
        applied.append(marks["update"] - marks["gradients"])
        if len(gradients) >= WARM + LEAST and marks["update"] - began > seconds:
            break
    return gradients[WARM:], applied[WARM:]


def _taken(device: str, at_rest: int | None) -> int | None:
    """What was taken at most, besides what a process has with everything imported; None where nobody tells."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    most = high_water()
    return None if most is None or at_rest is None else most - at_rest


def _expendable() -> None:
    """Be the first that the system ends when memory runs out, and end when the one who asks does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(_PARENT_DIES, signal.SIGKILL)


def main() -> None:
    """Answer one question."""
    _expendable()
    # What libraries print must not stand in the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.read())
    try:
        found = measured(asked)
    except VitruviusError as error:
        found = {"refused": {"what": error.what, "where": error.where, "fix": error.fix}}
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        short = Shortage.of(error)
        found = {"out_of_memory": short.words}
    json.dump(found, answer)
    answer.close()


if __name__ == "__main__":
    main()
