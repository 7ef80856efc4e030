"""Which samples an update has read: computed again from the record of a run, and proved by its digests. No torch.

Every row of `metrics.jsonl` has the digest of all samples so far. That of an update is the one before it, chained with
the digest of the batch: a batch that was not read would need a collision of 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data import TokenShards
from vitruvius.data.account.folder import id_of, shard_origins
from vitruvius.data.account.reread import decoded
from vitruvius.data.packing.batches import chained
from vitruvius.errors import DataError, RunError, UsageError
from vitruvius.runs import RunReader
from vitruvius.training.checking import from_plain
from vitruvius.training.config import batches_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vitruvius.data import PackedBatches
    from vitruvius.data.packing.batches import Drawn
    from vitruvius.data.packing.index import Shard

SCHEMA = "vitruvius.runs-samples/1"
START = "0" * 16
"""The digest before the first update."""
MOST_AHEAD = 4096
"""So many batches a run may have passed over, where its events do not say how many."""


def samples_of_step(
    run: Path | str,
    step: int,
    *,
    data: Path | str | None = None,
    characters: int | None = None,
) -> dict[str, Any]:
    """What update `step` (from 1) of a run has read, as JSON data of schema `vitruvius.runs-samples/1`.

    data: where the data lies now, when it was moved. characters: how much of each sample's text is told; None: none.

    Raises:
        RunError: the folder is no run, has no such update, or its record does not go with the samples.
        UsageError, DataError: the data is gone or another one.
    """
    reader = RunReader(run)
    record = reader.record()
    row, before = _rows(reader, step)
    settings = record["config"].get("train")
    known = record["data"] or {}
    if not isinstance(settings, dict) or not isinstance(known.get("path"), str):
        raise RunError("run.json does not say how it was trained", where=str(reader.path), fix="restore it from a copy")
    config = from_plain(settings)
    if config.context is None:
        raise RunError("config.train has no context", where=str(reader.path), fix="restore run.json from a copy")
    try:
        shards = TokenShards.open(data or known["path"], "train", verify="sizes")
    except DataError as error:
        if data is not None:
            raise
        fix = "name the folder where the data lies now with --data"
        raise DataError(error.what, where=error.where, fix=fix) from None
    if shards.fingerprint != known.get("fingerprint"):
        raise RunError(
            "the data is not the data that this run was trained on (fingerprint)",
            where=str(shards.directory),
            fix="name the right folder with --data",
        )
    batches = batches_of(shards, config)
    number = _proved(reader, batches, step, row=row, before=before)
    drawn = batches.drawn(number)
    return {
        "schema": SCHEMA,
        "run": str(run),
        "step": step,
        "batch": number,
        "applied": row.get("applied", 1) != 0,
        "digest": {"before": before, "batch": drawn.sample_digest, "after": row["samples"]},
        "hooks": [use.hook for use in config.preprocess],
        "context": drawn.context,
        "samples": _samples(batches, drawn, characters),
    }


def _rows(reader: RunReader, step: int) -> tuple[dict[str, Any], str]:
    """The row of an update, and the digest before it."""
    rows = {row["step"]: row for row in reader.metrics() if type(row.get("step")) is int}
    if not rows:
        what, fix = "the run has done no update yet", "wait for its first row in metrics.jsonl"
        raise RunError(what, where=str(reader.path), fix=fix)
    if step not in rows:
        what = f"there is no row of step {step:,}; the run has those of {min(rows):,} to {max(rows):,}"
        raise UsageError(what, where="--step", fix=f"use --step {min(max(step, min(rows)), max(rows))}")
    before = START if step == 1 else rows.get(step - 1, {}).get("samples")
    row = rows[step]
    if not isinstance(row.get("samples"), str) or not isinstance(before, str):
        what = f"the rows of steps {step - 1:,} and {step:,} do not both have a digest of the samples"
        raise RunError(what, where=str(reader.path / "metrics.jsonl"), fix="restore metrics.jsonl from a copy")
    return row, before


def _proved(reader: RunReader, batches: PackedBatches, step: int, *, row: dict[str, Any], before: str) -> int:
    """The number of the batch that the update has read. Raises RunError when none agrees with the digests."""
    for number in _candidates(reader, step):
        if chained(before, batches.drawn(number).sample_digest) == row["samples"]:
            return number
    raise RunError(
        f"no batch goes with the digest of step {step:,} in metrics.jsonl",
        where=str(reader.path),
        fix="run.json or metrics.jsonl was changed after it was written: restore it from a copy",
    )


def _candidates(reader: RunReader, step: int) -> Iterator[int]:
    """Batches that the update can have read, the likeliest first: a rewind passes over some."""
    yield step - 1
    tried = {0}
    for event in reversed(reader.events()):
        following, back = event.get("next_batch"), event.get("to_step")
        if type(following) is int and type(back) is int and 0 <= following - back <= 2**40:
            if following - back not in tried:
                yield step - 1 + following - back
            tried.add(following - back)
    for passed_over in range(1, MOST_AHEAD + 1):
        if passed_over not in tried:
            yield step - 1 + passed_over


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A document, or a part of one, in a sample."""

    shard: Shard
    place: int
    """Which document of its shard it is, from 0."""
    document: int
    """Which of its source."""
    tokens: int


