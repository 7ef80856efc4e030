"""What a run says while it runs: nothing, plain lines, or a live bar."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO, final

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console

    from vitruvius.runs import Checkpoint

SECONDS_BETWEEN_LINES = 5.0
_WINDOW = 32
_BAR = 40
"""Columns of a bar at most; it gets what a line of 60 columns leaves, and is not there where that is less than ten."""


@final
class Silent:
    """A listener that does not listen."""

    def started(self, *, step: int, steps: int) -> None:
        """Nothing."""

    def row(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def saved(self, checkpoint: Checkpoint) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def ended(self) -> None:
        """Nothing."""


class Pace:
    """Tokens per second and time left, from the median of the last updates: one slow step does not move it."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._times: deque[float] = deque(maxlen=_WINDOW)

    def add(self, row: dict[str, Any]) -> None:
        """One more update is done, now."""
        self._recent.append(row["tokens_per_second"])
        self._times.append(time.monotonic())

    @property
    def tokens_per_second(self) -> float:
        """Median over the last updates."""
        return statistics.median(self._recent) if self._recent else 0.0

    def seconds_left(self, steps: int) -> float | None:
        """Time that `steps` more updates take, validation and checkpoints included; None before there are two."""
        if len(self._times) < 2:
            return None
        return steps * (self._times[-1] - self._times[0]) / (len(self._times) - 1)


@final
class PlainProgress:
    """A line now and then: the first update, every validation and checkpoint, the last, and one every few seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._steps = 0
        self._pace = Pace()
        self._last_line = float("-inf")

    def started(self, *, step: int, steps: int) -> None:
        """Say where the run stands."""
        self._steps = steps
        self._say(f"training: step {step:,} of {steps:,}")

    def row(self, row: dict[str, Any]) -> None:
        """Say how the update went, when it is time."""
        self._pace.add(row)
        is_due = time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES
        if is_due or "val_loss" in row or row["step"] == self._steps:
            self._last_line = time.monotonic()
            self._say(described(row, self._steps, self._pace))

    def saved(self, checkpoint: Checkpoint) -> None:
        """Name the checkpoint."""
        self._say(f"saved {checkpoint.path.name}")

    def note(self, text: str) -> None:
        """Say it."""
        self._say(text if text.startswith("warning: ") else f"note: {text}")

    def ended(self) -> None:
        """Nothing: whoever started the run says how it ended."""

    def _say(self, text: str) -> None:
        with _outliving():
            print(text, file=self._stream, flush=True)


@contextlib.contextmanager
def _outliving() -> Generator[None]:
    """A run outlives the terminal or pipe that watches it. rich leaves the process where a pipe is closed."""
    try:
        yield
    except (OSError, ValueError):
        return
    except SystemExit as left:
        if not isinstance(left.__context__, BrokenPipeError):
            raise


@final
class LiveProgress:
    """A bar that stays in place on a terminal, with a line above it for each validation."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = console or Terminal(stderr=True, highlight=False)
        bar = min(_BAR, self._console.width - 60)
        self._beside = bar + 1 if bar >= 10 else 0
        self._bar = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            *([BarColumn(bar_width=bar)] if self._beside else []),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1)
        self._steps = 0
        self._pace = Pace()

    def started(self, *, step: int, steps: int) -> None:
        """Show the bar."""
        self._steps = steps
        with _outliving():
            self._bar.update(self._task, completed=step, total=steps)
            self._bar.start()

    def row(self, row: dict[str, Any]) -> None:
        """Move the bar."""
        self._pace.add(row)
        parts = _parts(row, self._steps, self._pace)
        room = self._console.width - len(f"step {row['step']:,}/{self._steps:,} ") - self._beside - 1
        with _outliving():
            self._bar.update(self._task, completed=row["step"], description=_fitting(parts, room))
            if "val_loss" in row:
                self._console.print(described(row, self._steps, self._pace), markup=False)

    def saved(self, checkpoint: Checkpoint) -> None:
        """Nothing: the bar stands still for a moment."""

    def note(self, text: str) -> None:
        """A line above the bar."""
        with _outliving():
            self._console.print(text if text.startswith("warning: ") else f"note: {text}", markup=False)

    def ended(self) -> None:
        """Take the bar away."""
        with _outliving():
            self._bar.stop()


def described(row: dict[str, Any], steps: int, pace: Pace) -> str:
    """An update in a line: `step 120/1,000  loss 3.214  lr 2.9e-03  3,210 tokens/s  2:10 left`."""
    return "  ".join([f"step {row['step']:,}/{steps:,}", *(text for _, text in _parts(row, steps, pace))])


def _parts(row: dict[str, Any], steps: int, pace: Pace) -> list[tuple[int, str]]:
    """What is said of an update, each with the turn in which it goes where a line is too narrow for all."""
    parts = [(9, f"loss {row['loss']:.3f}")]
    if "val_loss" in row:
        parts.append((5, f"held out {row['val_loss']:.3f}"))
        if row["val_bits_per_byte"] is not None:
            parts.append((1, f"{row['val_bits_per_byte']:.3f} bits/byte"))
    parts += [(2, f"lr {row['lr']:.1e}"), (3, f"{pace.tokens_per_second:,.0f} tokens/s")]
    left = pace.seconds_left(steps - row["step"])
    if left is not None and row["step"] < steps:
        parts.append((8, f"{clock(left)} left"))
    return parts


def _fitting(parts: list[tuple[int, str]], columns: int) -> str:
    """As many of the parts as fit into so many columns, the loss always."""
    kept = list(parts)
    while len(kept) > 1 and len("  ".join(text for _, text in kept)) > columns:
        kept.remove(min(kept))
    return "  ".join(text for _, text in kept)


def clock(seconds: float) -> str:
    """`2:10`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
