"""Documents drawn from prepared data: kept ones as the shards have them, dropped ones read again from their files."""

from __future__ import annotations

import hashlib
import heapq
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.data.account.folder import PreparedFolder, count_of, id_of, scalar_of, shard_origins, text_of
from vitruvius.data.account.reread import Originals, SourceGoneError, decoded, packed_tokens
from vitruvius.data.extras import require
from vitruvius.errors import UsageError
from vitruvius.spec.reporting import did_you_mean, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data.packing.index import Shard

ANY = "any"
"""Stands for every reason."""
MOST = 10_000


def sample(
    directory: Path | str,
    *,
    count: int = 5,
    seed: int = 0,
    dropped_by: str | None = None,
    split: str | None = None,
    source: str | None = None,
    characters: int = 600,
    root: Path | str = ".",
) -> dict[str, Any]:
    """Documents drawn without preference, the same for the same seed: at most `count`, fewer where there are fewer.

    dropped_by: a reason of the quarantine, or `any`, for dropped documents; None draws from what was kept, of a
    `split` or of both. source: of this part of the corpus only. characters: how much of each text is shown. root:
    where the relative names of input files begin.

    Raises:
        DataError: the folder is damaged.
        UsageError: there is no such reason, split or source, or both a reason and a split are given.
    """
    require("numpy", "tokenizers")
    folder = PreparedFolder(directory)
    _check(folder, count=count, dropped_by=dropped_by, split=split, source=source, characters=characters)
    if dropped_by is None:
        population, documents = _kept(folder, count=count, seed=seed, split=split, source=source, characters=characters)
    else:
        originals = Originals(folder, root=Path(root))
        rows, population = _dropped_rows(folder, originals, count=count, seed=seed, reason=dropped_by, source=source)
        documents = [_dropped(row, originals, characters) for row in rows]
    return {
        "directory": str(directory),
        "fingerprint": folder.index["fingerprint"],
        "seed": seed,
        "dropped_by": dropped_by,
        "split": split,
        "source": source,
        "population": population,
        "documents": documents,
    }


def _check(
    folder: PreparedFolder,
    *,
    count: int,
    dropped_by: str | None,
    split: str | None,
    source: str | None,
    characters: int,
) -> None:
    if not 1 <= count <= MOST:
        raise UsageError(f"{count:,} documents", where="-n", fix=f"use a whole number from 1 to {MOST:,}")
    if characters < 1:
        raise UsageError(f"{characters:,} characters", where="--characters", fix="use a whole number from 1")
    if dropped_by is not None and split is not None:
        raise UsageError("a dropped document is in no split", where="--split", fix="leave out --split or --dropped-by")
    if split is not None and split not in folder.splits:
        raise UsageError(f"there is no split {split!r}", where="--split", fix=f"use one of {listed(folder.splits)}")
    reasons = sorted(folder.counts["dropped"])
    if dropped_by is not None and dropped_by not in {ANY, *reasons}:
        there = f"documents were dropped for: {listed(reasons, 40)}" if reasons else "no document was dropped"
        what = f"no document was dropped for {dropped_by!r}"
        raise UsageError(what, where="--dropped-by", fix=did_you_mean(dropped_by, reasons) or there)
    sources = sorted({name for part in folder.splits for name in folder.index["splits"][part]["sources"]})
    sources = sorted({*sources, *folder.source_counts})
    if source is not None and source not in sources:
        near = did_you_mean(source, sources) or f"the sources are {listed(sources, 40)}"
        raise UsageError(f"there is no source {source!r}", where="--source", fix=near)


# --------------------------------------------------------------------------------------------------------------- kept


