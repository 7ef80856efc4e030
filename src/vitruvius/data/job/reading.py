"""The first stage: read a unit, clean its documents, and keep or drop each."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.cleaning.run import Dropped, clean
from vitruvius.data.job.kept import KeptWriter, suffixes
from vitruvius.data.job.stage import Stage
from vitruvius.data.ledger import Refusal, refusal_row, rule_row
from vitruvius.data.reading.units import Tally, read_unit

if TYPE_CHECKING:
    from vitruvius.data.job.job import Job


@final
class ReadStage(Stage):
    """A task for each unit. Its summary counts what was kept, dropped and changed."""

    __slots__ = ()
    name = "read"
    verb = "reading and cleaning"

    def tasks(self, job: Job) -> int:
        """One for each unit."""
        return len(job.units)

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Read a unit."""
        source = job.options.part(job.plan.sources[task])
        near = source.recipe.deduplicate.near
        sign = None
        if near is not None:
            from vitruvius.data.dedup.signing import Signer

            sign = Signer(near).sign
        dropped: Counter[str] = Counter()
        changed: Counter[str] = Counter()
        with job.publishing_all(job.path(self.name, task), suffixes(signed=sign is not None)) as files:
            writer = KeptWriter(files, seed=job.options.seed, sign=sign)
            tally = Tally()
            for document in read_unit(job.units[task], source.reading, tally=tally):
                if isinstance(document, Refusal):
                    dropped[document.reason] += 1
                    writer.drop(refusal_row(document))
                    continue
                end = clean(document, source.recipe)
                if isinstance(end, Dropped):
                    dropped[end.measure.reason] += 1
                    writer.drop(rule_row(end.document, end.measure, step=end.step))
                else:
                    changed.update(end.changes)
                    writer.keep(end.document)
            return {
                "documents": writer.documents,
                "text_bytes": writer.text_bytes,
                "lines": tally.lines,
                "dropped": dict(sorted(dropped.items())),
                "changed": dict(sorted(changed.items())),
            }