def _samples(batches: PackedBatches, drawn: Drawn, characters: int | None) -> list[dict[str, Any]]:
    pieces = [list(_pieces(batches, drawn, place)) for place in range(len(drawn.numbers))]
    ids = _ids([piece for each in pieces for piece in each])
    tokenizer = batches.shards.tokenizer() if characters is not None else None
    found: list[dict[str, Any]] = []
    for place, each in enumerate(pieces):
        stretches = batches.stretches(drawn, place)
        shard, byte = batches.stream(drawn, place).locate(stretches[0].start)
        sample = {
            "place": place,
            "sample_id": int(drawn.sample_ids[place]),
            "epoch": int(drawn.epochs[place]),
            "source": batches.source(drawn, place),
            "tokens": sum(stretch.length for stretch in stretches),
            "file": shard.tokens_path.name,
            "byte": byte,
            "documents": [
                {"document": one.document, "id": ids[one.shard.tokens_path, one.place], "tokens": one.tokens}
                for one in each
            ],
            "text": None,
            "text_is_whole": None,
        }
        if tokenizer is not None and characters is not None:
            ids_read = batches.sample(drawn, place)
            tokens: list[int] = ids_read.inputs[ids_read.documents >= 0].tolist()
            # A token stands for a byte at least, and a character for four at most.
            text = decoded(tokenizer, tokens[: 4 * characters + 4], shard.tokens_path)
            whole = len(text) <= characters and len(tokens) <= 4 * characters + 4
            sample |= {"text": text[:characters], "text_is_whole": whole}
        found.append(sample)
    return found


def _pieces(batches: PackedBatches, drawn: Drawn, place: int) -> Iterator[_Piece]:
    import numpy as np

    stream = batches.stream(drawn, place)
    for stretch in batches.stretches(drawn, place):
        owners = stream.documents_at(stretch.start, stretch.start + stretch.length)
        numbers, counts = np.unique(owners, return_counts=True)
        for document, tokens in zip(numbers.tolist(), counts.tolist(), strict=True):
            shard, within = stream.place_of(document)
            yield _Piece(shard=shard, place=within, document=document, tokens=tokens)


def _ids(pieces: list[_Piece]) -> dict[tuple[Path, int], str | None]:
    """The id of each document, by shard and place; every file of origins is read once, and no further than needed."""
    wanted: dict[Path, set[int]] = {}
    shards: dict[Path, Shard] = {}
    for piece in pieces:
        shards[piece.shard.tokens_path] = piece.shard
        wanted.setdefault(piece.shard.tokens_path, set()).add(piece.place)
    found: dict[tuple[Path, int], str | None] = {}
    for path, places in wanted.items():
        last = max(places)
        for number, row in enumerate(shard_origins(shards[path])):
            if number in places:
                found[path, number] = id_of(row)
            if number == last:
                break
    return found
