"""Encoding: the documents that stay, as tokens, unit by unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from vitruvius.data.dedup.dropped import Dropped
from vitruvius.data.job.stage import Stage
from vitruvius.data.job.tokenizing import tokenizer_of
from vitruvius.data.packing.index import dtype_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data.job.job import Job

ENCODED: list[tuple[str, str]] = [("row", "<u4"), ("held_out", "<u4"), ("tokens", "<u8")]
"""The numpy type of an encoded document: its row among the unit's kept documents, its split, its length."""


@final
class EncodeStage(Stage):
    """A task for each unit: `encode/00012.tokens`, and a row of `ENCODED` for each document."""

    __slots__ = ()
    name = "encode"
    verb = "encoding"

    def tasks(self, job: Job) -> int:
        """One for each unit."""
        return len(job.units)

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Encode a unit."""
        import numpy as np

        tokenizer = tokenizer_of(job)
        dtype = dtype_for(tokenizer.vocab_size)
        threshold = job.summary("split", 0)["held_out_below"]
        kept, gone = job.kept(task), Dropped.of_unit(job, task)
        staying = [row for row in range(len(kept.rows)) if row not in gone]
        places = kept.rows["place"]
        end = np.array([tokenizer.eos_id], dtype=dtype).tobytes()
        total = 0

        def texts() -> Iterator[str]:
            return (kept.text(row) for row in staying)

        with job.publishing_all(job.path(self.name, task), ("tokens", "rows")) as files:
            for row, ids in zip(staying, tokenizer.encode_documents(texts()), strict=True):
                files["tokens"].write(ids.astype(dtype).tobytes() + end)
                entry = (row, int(places[row]) < threshold, len(ids) + 1)
                files["rows"].write(np.array([entry], dtype=ENCODED).tobytes())
                total += len(ids) + 1
        return {"documents": len(staying), "tokens": total}
