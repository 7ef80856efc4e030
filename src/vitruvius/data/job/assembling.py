"""The last stage: shards, counts, quarantine and index, from what the units left, in the order of the plan."""

from __future__ import annotations

import heapq
import json
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, final

from vitruvius.data.dedup.dropped import Dropped
from vitruvius.data.job.encoding import ENCODED
from vitruvius.data.job.stage import Stage
from vitruvius.data.job.tokenizing import tokenizer_of
from vitruvius.data.ledger import COUNTS_SCHEMA, DUPLICATES, Tally, duplicate_row
from vitruvius.data.mapped import mapped
from vitruvius.data.packing.index import SPLITS, dtype_for, index_of
from vitruvius.data.packing.writing import SplitWriter
from vitruvius.data.reading.units import first_lines
from vitruvius.runs.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from vitruvius.data.job.job import Job
    from vitruvius.data.tokenization.tokenizer import Tokenizer

WHOLE = "whole"
"""Where the prepared data is put together."""


@final
class AssembleStage(Stage):
    """One task, which writes everything anew when it is run again."""

    __slots__ = ()
    name = "assemble"
    verb = "writing shards"

    def tasks(self, job: Job) -> int:
        """One."""
        del job
        return 1

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Put the data together in the job's folder."""
        del task
        whole = job.directory / WHOLE
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        tokenizer = tokenizer_of(job)
        tokenizer.save(whole / "tokenizer.json")
        splits = _write_shards(job, whole, tokenizer)
        counts = write_evidence(job, whole, after="deduplication")
        counts["splits"] = {
            name: {key: split[key] for key in ("documents", "tokens", "text_bytes")} for name, split in splits.items()
        }
        assert counts["documents_out"] == sum(split["documents"] for split in splits.values())
        write_json(whole / "counts.json", counts)
        index = _index(job, tokenizer, splits)
        write_json(whole / "index.json", index)
        return {"fingerprint": index["fingerprint"]}


def write_evidence(job: Job, folder: Path, *, after: Literal["reading", "deduplication"]) -> dict[str, Any]:
    """Write `quarantine.jsonl` and `counts.json` of what has been done, and return the counts."""
    duplicates: dict[str, Counter[str]] = defaultdict(Counter)
    before = first_lines(job.units, [summary["lines"] for summary in job.summaries("read")])
    with (folder / "quarantine.jsonl").open("wb") as file:
        for unit, source in enumerate(job.plan.sources):
            twins = _duplicates(job, unit) if after == "deduplication" else iter(())
            # In the order of reading, which is the same for every cut of the inputs into units.
            for _, row in heapq.merge(job.kept(unit).drops(), twins, key=itemgetter(0)):
                if row["reason"] in DUPLICATES:
                    duplicates[source][row["reason"]] += 1
                if row["line"] is not None:
                    row["line"] += before[unit]
                file.write(json.dumps(row).encode() + b"\n")
    counts = counts_of(job, duplicates)
    write_json(folder / "counts.json", counts)
    return counts


def tally_of(job: Job, *, source: str | None = None) -> Tally:
    """What reading made of the documents of a source, or of all."""
    units = [unit for unit, name in enumerate(job.plan.sources) if source in {None, name}]
    return Tally.of([job.summary("read", unit) for unit in units])


def counts_of(job: Job, duplicates: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The content of `counts.json`; `duplicates` is source -> reason -> documents."""
    every: Counter[str] = Counter()
    for some in duplicates.values():
        every.update(some)
    whole = tally_of(job).without(every)
    parts = {
        part.name: tally_of(job, source=part.name).without(duplicates.get(part.name, {})).counts()
        for part in job.options.parts
    }
    assert whole.documents_in == sum(part["documents_in"] for part in parts.values())
    return {
        "schema": COUNTS_SCHEMA,
        **whole.counts(),
        "max_bad_rate": job.options.max_bad_rate,
        "sources": parts,
    }


def _duplicates(job: Job, unit: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The quarantine's rows for a unit's duplicates, each with its row among the kept documents."""
    kept = job.kept(unit)
    for row, twin in sorted(Dropped.of_unit(job, unit).items()):
        keeper = job.origin_of(twin.keeper_key).id
        yield row, duplicate_row(kept.origin(row), kind=twin.kind, keeper=keeper, jaccard=twin.jaccard)


def _write_shards(job: Job, whole: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    weights = {part.name: part.weight for part in job.options.parts if part.weight is not None}
    size = {"vocab_size": tokenizer.vocab_size, "shard_tokens": job.options.shard_tokens}
    train, validation = (SplitWriter(whole, split, weights=weights, **size) for split in SPLITS)
    dtype = dtype_for(tokenizer.vocab_size)
    for unit, source in enumerate(job.plan.sources):
        path, kept = job.path("encode", unit), job.kept(unit)
        tokens, start = mapped(path.with_suffix(".tokens"), dtype), 0
        for entry in mapped(path.with_suffix(".rows"), ENCODED):
            end = start + int(entry["tokens"])
            origin = kept.origin(int(entry["row"]))
            (validation if entry["held_out"] else train).add(
                tokens[start:end],
                text_bytes=int(kept.rows[int(entry["row"])]["bytes"]),
                source=source,
                origin={"id": origin.id, "url": origin.url},
            )
            start = end
    return {"train": train.close(), "validation": validation.close()}


def _index(job: Job, tokenizer: Tokenizer, splits: dict[str, Any]) -> dict[str, Any]:
    options = job.options
    parts, inputs = [part.as_json() for part in options.parts], [asdict(file) for file in job.plan.files]
    return index_of(tokenizer, splits, options.as_json() | {"parts": parts, "inputs": inputs})
