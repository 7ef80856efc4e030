"""A few real updates of a run, in a folder that is thrown away, to say how long all of it takes."""

from __future__ import annotations

import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from vitruvius.data import read_index
from vitruvius.errors import UsageError
from vitruvius.nn.ops import keep_freed_memory
from vitruvius.runs import RunFolder
from vitruvius.runs.checkpoints import TOKENIZER_FILE
from vitruvius.spec import to_data
from vitruvius.training.config import to_plain
from vitruvius.training.determinism import deterministic
from vitruvius.training.engines import joined
from vitruvius.training.parts import data_record, ensure_fits, open_data, parts_of, settled
from vitruvius.training.progress import Silent
from vitruvius.training.sampling_text import Writing
from vitruvius.training.stopping import StopRequest
from vitruvius.training.timing import Measured, counts_of, extrapolated

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.data import TokenShards
    from vitruvius.runs import Checkpoint
    from vitruvius.training.loop import Trainer
    from vitruvius.training.request import Request
    from vitruvius.training.settings import Samples
    from vitruvius.training.timing import Estimate

LEFT_OUT = 2
"""Updates that come first: kernels are chosen and memory is asked for in them."""
LEAST, MOST = 3, 30
BUDGET = 10.0
"""Seconds after which no more updates are begun, once there are enough."""


def measured_estimate(request: Request, *, clock: Callable[[], float] = time.perf_counter) -> Estimate:
    """How long a run takes here, from a few of its own updates.

    They are trained in a folder that is removed; the run's own is not made. Raises as `train` does, and UsageError for
    a run of several processes.
    """
    config = request.config
    if config.engine.kind != "local":
        what = f"one process is measured, and the engine is {config.engine.kind}"
        raise UsageError(what, where="--measure", fix="leave out --measure; --on HARDWARE gives a bound")
    notes: list[str] = []
    if config.curriculum:
        notes.append("measured with whole samples: stages of shorter ones take less")
    if config.watch.every is not None:
        notes.append(f"what is watched every {config.watch.every:,} steps is not in it")
    if config.recovery.save == "behind":
        notes.append("checkpoints are counted as if training stood still for them")
    measured = measure(request, clock=clock)
    return extrapolated(measured, counts_of(config, request.data), notes=notes)


def measure(request: Request, *, clock: Callable[[], float] = time.perf_counter) -> Measured:
    """The seconds of a few updates, of a window of held-out text, of a checkpoint and of a sample."""
    wanted, architecture = request.config, request.reading.architecture
    config = settled(
        replace(
            wanted,
            curriculum=(),
            eval_every=0,
            final_eval_batches=1,
            checkpoint_every=wanted.steps,
            watch=replace(wanted.watch, every=None, sinks=()),
            samples=replace(wanted.samples, every=None),
            recovery=replace(wanted.recovery, save="wait", keep_every=None, keep_best=0),
        )
    )
    with (
        tempfile.TemporaryDirectory(prefix="vitruvius-measure-") as folder,
        joined(config.engine, device=config.device) as one,
    ):
        ensure_fits(architecture, config, Silent(), one)
        shards = open_data(request.data, architecture, config, Silent())
        with deterministic(seed=config.seed, threads=config.threads):
            keep_freed_memory()
            parts = parts_of(architecture, config, shards, Silent(), one)
            with RunFolder.create(
                Path(folder) / "run",
                config={"train": to_plain(config)},
                spec=to_data(architecture),
                data=data_record(shards, parts),
            ) as run:
                _copy_tokenizer(shards, run.path)
                trainer = parts.trainer(run)
                updates, checkpoint = _updates(trainer, clock)
                return Measured(
                    updates=tuple(updates),
                    window=_window(trainer, clock),
                    checkpoint=checkpoint,
                    sample=_sample(trainer, wanted.samples, clock),
                    left_out=LEFT_OUT,
                )


@final
class _Watching:
    """Keeps what each update took, and asks the run to stop when there are enough."""

    def __init__(self, stop: StopRequest, clock: Callable[[], float]) -> None:
        self.stop, self.clock = stop, clock
        self.seconds: list[float] = []
        self.began = clock()
        self.last = self.began
        self._tokens = 0

    def row(self, row: dict[str, Any]) -> None:
        """One more update."""
        self.seconds.append((row["tokens"] - self._tokens) / row["tokens_per_second"])
        self._tokens = row["tokens"]
        self.last = self.clock()
        enough = len(self.seconds) >= LEFT_OUT + LEAST and self.last - self.began >= BUDGET
        if enough or len(self.seconds) >= LEFT_OUT + MOST:
            self.stop.ask(signal.SIGTERM)

    def started(self, *, step: int, steps: int) -> None:
        """Nothing."""

    def saved(self, checkpoint: Checkpoint) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing: the run itself will say it."""

    def ended(self) -> None:
        """Nothing."""


def _updates(trainer: Trainer, clock: Callable[[], float]) -> tuple[list[float], float]:
    """Seconds of each update, and of the checkpoint after them."""
    stop = StopRequest()
    watching = _Watching(stop, clock)
    trainer.train(stop, watching)
    checkpoint_began = clock()
    trainer.save()
    checkpoint = clock() - checkpoint_began
    seconds = watching.seconds
    return (seconds[LEFT_OUT:] if len(seconds) > LEFT_OUT else seconds[-1:]), checkpoint


def _window(trainer: Trainer, clock: Callable[[], float]) -> float:
    """Of a window of held-out text: the second of two batches, as the first finds things cold."""
    validation = trainer.validation
    if validation is None:
        return 0.0
    windows = min(validation.batches.windows, validation.batches.batch * validation.per_batch)
    seconds = 0.0
    for _ in range(2):
        began = clock()
        validation.score(trainer.model, 1, StopRequest())
        seconds = clock() - began
    return seconds / max(1, windows)


def _sample(trainer: Trainer, samples: Samples, clock: Callable[[], float]) -> float:
    """Of all prompts, once."""
    if samples.every is None:
        return 0.0
    trainer.config = replace(trainer.config, samples=replace(samples, every=1))
    writing = Writing(Silent(), trainer, StopRequest())
    try:
        began = clock()
        writing.row({"step": 1})
        return clock() - began
    finally:
        writing.close()


def _copy_tokenizer(shards: TokenShards, run: Path) -> None:
    source = shards.directory / read_index(shards.directory)["tokenizer"]["file"]
    (run / TOKENIZER_FILE).write_bytes(source.read_bytes())
