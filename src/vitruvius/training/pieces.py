"""In how many pieces a batch is computed (and held-out windows are scored), and more of them when one does not fit.

An update whose memory runs out is thrown away: gradients, what routers gathered and torch's random state are put back.
Then the pieces are halved and the same batch is computed again. The batch, its tokens, the learning rate and the loss
stay what they were, the loss up to the order of its sums (and dropout, where there is any, draws other numbers). The
number of pieces stands in every checkpoint, and each halving in `events.jsonl`, so that a resumed run halves at the
same step without running out of memory there again.
"""

from __future__ import annotations

import contextlib
import gc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeGuard, cast, final

import torch

from vitruvius.errors import RunError
from vitruvius.nn.ops import give_freed_memory_back
from vitruvius.runs.files import read_json, write_json
from vitruvius.runs.shortage import bytes_asked, is_out_of_memory
from vitruvius.training.companions import Companion
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from pathlib import Path

    from vitruvius.runs import RunReader
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines import Engine
    from vitruvius.training.loop import Listener, Trainer

EVENT = "out-of-memory"
"""Kind of the events that say when a batch was cut into more pieces."""
LEFT_FILE = "out-of-memory.json"
"""Where a process leaves word for the next start, when it ran out of memory in a pass that others compute with it."""
_TOLD = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Memory has run out, and what was computed is thrown away."""

    asked: int | None
    """Bytes that could not be had; None where the message does not say."""
    error: str
    """The message, shortened."""
    process: int = 0
    """Which process it was."""

    @classmethod
    def of(cls, error: BaseException, *, process: int = 0) -> Self:
        """What an error says; it keeps nothing of the error, whose frames hold the tensors of the pass."""
        text = " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())
        return cls(asked=bytes_asked(error), error=text[:_TOLD], process=process)

    @property
    def words(self) -> str:
        """`out of memory`, and what was asked for."""
        where = f" in process {self.process}" if self.process else ""
        why = self.error if self.asked is None else f"{format_bytes(self.asked)} asked for"
        return f"out of memory{where} ({why})"


@final
class Pieces(Companion):
    """How many pieces a batch is computed in, and how many held-out windows are scored at a time."""

    name: ClassVar[str] = "pieces"

    def __init__(self, config: TrainConfig) -> None:
        self.accumulate = config.accumulate
        """Pieces of a batch, in every process."""
        self.windows: int | None = None
        """Held-out windows that a process scores at a time at most; None: as many as there are in a batch."""
        self._planned: dict[int, int] = {}
        self._trainer: Trainer | None = None

    def started(self, trainer: Trainer) -> None:
        """Take hold of the trainer whose pieces they are."""
        self._trainer = trainer
        # Where processes hold parts of one model, each pass is one of all of them, and none can leave it.
        if trainer.validation is not None and trainer.engine.has_whole_model:
            trainer.validation.slices = Slices(self, trainer) if _halves(trainer.config) else None

    def before(self, step: int) -> None:
        """Cut the batch of this update as the run was at this step before it was stopped, if it was."""
        planned = [pieces for at, pieces in self._planned.items() if at <= step]
        self._set(max([self.accumulate, *planned]))

    def state(self) -> dict[str, Any]:
        """Both numbers."""
        return {"accumulate": self.accumulate, "windows": self.windows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave; a run that goes back keeps the smaller pieces. Raises ValueError as asked."""
        accumulate, windows = state.get("accumulate"), state.get("windows")
        if not _is_count(accumulate):
            raise ValueError("accumulate is no whole number from 1 on")
        if windows is not None and not _is_count(windows):
            raise ValueError("windows is no whole number from 1 on")
        self.accumulate = max(self.accumulate, accumulate)
        if windows is not None:
            self.windows = windows if self.windows is None else min(self.windows, windows)

    def plan(self, halvings: Iterable[tuple[int, int]]) -> None:
        """Cut batches so from these steps on: (step, pieces), as `halvings_of` reads them."""
        for step, pieces in halvings:
            self._planned[step] = max(pieces, self._planned.get(step, 0))

    def halve(self, trainer: Trainer, step: int, shortage: Shortage, listener: Listener) -> None:
        """Cut the batch of update `step` into more pieces. Raises RunError where a piece is one sample already."""
        release()
        before = self.accumulate
        each = trainer.config.batch // trainer.engine.shares
        after = next((n for n in range(2 * before, each + 1) if each % n == 0), None)
        if after is None:
            raise _no_smaller(trainer, step, shortage)
        self._set(after)
        trainer.run.event(
            EVENT,
            step=step,
            where="update",
            asked_bytes=shortage.asked,
            accumulate=before,
            next_accumulate=after,
            samples_at_a_time=each // after,
            process=shortage.process,
            error=shortage.error,
        )
        listener.note(
            f"warning: step {step:,}: {shortage.words}: the batch is computed again, and from here on, in {after:,} "
            f"pieces of {_samples(each // after)} instead of {before:,} of {each // before:,} "
            f"(train.accumulate={after}); the update is the same up to rounding"
        )

    def leave_word(self, trainer: Trainer, shortage: Shortage) -> RunError:
        """The error of a process that ran out of memory in a pass that the others compute with it.

        They wait for it inside that pass and cannot be told, so that all end; the next start goes on in halves.
        """
        each, step = trainer.config.batch // trainer.engine.shares, trainer.state.step + 1
        after = next((n for n in range(2 * self.accumulate, each + 1) if each % n == 0), each)
        if after == self.accumulate:
            return _no_smaller(trainer, step, shortage, saves=False)
        with contextlib.suppress(OSError):
            write_json(
                trainer.run.path / LEFT_FILE,
                {"step": step, "next_accumulate": after, "process": shortage.process, "error": shortage.error},
            )
        return RunError(
            f"step {step:,}: {shortage.words}, in a pass that all processes compute together",
            where=str(trainer.run.path),
            fix=f"go on with --resume: it computes each batch in {after:,} pieces instead of {self.accumulate:,}; "
            "torchrun --max-restarts does so by itself where its command resumes",
        )

    def _set(self, accumulate: int) -> None:
        self.accumulate = accumulate
        trainer = self._trainer
        if trainer is None:
            return
        fits = fitting(trainer.config.batch, trainer.engine.shares, at_least=accumulate)
        if fits != trainer.config.accumulate:
            self.accumulate = fits
            trainer.config = trainer.updater.config = replace(trainer.config, accumulate=fits)
            if trainer.engine.shares > 1:
                trainer.batches.share(trainer.engine.places(trainer.config.batch, fits).tolist())


