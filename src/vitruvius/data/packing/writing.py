"""Writing shards: documents go to disk as they come, hashed on the way, and the index is made of what was written."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.packing.index import (
    BLOCK_BYTES,
    DEFAULT_SOURCE,
    MOST_SOURCES,
    SOURCE_NAME,
    dtype_for,
    fingerprint_of,
)
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    import numpy as np

__all__ = ["SplitWriter", "fingerprint_of"]

_BUFFER_BYTES = 1 << 18
"""What a shard keeps in memory before it writes."""
_ORIGIN_KEYS = ("id", "url")
"""What a row of the origins holds of `origin`, where it is there; `id` always."""


@final
class SplitWriter:
    """Writes the shards of one split; a shard holds one source and is closed after the document that fills it.

    Documents of several sources may come in any order: each source has one open shard. Memory is that of a few
    buffers per source, however many documents there are.
    """

    __slots__ = ("_count", "_directory", "_dtype", "_entries", "_open", "_shard_tokens", "_sources", "_split")

    def __init__(
        self,
        directory: Path,
        split: str,
        *,
        vocab_size: int,
        shard_tokens: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Write under `directory/split`.

        weights: how often to draw from each source in training, by name; None draws from each as much as it holds.

        Raises:
            DataError: the name of a source is none.
        """
        self._directory = directory
        self._split = split
        self._dtype = dtype_for(vocab_size)
        self._shard_tokens = shard_tokens
        self._open: dict[str, _ShardFile] = {}
        self._count = 0
        self._entries: dict[int, dict[str, Any]] = {}
        self._sources: dict[str, dict[str, Any]] = {}
        for name, weight in (weights or {}).items():
            self._new_source(name)["weight"] = float(weight)

    def add(
        self,
        ids: np.ndarray | Sequence[int],
        *,
        text_bytes: int,
        source: str = DEFAULT_SOURCE,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        """Append a document: its ids, the separator included, and the length of its text in bytes of UTF-8.

        origin: its `id`, and its `url` where there is one.

        Raises:
            DataError: the name of a source is none, or there are more sources than can be open at once.
        """
        import numpy as np

        shard = self._open.get(source)
        if shard is None:
            shard = self._new_shard(source)
        tokens = np.ascontiguousarray(ids, dtype=self._dtype)
        known = origin or {}
        row = {key: known[key] for key in _ORIGIN_KEYS if known.get(key) is not None}
        shard.add(
            tokens.data.cast("B") if len(tokens) else b"",
            {"id": None, **row, "source": source, "text_bytes": text_bytes, "tokens": len(tokens)},
        )
        totals = self._sources[source]
        totals["documents"] += 1
        totals["tokens"] += len(tokens)
        totals["text_bytes"] += text_bytes
        if shard.tokens >= self._shard_tokens:
            self._end_shard(source)

    def close(self) -> dict[str, Any]:
        """Finish the last shards; returns the split's part of the index."""
        for source in list(self._open):
            self._end_shard(source)
        totals = self._sources.values()
        return {
            "documents": sum(source["documents"] for source in totals),
            "tokens": sum(source["tokens"] for source in totals),
            "text_bytes": sum(source["text_bytes"] for source in totals),
            "sources": dict(sorted(self._sources.items())),
            "shards": [self._entries[number] for number in sorted(self._entries)],
        }

    def _new_source(self, name: str) -> dict[str, Any]:
        if not SOURCE_NAME.fits(name):
            raise DataError(
                f"{name!r} cannot name a source: {SOURCE_NAME.due} is due",
                where=str(self._directory),
                fix="rename the source, for example to web or code",
            )
        if len(self._sources) >= MOST_SOURCES:
            raise DataError(
                f"there are more than {MOST_SOURCES} sources",
                where=str(self._directory),
                fix="put some of them under one name",
            )
        entry: dict[str, Any] = {"weight": None, "documents": 0, "tokens": 0, "text_bytes": 0}
        return self._sources.setdefault(name, entry)

    def _new_shard(self, source: str) -> _ShardFile:
        if source not in self._sources:
            self._new_source(source)
        (self._directory / self._split).mkdir(exist_ok=True)
        item_bytes = int(self._dtype[-1])
        shard = _ShardFile(self._directory, f"{self._split}/shard-{self._count:05d}", self._count, item_bytes)
        self._open[source] = shard
        self._count += 1
        return shard

    def _end_shard(self, source: str) -> None:
        shard = self._open.pop(source)
        self._entries[shard.number] = {"source": source, **shard.close()}


@final
class _HashedFile:
    """A file that is hashed as it is written, through a buffer: as a whole, and in blocks where asked for."""

    __slots__ = ("_block", "_block_bytes", "_buffer", "_file", "_hash", "_room", "blocks", "size")

    def __init__(self, path: Path, *, block_bytes: int | None = None) -> None:
        self._file: BinaryIO = path.open("xb")
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self._block = hashlib.sha256()
        self._block_bytes = block_bytes
        self._room = block_bytes or 0
        self.size = 0
        self.blocks: list[str] = []

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes."""
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            self._drain()
        return len(data)

    def flush(self) -> None:
        """Nothing: what `gzip` writes may wait."""

    def close(self) -> str:
        """Put all of it on the disk; returns the SHA-256."""
        self._drain()
        if self._block_bytes is not None and self._room < self._block_bytes:
            self.blocks.append(self._block.hexdigest())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def _drain(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        self._file.write(data)
        self.size += len(data)
        self._hash.update(data)
        if self._block_bytes is None:
            return
        view = memoryview(data)
        while view:
            part = view[: self._room]
            self._block.update(part)
            self._room -= len(part)
            view = view[len(part) :]
            if self._room == 0:
                self.blocks.append(self._block.hexdigest())
                self._block, self._room = hashlib.sha256(), self._block_bytes


@final
class _ShardFile:
    """A shard being written: tokens, where documents start, and where they are from."""

    __slots__ = ("_documents", "_item_bytes", "_origins", "_rows", "_starts", "_stem", "_tokens", "number", "tokens")

    def __init__(self, directory: Path, stem: str, number: int, item_bytes: int) -> None:
        self._stem = stem
        self._item_bytes = item_bytes
        self._tokens = _HashedFile(directory / f"{stem}.bin", block_bytes=BLOCK_BYTES)
        self._starts = _HashedFile(directory / f"{stem}.idx")
        self._origins = _HashedFile(directory / f"{stem}.origins.jsonl.gz")
        # Neither a name nor a time in the header, and a level that keeps up: equal rows give equal bytes.
        self._rows = gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=self._origins, mtime=0)  # pyright: ignore[reportArgumentType] (it writes and flushes)
        self._starts.write(_little(0))
        self._documents = 0
        self.number = number
        self.tokens = 0

    def add(self, data: bytes | memoryview, origin: Mapping[str, Any]) -> None:
        self._tokens.write(data)
        self.tokens += len(data) // self._item_bytes
        self._documents += 1
        self._starts.write(_little(self.tokens))
        self._rows.write((json.dumps(origin) + "\n").encode())

    def close(self) -> dict[str, Any]:
        self._rows.close()
        origins_sha256 = self._origins.close()
        return {
            "tokens_file": f"{self._stem}.bin",
            "starts_file": f"{self._stem}.idx",
            "origins_file": f"{self._stem}.origins.jsonl.gz",
            "tokens": self.tokens,
            "documents": self._documents,
            "sha256": self._tokens.close(),
            "starts_sha256": self._starts.close(),
            "origins_sha256": origins_sha256,
            "origins_bytes": self._origins.size,
            "blocks": self._tokens.blocks,
        }


def _little(number: int) -> bytes:
    return number.to_bytes(8, "little")
