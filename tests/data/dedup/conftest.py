"""Jobs whose reading is done: texts in units, as the read stage leaves them."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from vitruvius.data.dedup.dropped import Dropped
from vitruvius.data.dedup.signing import Signer
from vitruvius.data.dedup.stages import stages
from vitruvius.data.document import Document
from vitruvius.data.job.job import Job
from vitruvius.data.job.kept import KeptWriter, suffixes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vitruvius.data.dedup.dropped import Duplicate
    from vitruvius.data.dedup.settings import DedupSettings
    from vitruvius.data.job.stage import Stage

    Named = tuple[str, str]
    """File and text of a document."""
    Found = dict[str, tuple[str, str, float]]
    """File of a duplicate -> kind, file of the keeper, Jaccard."""


def read_job(folder: Path, units: Sequence[Sequence[Named]], settings: DedupSettings) -> Job:
    """A job in `folder` whose units hold these documents, read, kept and signed."""
    job = Job(folder)
    job.__dict__["plan"] = SimpleNamespace(units=tuple(range(len(units))))
    sign = None if settings.near is None else Signer(settings.near).sign
    for number, unit in enumerate(units):
        with job.publishing_all(job.path("read", number), suffixes(signed=sign is not None)) as files:
            writer = KeptWriter(files, seed=0, sign=sign)
            for file, text in unit:
                writer.keep(Document(id=file, file=file, line=None, byte_offset=0, text=text))
    return job


def search(job: Job, what: Sequence[Stage]) -> list[dict[str, int]]:
    """Do every task of these stages; the summaries of each stage, added up."""
    sums: list[dict[str, int]] = []
    for stage in what:
        total: dict[str, int] = {}
        for task in range(stage.tasks(job)):
            for key, value in stage.run(job, task).items():
                total[key] = total.get(key, 0) + value
        sums.append(total)
    return sums


def duplicates(job: Job) -> dict[int, Duplicate]:
    """Key of every duplicate in a job that was searched -> why it is dropped."""
    return {
        unit << 32 | row: duplicate
        for unit in range(len(job.units))
        for row, duplicate in Dropped.of_unit(job, unit).items()
    }


def by_file(job: Job) -> Found:
    """The same with the files' names."""
    return {
        job.origin_of(key).id: (found.kind, job.origin_of(found.keeper_key).id, found.jaccard)
        for key, found in duplicates(job).items()
    }


class Search:
    """Finds duplicates in jobs that are gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(
        self, units: Sequence[Sequence[Named]], settings: DedupSettings, what: Sequence[Stage] | None = None
    ) -> Found:
        """What is found among units of (file, text)."""
        return self.with_sums(units, settings, what)[0]

    def with_sums(
        self, units: Sequence[Sequence[Named]], settings: DedupSettings, what: Sequence[Stage] | None = None
    ) -> tuple[Found, list[dict[str, int]]]:
        """The same, and the summaries of each stage, added up."""
        with self.job(units, settings) as job:
            sums = search(job, stages(settings) if what is None else what)
            return by_file(job), sums

    @contextlib.contextmanager
    def job(self, units: Sequence[Sequence[Named]], settings: DedupSettings) -> Iterator[Job]:
        """A job that was read, for as long as the block lasts."""
        # These jobs need not outlive a power cut, and waiting for the disk is most of their time.
        with tempfile.TemporaryDirectory(dir=self._folder) as folder, mock.patch("os.fsync"):
            yield read_job(Path(folder), units, settings)


@pytest.fixture(scope="session")
def find(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Finds the duplicates among units of (file, text)."""
    return Search(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="session")
def search_stages() -> Callable[..., list[dict[str, int]]]:
    """Does every task of the given stages of a job."""
    return search


@pytest.fixture(scope="session")
def found_in() -> Callable[[Job], Found]:
    """What was found in a job, by the names of files."""
    return by_file
