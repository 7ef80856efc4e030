"""What the verbs that look at prepared data share: bars of progress, and files that are written whole."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.output import clean_line, say

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from rich.progress import TaskID

    from vitruvius.data.account.statistics import Progress


def data_argument() -> Any:
    """The argument that names a folder of prepared data."""
    from pathlib import Path

    return click.argument("data", metavar="DATA", type=click.Path(path_type=Path))


@contextlib.contextmanager
def progress_bars(style: str) -> Generator[Progress]:
    """A listener that shows stages with the time left on a terminal, and is quiet elsewhere or with `none`."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(file=sys.stderr)
    if style == "none" or not console.is_terminal:
        yield lambda stage, done, total: None  # noqa: ARG005
        return
    columns = (TextColumn("{task.description:24}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def refuse_folders(files: Mapping[str, Path | None]) -> None:
    """Check what will be written to, before minutes are spent. Raises UsageError; `files` is option -> path."""
    from vitruvius.errors import UsageError

    for option, path in files.items():
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{path} is a folder", where=option, fix="name a file")
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}", where=option, fix="make it, or name another file")


def write_pages(pages: Mapping[Path, str]) -> None:
    """Write texts to files, each whole or not at all, and say so."""
    from vitruvius.runs.files import write_atomically

    for path, text in pages.items():
        write_atomically(path, text.encode("utf-8", "replace"))
    if pages:
        say("wrote " + ", ".join(clean_line(str(path)) for path in pages))
