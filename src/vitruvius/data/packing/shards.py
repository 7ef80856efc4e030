"""The reader of prepared data: opened, compared with its index, and read as one stream or source by source."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, final

from vitruvius.data.extras import require
from vitruvius.data.packing.index import (
    AGAIN,
    BLOCK_BYTES,
    DATA_SCHEMA,
    SPLITS,
    Shard,
    Split,
    dtype_for,
    read_index,
    shard_of,
)
from vitruvius.data.packing.stream import Maps, TokenStream, out_of_order
from vitruvius.data.tokenization.tokenizer import Tokenizer, load_tokenizer
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

__all__ = [
    "BLOCK_BYTES",
    "DATA_SCHEMA",
    "SPLITS",
    "Found",
    "Shard",
    "Source",
    "Split",
    "TokenShards",
    "Verify",
    "dtype_for",
    "read_index",
]

Verify = Literal["hashes", "sizes"]
"""What opening compares with the index: every byte, or only the lengths of the files."""

_CHUNK_DOCUMENTS = 1 << 20
_LONGEST_ROW = 1 << 20
"""A row of the origins is an id, an address and numbers; no line of a damaged file is read further than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A part of the data under a name of its own."""

    name: str
    weight: float | None
    """How often preparing says to draw from it; None: as much as it holds."""
    documents: int
    tokens: int
    """Separators included."""
    text_bytes: int
    """UTF-8 bytes of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a document is."""

    document: int
    """Its number in the split's stream."""
    shard: int
    """The shard that holds it, as the index counts them."""
    row: dict[str, Any]
    """Its row of the origins: id, source, text_bytes, tokens, url where there is one."""


@final
class TokenShards:
    """The packed tokens of one split, read through memory maps as one long stream, or as one for each source."""

    def __init__(self, directory: Path, split: str, index: dict[str, Any]) -> None:
        """Use `TokenShards.open`."""
        here = index["splits"][split]
        self.directory = directory
        self.split = split
        self.vocab_size: int = index["vocab_size"]
        """Ids are below this."""
        self.eos_id: int = index["eos_id"]
        """Ends each document."""
        self.fingerprint: str = index["fingerprint"]
        """SHA-256 over everything that makes the data what it is, both splits."""
        self.text_bytes: int = here["text_bytes"]
        """UTF-8 bytes of the text of this split: the denominator of bits per byte."""
        self.dtype: str = index["dtype"]
        """numpy type of a token on disk."""
        self.shards = tuple(shard_of(directory, entry) for entry in here["shards"])
        self.sources = {name: Source(name=name, **entry) for name, entry in sorted(here["sources"].items())}
        """What the split is made of, by name; `all` alone where nobody named sources."""
        self._maps = Maps()
        self.stream = TokenStream(self.shards, dtype=self.dtype, vocab_size=self.vocab_size, maps=self._maps)
        """All shards one after another."""
        self.tokens = self.stream.tokens
        """Tokens in this split, separators included."""
        self.documents = self.stream.documents
        """Documents in this split."""

    @classmethod
    def open(cls, directory: Path | str, split: str = "train", *, verify: Verify = "hashes") -> TokenShards:
        """Open a split of prepared data.

        Raises:
            DataError: there is no such data or split, or a file differs from the index; names file and offset.
            MissingExtraError: numpy is not installed.
        """
        require("numpy")
        directory = Path(directory)
        index = read_index(directory)
        if split not in SPLITS:
            raise DataError(f"there is no split {split!r}", where=str(directory), fix=f"use {SPLITS}")
        shards = cls(directory, split, index)
        if shards.documents == 0:
            raise DataError(
                f"the {split} split has no documents",
                where=str(directory),
                fix="prepare more documents; --document-bytes cuts a long text file into several",
            )
        for shard in shards.shards:
            _verify_size(shard.tokens_path, shard.tokens * shards.item_bytes)
            _verify_size(shard.starts_path, (shard.documents + 1) * 8)
            _verify_size(shard.origins_path, shard.origins_bytes)
            if verify == "hashes":
                _verify_blocks(shard)
        return shards

    @property
    def item_bytes(self) -> int:
        """Bytes of a token on disk."""
        return self.stream.item_bytes

    @property
    def document_starts(self) -> np.ndarray:
        """Where each document starts in the stream, and at last its end: a new int64 array [documents + 1]."""
        return self.stream.starts(0, self.documents)

    def source_stream(self, name: str) -> TokenStream:
        """The shards of one source, one after another."""
        held = [shard for shard in self.shards if shard.source == name]
        return TokenStream(held, dtype=self.dtype, vocab_size=self.vocab_size, maps=self._maps)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of the stream, across shards: int64 [stop - start].

        Raises:
            DataError: one of them is not below the vocabulary size; names the file and the byte offset.
        """
        return self.stream.read(start, stop)

    def document(self, number: int) -> np.ndarray:
        """The tokens of a document, its separator included: int64."""
        return self.stream.document(number)

    def origins(self, shard: int) -> Iterator[dict[str, Any]]:
        """Where the documents of a shard are from, in their order: id, source, text_bytes, tokens, url if there is one.

        Raises:
            DataError: the file is missing or damaged; names it and the row.
        """
        entry = self.shards[shard]
        rows = 0
        try:
            with gzip.open(entry.origins_path, "rb") as file:
                while line := file.readline(_LONGEST_ROW):
                    yield _row(line)
                    rows += 1
        except (OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
            what = f"row {rows + 1:,} of the origins cannot be read: {error}"
            raise DataError(what, where=str(entry.origins_path), fix=AGAIN) from None
        if rows != entry.documents:
            what = f"there are {rows:,} rows of origins for {entry.documents:,} documents"
            raise DataError(what, where=str(entry.origins_path), fix=AGAIN)

    def find(self, document_id: str) -> Found | None:
        """The document with this id; None when there is none. Reads origins until it is found.

        Raises:
            DataError: a file of origins is missing or damaged; names it and the row.
        """
        before = 0
        for number, shard in enumerate(self.shards):
            for place, row in enumerate(self.origins(number)):
                if row.get("id") == document_id:
                    return Found(document=before + place, shard=number, row=row)
            before += shard.documents
        return None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the data was made with.

        Raises:
            DataError: it is missing or not the one the index names.
        """
        entry = read_index(self.directory)
        path = self.directory / entry["tokenizer"]["file"]
        tokenizer = load_tokenizer(path, eos=entry["eos"])
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry["tokenizer"]["sha256"]:
            raise DataError("the tokenizer differs from the one in the index (SHA-256)", where=str(path), fix=AGAIN)
        return tokenizer

    def validate(self) -> None:
        """Look at every token, document start and row of the origins.

        Raises:
            DataError: names the file and the byte offset of the first id that is not below the vocabulary,
                of the first start out of order, of a document that the separator does not end, or the row of the
                origins that does not go with its document.
        """
        for number, shard in enumerate(self.shards):
            _verify_blocks(shard)
            tokens = self.stream.tokens_of(number)
            size = BLOCK_BYTES // self.item_bytes
            for first in range(0, len(tokens), size):
                self.stream.refuse_large(shard, tokens[first : first + size], first)
            starts = self.stream.starts_of(number)
            _validate_starts(shard, starts, tokens, self.eos_id)
            self._validate_origins(number, starts)

    def _validate_origins(self, number: int, starts: np.ndarray) -> None:
        shard = self.shards[number]
        for place, row in enumerate(self.origins(number)):
            length = int(starts[place + 1] - starts[place]) if place < shard.documents else None
            if row.get("tokens") != length or row.get("source") != shard.source:
                what = f"row {place + 1:,} does not go with its document, of {length} tokens and source {shard.source}"
                raise DataError(what, where=str(shard.origins_path), fix=AGAIN)


