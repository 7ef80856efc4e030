"""Writing shards: tokens go to disk document by document, and the index is made of what was written."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.packing.shards import BLOCK_BYTES, dtype_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO


@final
class SplitWriter:
    """Writes the shards of one split; a shard is closed after the document that fills it."""

    __slots__ = ("_directory", "_dtype", "_shard", "_shard_tokens", "_split", "_text_bytes", "entries")

    def __init__(self, directory: Path, split: str, *, vocab_size: int, shard_tokens: int) -> None:
        self._directory = directory
        self._split = split
        self._dtype = dtype_for(vocab_size)
        self._shard_tokens = shard_tokens
        self._shard: _ShardFile | None = None
        self._text_bytes = 0
        self.entries: list[dict[str, Any]] = []

    def add(self, ids: Sequence[int], *, text_bytes: int) -> None:
        """Append a document: its ids, the separator included, and the length of its text in bytes of UTF-8."""
        import numpy as np

        if self._shard is None:
            (self._directory / self._split).mkdir(exist_ok=True)
            stem = f"{self._split}/shard-{len(self.entries):05d}"
            self._shard = _ShardFile(self._directory, stem, item_bytes=int(self._dtype[-1]))
        self._shard.add(np.asarray(ids, dtype=self._dtype).tobytes())
        self._text_bytes += text_bytes
        if self._shard.tokens >= self._shard_tokens:
            self._end_shard()

    def close(self) -> dict[str, Any]:
        """Finish the last shard; returns the split's part of the index."""
        self._end_shard()
        return {
            "documents": sum(entry["documents"] for entry in self.entries),
            "tokens": sum(entry["tokens"] for entry in self.entries),
            "text_bytes": self._text_bytes,
            "shards": self.entries,
        }

    def _end_shard(self) -> None:
        if self._shard is not None:
            self.entries.append(self._shard.close())
            self._shard = None


@final
class _ShardFile:
    """A shard being written, hashed on the way."""

    __slots__ = (
        "_block",
        "_blocks",
        "_directory",
        "_file",
        "_hash",
        "_item_bytes",
        "_room",
        "_starts",
        "_stem",
        "tokens",
    )

    def __init__(self, directory: Path, stem: str, *, item_bytes: int) -> None:
        self._directory = directory
        self._stem = stem
        self._item_bytes = item_bytes
        self._file: BinaryIO = (directory / f"{stem}.bin").open("xb")
        self._hash = hashlib.sha256()
        self._block = hashlib.sha256()
        self._room = BLOCK_BYTES
        self._blocks: list[str] = []
        self._starts = [0]
        self.tokens = 0

    def add(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        view = memoryview(data)
        while view:
            part = view[: self._room]
            self._block.update(part)
            self._room -= len(part)
            view = view[len(part) :]
            if self._room == 0:
                self._end_block()
        self.tokens += len(data) // self._item_bytes
        self._starts.append(self.tokens)

    def close(self) -> dict[str, Any]:
        import numpy as np

        if self._room < BLOCK_BYTES:
            self._end_block()
        _close_durably(self._file)
        starts = np.asarray(self._starts, dtype="<i8").tobytes()
        file = (self._directory / f"{self._stem}.idx").open("xb")
        file.write(starts)
        _close_durably(file)
        return {
            "tokens_file": f"{self._stem}.bin",
            "starts_file": f"{self._stem}.idx",
            "tokens": self.tokens,
            "documents": len(self._starts) - 1,
            "sha256": self._hash.hexdigest(),
            "starts_sha256": hashlib.sha256(starts).hexdigest(),
            "blocks": self._blocks,
        }

    def _end_block(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block = hashlib.sha256()
        self._room = BLOCK_BYTES


def fingerprint_of(content: dict[str, Any]) -> str:
    """Hexadecimal SHA-256 of an index without its fingerprint and settings: equal data, equal fingerprint."""
    essential = {key: value for key, value in content.items() if key not in {"fingerprint", "settings"}}
    return hashlib.sha256(json.dumps(essential, sort_keys=True).encode()).hexdigest()


def _close_durably(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
