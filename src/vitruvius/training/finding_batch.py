"""The batch size at which a run is fast and fits: real updates of each size, in a process of its own. No torch here.

The whole batch of a run stays what its settings say; what is found is how many samples of it to compute at a time.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from vitruvius.data import TokenShards
from vitruvius.errors import ExaminedFailedError, UsageError
from vitruvius.report.durations import duration
from vitruvius.runs.available import available_memory, has_limited_addresses
from vitruvius.spec import to_data
from vitruvius.training.batch_search import Ladder, Tried, choose, ladder, noise, search
from vitruvius.training.config import ensure_right_data, to_plain
from vitruvius.training.room import memory_of_run
from vitruvius.training.vocabulary import ensure_vocabulary
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig

SCHEMA = "vitruvius.find-batch/1"
_WORKER = ("-m", "vitruvius.training.batch_worker")
_TOLD = 300
_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""What is there where a driver for CUDA is, under Linux and in its guise on Windows."""
_SETTING = 8.0
"""Seconds that a process takes besides its updates, until the first one has said how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be found."""

    architecture: Architecture
    config: TrainConfig
    """Resolved."""
    data: Path | None
    """Prepared data; None for random tokens."""
    whole: int | None
    """The batch that stays; None where nobody has chosen one, and what is found becomes the batch."""
    least: int | None = None
    most: int = 1024
    within: float = 0.05
    """A size that reaches the best rate but for this share is as good."""
    margin: float = 0.1
    """Share of the memory that is to stay free."""
    memory: int | None = None
    """Bytes that may be taken; what the machine has when not given."""
    rounds: int = 2
    seconds: float = 5.0
    """For the updates of a size in a round."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """What was measured, and what follows."""

    question: Question
    tried: dict[int, Tried]
    chosen: Tried | None
    available: int | None
    """Bytes that there are; None where nobody tells."""
    limit: str
    """What sets them."""
    device: str
    """Where it was measured."""
    interrupted: bool
    """Whether somebody asked to stop before everything was measured."""

    def pieces(self, batch: int) -> int:
        """In how many pieces the whole batch is computed at a size."""
        return 1 if self.question.whole is None else self.question.whole // batch

    @property
    def settings(self) -> dict[str, int] | None:
        """`train.batch` and `train.accumulate` of the sweet spot."""
        if self.chosen is None:
            return None
        size = self.chosen.batch
        return {"train.batch": self.question.whole or size, "train.accumulate": self.pieces(size)}

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable answer, schema `vitruvius.find-batch/1`."""
        question = self.question
        sizes = [self.tried[size] for size in sorted(self.tried)]
        fits = fits_in(question, self.available)
        best = max((each.rate for each in sizes if fits(each)), default=0.0)
        own, between = noise(sizes)
        settings = self.settings
        return {
            "schema": SCHEMA,
            "name": question.architecture.name,
            "device": self.device,
            "data": None if question.data is None else str(question.data),
            "context": question.config.context,
            "whole_batch": question.whole,
            "within": question.within,
            "margin": question.margin,
            "available_bytes": self.available,
            "limit": self.limit,
            "rounds": question.rounds,
            "interrupted": self.interrupted,
            "noise": own,
            "difference": between,
            "sizes": [
                {
                    "batch": each.batch,
                    "accumulate": self.pieces(each.batch),
                    "status": each.status,
                    "fits": fits(each),
                    "tokens_per_second": each.rate or None,
                    "spread": each.spread if each.rates else None,
                    "updates": len(each.rates),
                    "share_of_best": each.rate / best if best and each.rates else None,
                    "peak_bytes": each.peak,
                    "predicted_bytes": each.predicted,
                    "taken_bytes": each.taken,
                    "why": each.why or None,
                }
                for each in sizes
            ],
            "chosen": None if self.chosen is None else self.chosen.batch,
            "settings": settings,
            "arguments": None if settings is None else [f"{name}={value}" for name, value in settings.items()],
        }


def fits_in(question: Question, available: int | None) -> Callable[[Tried], bool]:
    """Whether a size leaves the margin free."""

    def fits(tried: Tried) -> bool:
        if tried.status != "measured":
            return False
        if available is None or tried.taken is None:
            return True
        return tried.taken <= (1 - question.margin) * available

    return fits


