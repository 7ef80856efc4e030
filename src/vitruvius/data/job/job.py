"""A job folder: the plan of a preparation, and what its stages have done so far.

OUT.work/plan.json              options, inputs, units, and a fingerprint of all that
OUT.work/tokenizer.json         the tokenizer that was named, copied, so that it cannot change on the way
OUT.work/STAGE/00012.json       task 12 of the stage is done; holds its summary
OUT.work/STAGE/00012.*          what the task made
OUT.work/whole/                 the prepared data, before it takes the name OUT
"""

from __future__ import annotations

import contextlib
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.job.kept import Kept, unit_and_row
from vitruvius.data.job.plan import PLAN, read_plan
from vitruvius.runs.files import read_json, replacing, write_json

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from vitruvius.data.job.kept import Origin
    from vitruvius.data.job.plan import Plan
    from vitruvius.data.options import PrepareOptions
    from vitruvius.data.reading.units import Unit

_DONE = re.compile(r"(\d{5,})\.json")


@final
class Job:
    """A job folder, opened: what stages read and write. Any number of processes may hold the same one."""

    def __init__(self, directory: Path | str) -> None:
        """Open the folder.

        Raises:
            DataError: it holds no plan, or one of another version.
        """
        self.directory = Path(directory)

    @cached_property
    def plan(self) -> Plan:
        """What is to be done."""
        return read_plan(self.directory / PLAN)

    @property
    def options(self) -> PrepareOptions:
        """Everything that changes the output."""
        return self.plan.options

    @property
    def units(self) -> tuple[Unit, ...]:
        """The pieces of the inputs, in the order of their documents."""
        return self.plan.units

    def folder(self, stage: str) -> Path:
        """Where a stage's files are; made when it is not there."""
        folder = self.directory / stage
        folder.mkdir(exist_ok=True)
        return folder

    def path(self, stage: str, task: int) -> Path:
        """The files of a task, without their suffix."""
        return self.folder(stage) / f"{task:05d}"

    def publishing(self, path: Path) -> AbstractContextManager[BinaryIO]:
        """A file that takes its name, durably, when the block ends without an error."""
        return replacing(path)

    @contextlib.contextmanager
    def publishing_all(self, path: Path, suffixes: tuple[str, ...]) -> Generator[dict[str, BinaryIO]]:
        """One such file for each suffix (without its dot)."""
        with contextlib.ExitStack() as stack:
            yield {suffix: stack.enter_context(replacing(path.with_suffix(f".{suffix}"))) for suffix in suffixes}

    def kept(self, unit: int) -> Kept:
        """The documents of a unit that passed every rule."""
        return Kept(self.path("read", unit))

    def origin_of(self, key: int) -> Origin:
        """Where the document with this key is from."""
        unit, row = unit_and_row(key)
        return self.kept(unit).origin(row)

    def done(self, stage: str) -> set[int]:
        """The tasks that left their summary."""
        names = (_DONE.fullmatch(path.name) for path in self.folder(stage).iterdir())
        return {int(found[1]) for found in names if found}

    def record(self, stage: str, task: int, summary: dict[str, Any]) -> None:
        """Keep the summary of a task, which says that it is done."""
        write_json(self.path(stage, task).with_suffix(".json"), summary)

    def summary(self, stage: str, task: int) -> dict[str, Any]:
        """What a task that is done has said."""
        return read_json(self.path(stage, task).with_suffix(".json"))

    def summaries(self, stage: str) -> Iterator[dict[str, Any]]:
        """The summaries of a stage, in the order of its tasks."""
        return (self.summary(stage, task) for task in sorted(self.done(stage)))