def _kept(
    folder: PreparedFolder, *, count: int, seed: int, split: str | None, source: str | None, characters: int
) -> tuple[int, list[dict[str, Any]]]:
    """(documents there are, those drawn in their order)."""
    import numpy as np

    from vitruvius.data.packing.shuffle import shuffled

    shards = [
        (name, first, shard)
        for name in folder.splits
        if split in {None, name}
        for first, shard in _numbered(folder, name)
        if source in {None, shard.source}
    ]
    population = sum(shard.documents for _, _, shard in shards)
    if population == 0:
        return 0, []
    drawn = shuffled(np.arange(min(count, population), dtype=np.int64), population, seed=seed, epoch=0)
    wanted = sorted(int(number) for number in drawn)
    tokenizer = folder.tokenizer
    rows: list[dict[str, Any]] = []
    before = 0
    for name, first, shard in shards:
        here = [number - before for number in wanted if before <= number < before + shard.documents]
        before += shard.documents
        for number, origin in _origins_of(shard, here):
            # A token stands for a byte at least, and a character for four at most.
            tokens, length = packed_tokens(shard, number, dtype=folder.index["dtype"], most=4 * characters + 4)
            text = decoded(tokenizer, tokens, shard.tokens_path)
            rows.append(
                {
                    "id": text_of(origin, "id"),
                    "split": name,
                    "document": first + number,
                    "shard": shard.tokens_path.name,
                    "source": shard.source,
                    "url": text_of(origin, "url"),
                    "tokens": length,
                    "text_bytes": count_of(origin, "text_bytes"),
                    **_cut(text, characters, whole=len(tokens) == length),
                }
            )
    return population, rows


def _numbered(folder: PreparedFolder, split: str) -> Iterator[tuple[int, Shard]]:
    """(number of its first document in the split, shard)."""
    first = 0
    for shard in folder.shards(split):
        yield first, shard
        first += shard.documents


def _origins_of(shard: Shard, numbers: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The origins of some documents of a shard, in rising order."""
    if not numbers:
        return
    wanted = iter(numbers)
    due = next(wanted)
    for number, row in enumerate(shard_origins(shard)):
        if number == due:
            yield number, row
            following = next(wanted, None)
            if following is None:
                return
            due = following


def _cut(text: str, characters: int, *, whole: bool) -> dict[str, Any]:
    return {"text": text[:characters], "text_is_whole": whole and len(text) <= characters}


# ------------------------------------------------------------------------------------------------------------ dropped


def _dropped_rows(
    folder: PreparedFolder, originals: Originals, *, count: int, seed: int, reason: str, source: str | None
) -> tuple[list[dict[str, Any]], int]:
    """(rows drawn from the quarantine in their order, how many there are): those whose number has the smallest hash."""
    drawn: list[tuple[int, int, dict[str, Any]]] = []
    population = 0
    for row in folder.quarantine():
        if reason not in {ANY, text_of(row, "reason")}:
            continue
        if source is not None and source != _source_of(row, originals):
            continue
        draw = int.from_bytes(hashlib.blake2b(f"{seed}\n{population}".encode(), digest_size=8).digest(), "big")
        entry = (-draw, -population, row)
        population += 1
        if len(drawn) < count:
            heapq.heappush(drawn, entry)
        elif draw < -drawn[0][0]:
            heapq.heapreplace(drawn, entry)
    return [row for _, _, row in sorted(drawn, key=lambda entry: -entry[1])], population


def _source_of(row: dict[str, Any], originals: Originals) -> str | None:
    entry = originals.entry(text_of(row, "file") or "")
    return None if entry is None else entry.source


def _dropped(row: dict[str, Any], originals: Originals, characters: int) -> dict[str, Any]:
    """A row of the quarantine, with the text that it is about."""
    found: dict[str, Any] = {
        "id": id_of(row),
        "file": text_of(row, "file"),
        "line": count_of(row, "line"),
        "byte_offset": count_of(row, "byte_offset"),
        "source": _source_of(row, originals),
        "kind": None if (entry := originals.entry(text_of(row, "file") or "")) is None else entry.kind,
        "reason": text_of(row, "reason"),
        "detail": text_of(row, "detail"),
        **{key: text_of(row, key) for key in ("step", "relation", "keeper")},
        **{key: scalar_of(row, key) for key in ("value", "limit", "jaccard")},
        "text": None,
        "text_is_whole": None,
        "text_of": None,
        "text_from_byte": None,
        "note": None,
    }
    try:
        if (name := text_of(row, "id")) is not None:
            text, of = originals.measured(name)
            found |= _cut(text, characters, whole=True) | {"text_of": of}
        elif (file := found["file"]) is not None:
            content, start, whole = originals.bytes_at(file, found["byte_offset"] or 0, 4 * characters)
            text = content.decode("utf-8", "backslashreplace")
            found |= _cut(text, characters, whole=whole) | {"text_of": "bytes", "text_from_byte": start}
    except SourceGoneError as error:
        found["note"] = str(error)
    return found
