"""Documents found again: in the shards by their number, and in the files they came from by their id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.data.account.folder import count_of, text_of
from vitruvius.data.ledger import Refusal
from vitruvius.data.packing.index import AGAIN
from vitruvius.data.reading.corpora import CORPORA
from vitruvius.data.reading.finding import read_one
from vitruvius.data.reading.inputs import Inputs
from vitruvius.data.reading.options import InputFile
from vitruvius.data.reading.streams import opened
from vitruvius.data.reading.unpacking import BrokenStreamError, packing_of
from vitruvius.errors import DataError, VitruviusError

if TYPE_CHECKING:
    from vitruvius.data.account.folder import PreparedFolder
    from vitruvius.data.document import Document
    from vitruvius.data.options import Source
    from vitruvius.data.packing.index import Shard
    from vitruvius.data.tokenization.tokenizer import Tokenizer

_PLACE = re.compile(r"(?P<file>.*)[:@#](?P<number>\d{1,19})", re.DOTALL)
_COUNTED_BYTES = 1 << 20
BEFORE = 80
"""Bytes that are shown before a place where something was wrong."""


class SourceGoneError(Exception):
    """A document cannot be read again; says why. Caught within this room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputEntry:
    """An input file, as the index lists it."""

    name: str
    """How ids and the quarantine call it."""
    source: str
    """The part of the corpus it belongs to."""
    kind: str
    """How it was read."""
    size_bytes: int | None
    """How large it was."""


@final
class Originals:
    """The input files, and how they were read; `root` is where relative names begin."""

    def __init__(self, folder: PreparedFolder, *, root: Path) -> None:
        self._root = root
        self._settings = folder.settings
        self._entries: dict[str, InputEntry] = {}
        inputs: object = self._settings.get("inputs")
        for row in cast("list[object]", inputs) if isinstance(inputs, list) else []:
            if isinstance(row, dict) and (entry := _entry(cast("dict[str, Any]", row))) is not None:
                self._entries[entry.name] = entry

    def entry(self, file: str) -> InputEntry | None:
        """What the index says of an input file."""
        return self._entries.get(file)

    def file_of(self, document_id: str) -> InputEntry | None:
        """The input file that a document is from, by its id: `FILE`, `FILE@OFFSET`, `FILE#ROW` or `FILE:LINE`, and
        `DATASET/SHARD#ROW`.
        """
        place = _PLACE.fullmatch(document_id)
        names = [document_id] if place is None else [document_id, place["file"], place["file"].rpartition("/")[0]]
        return next((self._entries[name] for name in names if name in self._entries), None)

    def source(self, name: str) -> Source | None:
        """How the documents of a source were read and cleaned; None where the index does not say.

        Raises:
            SourceGoneError: this version cannot read what the index says.
        """
        from vitruvius.data.options import Source

        parts: object = self._settings.get("parts")
        for part in cast("list[Any]", parts) if isinstance(parts, list) else []:
            try:
                if part["name"] == name:
                    return Source.from_json(part)
            except (KeyError, TypeError, ValueError, VitruviusError) as error:
                raise SourceGoneError(f"the settings of source {name!r} cannot be read: {error}") from None
        return None

    def path(self, entry: InputEntry) -> Path:
        """Where an input file is now.

        Raises:
            SourceGoneError: it is not there.
        """
        if entry.kind == "hf":
            return Path(entry.name)
        path = self._root / entry.name
        if path.exists():
            return path
        for corpus, listed in CORPORA.items():
            if entry.name.startswith(corpus) or entry.kind == "source":
                found = next((source for name, source in listed() if name == entry.name), None)
                if found is not None:
                    return found
        raise SourceGoneError(
            f"the file {entry.name!r} is not in {self._root.absolute()}; --inputs-in names the folder"
        )

    def read(self, document_id: str) -> Document:
        """Read a document again, as it was before it was cleaned.

        Raises:
            SourceGoneError: the file is gone, or holds no such document any more.
        """
        entry = self.file_of(document_id)
        if entry is None:
            raise SourceGoneError("the index lists no input file that a document of this id could be from")
        path, source = self.path(entry), self.source(entry.source)
        if source is None:
            raise SourceGoneError("the index does not say how the documents were read")
        file = InputFile(name=entry.name, path=path, kind=cast("Any", entry.kind))
        try:
            found = read_one(Inputs(files=(file,), passed_over={}), document_id, source.reading)
        except VitruviusError as error:
            raise SourceGoneError(f"the file may have changed: {error}") from None
        if isinstance(found, Refusal):
            raise SourceGoneError(f"the file has changed: now the record cannot be read ({found.reason})")
        return found

    def measured(self, document_id: str) -> tuple[str, str]:
        """(a text, what it is of a dropped document): as the `rule` that dropped it saw it, or the `steps` left it; the
        `source`'s own where the steps cannot be run.

        Raises:
            SourceGoneError: the file is gone, or holds no such document any more.
        """
        from vitruvius.data.cleaning.run import Dropped, clean

        document = self.read(document_id)
        entry = self.file_of(document_id)
        source = None if entry is None else self.source(entry.source)
        if source is None:
            return document.text, "source"
        try:
            end = clean(document, source.recipe)
        except VitruviusError:  # a list of words that is gone, a package that is missing
            return document.text, "source"
        return end.document.text, "rule" if isinstance(end, Dropped) else "steps"

    def bytes_at(self, file: str, offset: int, count: int) -> tuple[bytes, int, bool]:
        """(up to `count` bytes of an input file around `offset` of its unpacked stream, where they begin, whether that
        is all there is of the record): from the beginning of the line on, and for lines of JSON up to its end.

        Raises:
            SourceGoneError: the file is gone or cannot be read so far.
        """
        entry = self.entry(file)
        if entry is None:
            raise SourceGoneError("the index lists no such input file")
        if entry.kind in {"hf", "parquet", "arrow"}:
            raise SourceGoneError("a record of a table that could not be read has no text to show")
        path, left = self.path(entry), max(0, offset - BEFORE)
        try:
            with opened(path, name=entry.name) as stream:
                if packing_of(path) is None:
                    stream.seek(left)
                else:
                    skip = left
                    while skip and (piece := stream.read(min(skip, _COUNTED_BYTES))):
                        skip -= len(piece)
                content = stream.read(count + offset - left + 1)
        except (BrokenStreamError, VitruviusError) as error:
            raise SourceGoneError(str(error) or "the file cannot be unpacked so far") from None
        # What stands before the place belongs to it only from the beginning of its line on.
        begin = content.rfind(b"\n", 0, offset - left) + 1
        end = content.find(b"\n", offset - left) if entry.kind == "jsonl" else -1
        whole = (end >= 0 or len(content) <= count + offset - left) and (begin > 0 or left == 0)
        shown = content[begin : end if end >= 0 else len(content)][:count]
        return shown, left + begin, whole and len(shown) == (end if end >= 0 else len(content)) - begin