@final
class Slices:
    """How many held-out windows are scored at a time: each process by itself, which changes no other one's."""

    def __init__(self, pieces: Pieces, trainer: Trainer) -> None:
        self._pieces = pieces
        self._trainer = trainer

    def at_a_time(self, count: int) -> int:
        """Of so many windows."""
        most = self._pieces.windows
        return count if most is None else min(count, most)

    def shorten(self, windows: int, shortage: Shortage) -> None:
        """So many did not fit. Raises RunError where that was one."""
        release()
        trainer = self._trainer
        if windows == 1:
            raise RunError(
                f"validation after step {trainer.state.step:,}: {shortage.words} with one window at a time",
                where=str(trainer.run.path),
                fix="go on with --resume where there is more memory, or train into a new folder with less --context",
            )
        after = self._pieces.windows = windows // 2
        trainer.run.event(
            EVENT,
            step=trainer.state.step,
            where="validation",
            asked_bytes=shortage.asked,
            windows=windows,
            next_windows=after,
            process=shortage.process,
            error=shortage.error,
        )
        trainer.saver.note(
            f"warning: validation after step {trainer.state.step:,}: {shortage.words}: {after:,} instead of "
            f"{windows:,} windows are scored at a time from here on; the score is the same up to rounding"
        )


def _halves(config: TrainConfig) -> bool:
    return config.recovery.out_of_memory == "halve"


