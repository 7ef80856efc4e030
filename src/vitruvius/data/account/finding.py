"""Where a document ended, found by its id: in a shard, or in the quarantine."""

from __future__ import annotations

import difflib
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data.account.changes import shared_start
from vitruvius.data.account.folder import id_of, needles, numbered_origins, text_of
from vitruvius.errors import DataError
from vitruvius.spec.reporting import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data.account.folder import PreparedFolder
    from vitruvius.data.packing.index import Shard

_NEAR = 100
"""Ids that begin and end most like the one that was asked for, which are then looked at closely."""
_SHOWN = 3
_COMPARED = 1024
"""Characters of an id that are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A document that was kept."""

    split: str
    """Where it is used."""
    shard: Shard
    """The files it is in."""
    number: int
    """Its number in the shard, from 0."""
    document: int
    """Its number in the split, from 0."""
    origin: dict[str, Any]
    """Its row of the origins."""


def find(folder: PreparedFolder, document_id: str) -> Packed | dict[str, Any]:
    """The document of this id in a shard, or its row of the quarantine.

    An id may be given as messages show it, with escapes for what does not print.

    Raises:
        DataError: there is none; names the ids that come near.
    """
    for name, found in _everything(folder, holding=needles(document_id)):
        if name == document_id:
            return found
    near: list[tuple[int, str]] = []
    for name, found in _everything(folder):
        # As messages show it, or a record without an id by its place.
        if name == document_id or (not name.isprintable() and printable(name, len(name)) == document_id):
            return found
        closeness = _closeness(name, document_id)
        if len(near) < _NEAR:
            heapq.heappush(near, (closeness, name))
        elif closeness > near[0][0]:
            heapq.heapreplace(near, (closeness, name))
    wanted = document_id[:_COMPARED]
    candidates = sorted({name[:_COMPARED] for _, name in near})
    guesses = difflib.get_close_matches(wanted, candidates, n=_SHOWN, cutoff=0.6)
    fix = f"did you mean {' or '.join(printable(guess, 200) for guess in guesses)}?" if guesses else _SOME_ID
    raise DataError(f"there is no document {printable(document_id, 200)!r}", where=str(folder.directory), fix=fix)


_SOME_ID = "ids are FILE, FILE@BYTE of a line or piece, FILE#ROW of a table; `vitruvius data sample` shows some"


def dropped_for(folder: PreparedFolder, document_id: str, *, most: int) -> tuple[int, list[dict[str, Any]]]:
    """(how many duplicates were dropped because this document stays, the first `most` of their rows)."""
    count = 0
    rows: list[dict[str, Any]] = []
    for row in folder.quarantine(holding=needles(document_id)):
        if text_of(row, "keeper") == document_id:
            count += 1
            if len(rows) < most:
                rows.append(row)
    return count, rows


def kept_document(folder: PreparedFolder, document_id: str) -> Packed | None:
    """The document of this id, if it was kept."""
    found = _packed(folder, holding=needles(document_id))
    return next((packed for name, packed in found if name == document_id), None)


def _everything(
    folder: PreparedFolder, *, holding: tuple[bytes, ...] = ()
) -> Iterator[tuple[str, Packed | dict[str, Any]]]:
    yield from _packed(folder, holding=holding)
    for row in folder.quarantine(holding=holding):
        if (name := id_of(row)) is not None:
            yield name, row


def _packed(folder: PreparedFolder, *, holding: tuple[bytes, ...] = ()) -> Iterator[tuple[str, Packed]]:
    for split in folder.splits:
        first = 0
        for shard in folder.shards(split):
            for number, origin in numbered_origins(shard, holding=holding):
                if (name := text_of(origin, "id")) is not None:
                    document = first + number
                    yield name, Packed(split=split, shard=shard, number=number, document=document, origin=origin)
            first += shard.documents


def _closeness(name: str, wanted: str) -> int:
    """Characters that two ids begin and end with alike."""
    return shared_start(name, wanted) + shared_start(name[::-1], wanted[::-1])