@dataclass(slots=True)
class _Finding:
    """The search while it goes on."""

    question: Question
    say: Callable[[str], None]
    available: int | None = None
    limit: str = ""
    tried: dict[int, Tried] = field(default_factory=dict[int, Tried])
    device: str = ""
    took: dict[int, float] = field(default_factory=dict[int, float])
    """Seconds that each size took, the last time."""
    process: subprocess.Popen[bytes] | None = None

    def fits(self, tried: Tried) -> bool:
        """Whether a size leaves the margin free of the memory that is known by now."""
        return fits_in(self.question, self.available)(tried)

    def once(self, size: int) -> Tried:
        """A size for the first time."""
        question = self.question
        config = self._config(size)
        memory = memory_of_run(question.architecture, config)
        certain = memory.peak - memory.unsure
        if self.available is not None and certain > self.available:
            why = f"predicted to take {format_bytes(certain)}, and there are {format_bytes(self.available)}"
            tried = Tried(batch=size, status="too-large", predicted=memory.peak, why=why)
            self.tried[size] = tried
            self.say(f"batch {size:,}: {why}")
        else:
            here = max(self.took.values(), default=_SETTING)
            after = (self.question.rounds - 1) * (here + sum(self.took.values()))
            more = f", and at least {duration(after)} after it" if after else ""
            self.say(f"batch {size:,}: about {duration(here)}{more} ...")
            tried = replace(self._measured(size, config, wants_peak=True), predicted=memory.peak)
            self.tried[size] = tried  # what has been said is also in the table, whenever Ctrl-C comes
            self._say(tried, "")
        return tried

    def again(self, tried: Tried, left: float, number: int) -> None:
        """A size once more; what it adds is its times. left: seconds until all is measured."""
        about = duration(left)
        self.say(f"batch {tried.batch:,}, round {number} of {self.question.rounds}: about {about} left ...")
        more = self._measured(tried.batch, self._config(tried.batch), wants_peak=False)
        if more.status == "measured":
            self.tried[tried.batch] = replace(
                tried,
                rates=(*tried.rates, *more.rates),
                medians=(*tried.medians, *more.medians),
                taken=None if tried.taken is None or more.taken is None else max(tried.taken, more.taken),
            )
        else:
            # It fitted once and then did not: what fits is not this.
            self.tried[tried.batch] = replace(tried, status=more.status, why=more.why)

    def _config(self, size: int) -> TrainConfig:
        """Of an update that takes the memory of the whole batch: two pieces do, where it has more."""
        pieces = min(2, self._pieces(size))
        return replace(self.question.config, batch=size * pieces, accumulate=pieces)

    def _pieces(self, size: int) -> int:
        return 1 if self.question.whole is None else self.question.whole // size

    def _say(self, tried: Tried, more: str) -> None:
        if tried.status == "measured":
            peak = "" if tried.taken is None else f", {format_bytes(tried.taken)}"
            self.say(f"batch {tried.batch:,}: {tried.rate:,.0f} tokens/s{peak}{more}")
        else:
            self.say(f"batch {tried.batch:,}: {tried.why}")

    def _measured(self, size: int, config: TrainConfig, *, wants_peak: bool) -> Tried:
        began = time.monotonic()
        question = self.question
        found = self._asked(
            {
                "spec": to_data(question.architecture),
                "config": to_plain(config),
                "data": None if question.data is None else str(question.data.resolve()),
                "seconds": question.seconds,
                "peak": wants_peak,
            }
        )
        self.took[size] = time.monotonic() - began
        if "refused" in found:
            raise UsageError(**found["refused"])
        if "out_of_memory" in found:
            return Tried(batch=size, status="out-of-memory", why=found["out_of_memory"])
        if "failed" in found and not any(each.rates for each in self.tried.values()):
            # Of a smaller size it would be the same.
            what = f"no update can be computed: {found['failed']}"
            raise ExaminedFailedError(what, where=f"batch {size:,}", fix="vitruvius check SPEC names what is wrong")
        if "failed" in found:
            return Tried(batch=size, status="failed", why=found["failed"])
        self.device = found["device"]
        if found["room"] is not None and question.memory is None:
            self.available, self.limit = found["room"], "free memory of the device"
        assert config.context is not None
        pieces, count = config.accumulate, self._pieces(size)
        tokens = count * size * config.context
        both = zip(found["gradients"], found["applied"], strict=True)
        rates = tuple(tokens / (count * gradients / pieces + applied) for gradients, applied in both)
        return Tried(
            batch=size,
            status="measured",
            rates=rates,
            medians=(median(rates),),
            peak=found["peak"],
            taken=found["taken"],
        )

    def _asked(self, question: dict[str, Any]) -> dict[str, Any]:
        """What a process of its own says; what killed it where it says nothing."""
        with tempfile.TemporaryFile() as errors:
            # A group of its own: Ctrl-C is for this process, which ends the other.
            self.process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                [sys.executable, *_WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            try:
                out, _ = self.process.communicate(json.dumps(question).encode())
            finally:
                if self.process.poll() is None:
                    self.process.kill()
                    self.process.wait()
            code = self.process.returncode
            if code == 0:
                return json.loads(out)
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        if code == -signal.SIGKILL:
            return {"out_of_memory": "the system has killed the process, as it does when memory runs out"}
        if code < 0 and has_limited_addresses():
            # Some libraries in C do not survive that a few bytes are refused.
            why = f"the process ended by signal {-code}, in an address space that is limited (ulimit -v)"
            return {"out_of_memory": why}
        if "MemoryError" in last[0] or "memory" in last[0].lower():
            return {"out_of_memory": last[0][:_TOLD]}
        return {"failed": f"the process ended with {code}: {last[0][:_TOLD]}"}


def find_batch(question: Question, say: Callable[[str], None] = lambda _text: None) -> Answer:
    """Measure sizes and choose one. `say` is told what is done, with the time left where it is known.

    Ctrl-C ends it with what was measured so far. Raises UsageError for numbers that make no sense and for what `train`
    would refuse, DataError when the data folder is none.
    """
    _ensure(question)
    rungs: Ladder = ladder(whole=question.whole, least=question.least, most=question.most)
    finding = _Finding(question, say)
    if question.memory is not None:
        finding.available, finding.limit = question.memory, "--memory"
    elif not _may_be_cuda(question.config) and (room := available_memory()) is not None:
        finding.available, finding.limit = room.size, room.limit
    interrupted = False
    try:
        search(
            rungs,
            finding.once,
            within=question.within,
            fits=finding.fits,
        )
        for number in range(2, question.rounds + 1):
            sizes = [size for size, each in sorted(finding.tried.items(), reverse=number % 2 == 0) if each.rates]
            for place, size in enumerate(sizes):
                whole = (question.rounds - number) * sum(finding.took[each] for each in sizes)
                left = whole + sum(finding.took[each] for each in sizes[place:])
                finding.again(finding.tried[size], left, number)
    except KeyboardInterrupt:
        interrupted = True
    chosen = choose(finding.tried.values(), within=question.within, fits=fits_in(question, finding.available))
    return Answer(
        question=question,
        tried=finding.tried,
        chosen=chosen,
        available=finding.available,
        limit=finding.limit,
        device=finding.device or question.config.device,
        interrupted=interrupted,
    )


def _may_be_cuda(config: TrainConfig) -> bool:
    """Whether it may be a GPU that is to hold the run, whose memory is known once a process has seen it."""
    return config.device == "cuda" or (config.device == "auto" and any(map(Path.exists, _DRIVERS)))


def _ensure(question: Question) -> None:
    config = question.config
    if config.engine.kind != "local":
        what = f"one process is measured, and the engine is {config.engine.kind}"
        fix = "leave train.engine out, and give --batch the share of one process"
        raise UsageError(what, where="train.engine.kind", fix=fix)
    if question.data is None and config.objective == "seq2seq":
        raise UsageError("seq2seq reads pairs", where="--data", fix="add --data DIR, a folder that `data pairs` wrote")
    if question.data is not None:
        ensure_right_data(question.data, config)
        ensure_vocabulary(TokenShards.open(question.data, "train", verify="sizes"), question.architecture, config)
    for name, share in (("--within", question.within), ("--margin", question.margin)):
        if not 0 <= share < 1:
            raise UsageError("a share of 0 to 99 percent is due", where=name, fix=f"for example: {name} 5")
    if question.rounds < 1:
        raise UsageError(f"{question.rounds} rounds measure nothing", where="--rounds", fix="use 1 or more")
    if not 0 < question.seconds <= 3600:
        raise UsageError("the seconds are out of range", where="--seconds", fix="use 0.1 to 3600")
    if question.memory is not None and question.memory < 1:
        raise UsageError("no memory is left for anything", where="--memory", fix="for example: --memory 16GB")
