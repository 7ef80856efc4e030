"""Where a job looks for duplicates, and which it found."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data.dedup.dropped import Duplicate
    from vitruvius.data.dedup.settings import DedupSettings
    from vitruvius.data.job.job import Job
    from vitruvius.data.job.stage import Stage


def settings_of(job: Job) -> DedupSettings:
    """What the job's recipes say, which agree."""
    return job.options.parts[0].recipe.deduplicate


def duplicate_stages(settings: DedupSettings) -> tuple[Stage, ...]:
    """The stages that find them; none where none are looked for."""
    if settings.exact == "off" and settings.near is None:
        return ()
    from vitruvius.data.dedup.stages import stages

    return stages(settings)


def duplicates_of(job: Job, unit: int) -> Mapping[int, Duplicate]:
    """The rows of a unit's kept documents that are dropped as duplicates."""
    settings = settings_of(job)
    if settings.exact == "off" and settings.near is None:
        return {}
    from vitruvius.data.dedup.dropped import Dropped

    return Dropped.of_unit(job, unit)
