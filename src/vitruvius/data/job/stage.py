"""What a stage of a job is: tasks that any process may run, in any order, any number of times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from vitruvius.data.job.job import Job


class Stage(ABC):
    """A part of the work that starts when the stages before it are done.

    A task reads the inputs and what earlier stages left, writes files of its own under `job.folder(name)`, whose
    names hold its number, and returns a summary (plain JSON: counts) that is kept beside them. It writes through
    `job.publishing(path)`, so that a file is whole or absent; a task that was killed is simply run again. What it
    writes depends on the job's plan and on earlier stages alone: never on the process, the time or the other tasks.
    """

    __slots__ = ()
    name: ClassVar[str]
    """Of its folder, and of its line of progress."""
    verb: ClassVar[str]
    """What people are told while it runs: `reading`, `finding near duplicates`."""

    @abstractmethod
    def tasks(self, job: Job) -> int:
        """How many tasks there are, numbered from 0; may be 0. Called when the stages before are done."""

    @abstractmethod
    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Do one task."""
