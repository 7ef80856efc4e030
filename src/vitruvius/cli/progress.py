"""Progress of work in stages, on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Literal

from vitruvius.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.progress import TaskID

    from vitruvius.data.progress import Progress

Style = Literal["quiet", "bars", "lines"]
_REDRAW_SECONDS = 0.1


@contextlib.contextmanager
def progress_of(style: Style) -> Generator[Progress]:
    """A listener that shows each stage with the time left on a terminal.

    Elsewhere `lines` says that a stage begins, and `bars` nothing; `quiet` is quiet everywhere.
    """
    if style == "quiet":
        yield lambda stage, done, total: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description:26}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}
        drawn = 0.0

        def show(stage: str, done: int, total: int | None) -> None:
            nonlocal drawn
            if total == 0:
                return
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
                if style == "lines" and not console.is_terminal:
                    say(f"{stage} ...")
            if time.monotonic() - drawn > _REDRAW_SECONDS or done == total:
                drawn = time.monotonic()
                bars.update(tasks[stage], completed=done, total=total)

        yield show