def _entry(row: dict[str, Any]) -> InputEntry | None:
    name, source, kind = (text_of(row, key) for key in ("name", "source", "kind"))
    if name is None or source is None or kind is None:
        return None
    return InputEntry(name=name, source=source, kind=kind, size_bytes=count_of(row, "size_bytes"))


# ------------------------------------------------------------------------------------------------------------- shards


def packed_tokens(shard: Shard, number: int, *, dtype: str, most: int | None = None) -> tuple[list[int], int]:
    """(the first `most` tokens of document `number` of a shard without its separator, how many it has).

    Raises:
        DataError: a file is missing or too short, or the document's start is out of order.
    """
    import numpy as np

    assert 0 <= number < shard.documents
    item = int(dtype[-1])
    bounds = np.frombuffer(_slice(shard.starts_path, 8 * number, 16), dtype="<i8")
    start, end = int(bounds[0]), int(bounds[1])
    if not 0 <= start < end <= shard.tokens:
        raise DataError(f"document {number:,} starts out of order", where=str(shard.starts_path), fix=AGAIN)
    count = end - start - 1
    wanted = count if most is None else min(most, count)
    data = _slice(shard.tokens_path, start * item, wanted * item)
    return [int(token) for token in np.frombuffer(data, dtype=dtype)], count


def decoded(tokenizer: Tokenizer, tokens: list[int], where: Path) -> str:
    """The text of tokens.

    Raises:
        DataError: one of them is not below the vocabulary size.
    """
    if tokens and max(tokens) >= tokenizer.vocab_size:
        what = f"token {max(tokens)} is not below the vocabulary size {tokenizer.vocab_size:,}"
        raise DataError(what, where=str(where), fix=AGAIN)
    return tokenizer.decode(tokens)


def _slice(path: Path, start: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(count)
    except FileNotFoundError:
        raise DataError("the index lists this file, but it is missing", where=str(path), fix=AGAIN) from None
    if len(data) < count:
        raise DataError(f"the file ends before byte {start + count:,}", where=str(path), fix=AGAIN)
    return data