def _row(line: bytes) -> dict[str, Any]:
    row: object = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("it is no mapping")  # noqa: TRY004 (like any other line that is no row)
    return cast("dict[str, Any]", row)


def _verify_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError("the index lists this file, but it is missing", where=str(path), fix=AGAIN) from None
    if size != expected:
        what = "ends" if size < expected else "goes on"
        at = min(size, expected)
        raise DataError(
            f"the file {what} at byte {at:,}: the index says {expected:,} bytes, it has {size:,}",
            where=str(path),
            fix=AGAIN,
        )


def _verify_blocks(shard: Shard) -> None:
    with shard.tokens_path.open("rb") as file:
        for number, expected in enumerate(shard.blocks):
            if hashlib.sha256(file.read(BLOCK_BYTES)).hexdigest() != expected:
                first, last = number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, shard.tokens_path.stat().st_size)
                raise DataError(
                    f"the content differs from the index between bytes {first:,} and {last:,} (SHA-256)",
                    where=str(shard.tokens_path),
                    fix=AGAIN,
                )
    for path, expected in (
        (shard.starts_path, shard.starts_sha256),
        (shard.origins_path, shard.origins_sha256),
    ):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise DataError("the content differs from the index (SHA-256)", where=str(path), fix=AGAIN)


def _validate_starts(shard: Shard, starts: np.ndarray, tokens: np.ndarray, eos_id: int) -> None:
    import numpy as np

    for first in range(0, shard.documents, _CHUNK_DOCUMENTS):
        here = starts[first : first + _CHUNK_DOCUMENTS + 1]
        wrong = np.flatnonzero(np.diff(here) <= 0)
        if len(wrong):
            raise out_of_order(shard, first + int(wrong[0]) + 1)
        unended = np.flatnonzero(tokens[here[1:] - 1] != eos_id)
        if len(unended):
            number = int(unended[0])
            raise DataError(
                f"document {first + number} does not end with the separator, near token {int(here[number + 1]) - 1:,}",
                where=str(shard.tokens_path),
                fix=AGAIN,
            )