def fitting(batch: int, shares: int, *, at_least: int) -> int:
    """The fewest pieces, from a number on, that so many shares of a batch can be computed in; else the most."""
    each = batch // shares
    return next((n for n in range(at_least, each + 1) if each % n == 0), max(1, each))


def halvings_of(reader: RunReader) -> list[tuple[int, int]]:
    """(step, pieces) of every halving that a run's folder knows of; lines that are none are passed over."""
    told = [event for event in reader.events() if event.get("kind") == EVENT and event.get("where") == "update"]
    found: list[Mapping[str, Any]] = [*told, _left(reader.path)]
    pairs = [(each.get("step"), each.get("next_accumulate")) for each in found]
    return [(step, pieces) for step, pieces in pairs if _is_count(step) and _is_count(pieces)]


def smallest_yet(config: TrainConfig, halvings: Iterable[tuple[int, int]], engine: Engine) -> TrainConfig:
    """The config as the run ends up computing, for a look at the memory that it takes."""
    most = max([config.accumulate, *(pieces for _, pieces in halvings)])
    return replace(config, accumulate=fitting(config.batch, engine.shares, at_least=most))


def release() -> None:
    """Let go of what a pass that failed has left: cycles through its graph, blocks that the allocators keep."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    give_freed_memory_back()


@contextlib.contextmanager
def applying(trainer: Trainer) -> Generator[None]:
    """Raise RunError where memory runs out while weights change: then nobody can tell which of them have."""
    short: Shortage | None = None
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        short = Shortage.of(error, process=trainer.engine.rank)
    if short is not None:
        raise ended_by(short, trainer, f"step {trainer.state.step + 1:,}, while the optimizer changed the weights")


def ended_by(shortage: Shortage, trainer: Trainer, place: str) -> RunError:
    """The error of a run whose state in memory is worth nothing any more; its checkpoints are."""
    steps = [checkpoint.step for checkpoint in trainer.run.reader.checkpoints()]
    kept = (
        f"checkpoint step-{max(steps)} is whole, and what came after it is done again" if steps else "nothing is saved"
    )
    return RunError(
        f"{shortage.words}, {place}: {kept}",
        where=str(trainer.run.path),
        fix="free some memory and go on with --resume" + ("" if steps else "; or take a smaller batch or context"),
    )


def _no_smaller(trainer: Trainer, step: int, shortage: Shortage, *, saves: bool = True) -> RunError:
    """The error for a single sample that does not fit; the state before the update is saved where that can be."""
    if saves and trainer.state.step:
        try:
            if not trainer.is_saved:
                trainer.save()
        except Exception as error:
            if not (isinstance(error, RunError) or is_out_of_memory(error)):
                raise
    config = trainer.config
    assert config.context is not None
    ways = [f"--context {config.context // 2}"] if config.context > 1 else []
    ways += ["--set train.optimizer=adamw-8bit"] if config.optimizer == "adamw" else []
    steps = [checkpoint.step for checkpoint in trainer.run.reader.checkpoints()]
    again = "" if config.checkpointing == "layers" else "and --set train.checkpointing=layers, or "
    saved = f"; checkpoint step-{max(steps)} is whole" if steps else ""
    return RunError(
        f"step {step:,}: {shortage.words} with one sample at a time: no smaller piece is left{saved}",
        where=str(trainer.run.path),
        fix=f"go on with --resume {again}where there is more memory, or train into a new folder with "
        f"{', '.join([*ways, 'a smaller architecture'])}",
    )


def _left(run: Path) -> Mapping[str, Any]:
    try:
        word = read_json(run / LEFT_FILE)
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", word) if isinstance(word, dict) else {}


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count:,} samples"
