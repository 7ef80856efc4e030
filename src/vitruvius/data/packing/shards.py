"""Token shards: the form of prepared data on disk, and the reader.

DIR/index.json                 written last: a folder with an index is whole
DIR/tokenizer.json
DIR/counts.json, quarantine.jsonl
DIR/train/shard-00000.bin      the tokens, little-endian uint16 or uint32, each document ended by the separator
DIR/train/shard-00000.idx      int64, little-endian: where each document starts in the shard, and at last its length
DIR/validation/...             the documents held out
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, final

from vitruvius.data.extras import require
from vitruvius.data.tokenization.tokenizer import Tokenizer, load_tokenizer
from vitruvius.errors import DataError
from vitruvius.runs.files import read_json
from vitruvius.runs.shapes import COUNT, TEXT, Shape, first_misfit, matching, one_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

DATA_SCHEMA = "vitruvius.data/1"
BLOCK_BYTES = 4 * 2**20
"""Each shard is hashed in blocks of this size too, so that damage has an address."""

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
Verify = Literal["hashes", "sizes"]
"""What opening compares with the index: every byte, or only the lengths of the files."""

_AGAIN = "prepare the data again, or copy it again"


def dtype_for(vocab_size: int) -> str:
    """The numpy type of a token on disk: two bytes as long as every id fits."""
    return "<u2" if vocab_size <= 65_536 else "<u4"


# A shard lies inside the folder, whatever the index says: `../../etc/passwd` is the name of none.
_SHARD_FILE = matching(r"(train|validation)/shard-[0-9]+\.(bin|idx)", "the name of a shard")
_SPLIT: Shape = {
    "documents": COUNT,
    "tokens": COUNT,
    "text_bytes": COUNT,
    "shards": [
        {
            "tokens_file": _SHARD_FILE,
            "starts_file": _SHARD_FILE,
            "tokens": COUNT,
            "documents": COUNT,
            "sha256": TEXT,
            "starts_sha256": TEXT,
            "blocks": [TEXT],
        }
    ],
}
_INDEX: Shape = {
    "vocab_size": COUNT,
    "dtype": one_of("<u2", "<u4"),
    "eos": TEXT,
    "eos_id": COUNT,
    "tokenizer": {"file": one_of("tokenizer.json"), "sha256": TEXT},
    "splits": dict.fromkeys(SPLITS, _SPLIT),
    "fingerprint": TEXT,
}
"""What `index.json` holds besides its schema and the settings it was prepared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of tokens and one of document starts, as the index lists them."""

    tokens_path: Path
    """The `.bin` file."""
    starts_path: Path
    """The `.idx` file."""
    tokens: int
    """Tokens, separators included."""
    documents: int
    """Documents."""
    sha256: str
    """Of the `.bin` file."""
    starts_sha256: str
    """Of the `.idx` file."""
    blocks: tuple[str, ...]
    """SHA-256 of each 4 MiB of the `.bin` file."""


def read_index(directory: Path | str) -> dict[str, Any]:
    """The content of `index.json`.

    Raises:
        DataError: there is none (preparing was stopped), it is not JSON, has another schema, or lacks something.
    """
    path = Path(directory) / "index.json"
    try:
        index: object = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            "there is no index.json, so this is not prepared data",
            where=str(directory),
            fix="name the folder that was given to `vitruvius data prepare --out`",
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"the index cannot be read: {error}", where=str(path), fix=_AGAIN) from None
    schema = cast("dict[str, Any]", index).get("schema") if isinstance(index, dict) else None
    if schema != DATA_SCHEMA:
        raise DataError(
            f"the schema is {schema!r}, this version reads {DATA_SCHEMA!r}",
            where=str(path),
            fix="prepare the data again",
        )
    misfit = first_misfit(_INDEX, cast("object", index))
    if misfit is not None:
        raise DataError(f"the index is damaged: {misfit}", where=str(path), fix=_AGAIN)
    return cast("dict[str, Any]", index)


@final
class TokenShards:
    """The packed tokens of one split, read through memory maps as one long stream."""

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
        self.tokens: int = here["tokens"]
        """Tokens in this split, separators included."""
        self.documents: int = here["documents"]
        """Documents in this split."""
        self.text_bytes: int = here["text_bytes"]
        """UTF-8 bytes of the text of this split: the denominator of bits per byte."""
        self.dtype: str = index["dtype"]
        """numpy type of a token on disk."""
        self.shards = tuple(_shard(directory, entry) for entry in here["shards"])
        self._first = tuple(itertools.accumulate((shard.tokens for shard in self.shards), initial=0))

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
        _verify_sums(shards)
        if shards.documents == 0:
            raise DataError(
                f"the {split} split has no documents",
                where=str(directory),
                fix="prepare more documents; --document-bytes cuts a long text file into several",
            )
        for shard in shards.shards:
            _verify_size(shard.tokens_path, shard.tokens * shards.item_bytes)
            _verify_size(shard.starts_path, (shard.documents + 1) * 8)
            if verify == "hashes":
                _verify_blocks(shard)
        return shards

    @property
    def item_bytes(self) -> int:
        """Bytes of a token on disk."""
        return int(self.dtype[-1])

    @cached_property
    def document_starts(self) -> np.ndarray:
        """Where each document starts in the stream, and at last its end: int64 [documents + 1]."""
        import numpy as np

        parts = [np.fromfile(shard.starts_path, dtype="<i8") for shard in self.shards]
        inner = [part[:-1] + first for part, first in zip(parts, self._first, strict=False)]
        return np.concatenate([*inner, np.array([self.tokens], dtype=np.int64)]).astype(np.int64, copy=False)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of the stream, across shards: int64 [stop - start].

        Raises:
            DataError: one of them is not below the vocabulary size; names the file and the byte offset.
        """
        import numpy as np

        assert 0 <= start <= stop <= self.tokens
        parts: list[np.ndarray] = []
        for shard, tokens, first in zip(self.shards, self._maps, self._first, strict=False):
            if first < stop and first + len(tokens) > start:
                begin = max(0, start - first)
                parts.append(tokens[begin : max(0, stop - first)])
                self._refuse_large(shard, parts[-1], begin)
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)

    def _refuse_large(self, shard: Shard, tokens: np.ndarray, first: int) -> None:
        """Raise DataError where one of the shard's tokens from `first` on is not below the vocabulary size."""
        too_large = tokens >= self.vocab_size
        if too_large.any():
            place = int(too_large.argmax())
            at_byte = (first + place) * self.item_bytes
            raise DataError(
                f"token {int(tokens[place])} at byte {at_byte:,} is not below the vocabulary size {self.vocab_size:,}",
                where=str(shard.tokens_path),
                fix=_AGAIN,
            )

    def document(self, number: int) -> np.ndarray:
        """The tokens of a document, its separator included: int64."""
        starts = self.document_starts
        return self.read(int(starts[number]), int(starts[number + 1]))

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the data was made with.

        Raises:
            DataError: it is missing or not the one the index names.
        """
        entry = read_index(self.directory)
        path = self.directory / entry["tokenizer"]["file"]
        tokenizer = load_tokenizer(path, eos=entry["eos"])
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry["tokenizer"]["sha256"]:
            raise DataError("the tokenizer differs from the one in the index (SHA-256)", where=str(path), fix=_AGAIN)
        return tokenizer

    def validate(self) -> None:
        """Look at every token and document start.

        Raises:
            DataError: names the file and the byte offset of the first id that is not below the vocabulary,
                of the first start out of order, or of a document that the separator does not end.
        """
        for shard, tokens in zip(self.shards, self._maps, strict=True):
            _verify_blocks(shard)
            for first, block in _blocks(tokens, BLOCK_BYTES // self.item_bytes):
                self._refuse_large(shard, block, first)
            _validate_starts(shard, tokens, self.eos_id)

    @cached_property
    def _maps(self) -> tuple[np.ndarray, ...]:
        import numpy as np

        # An empty file cannot be mapped; a shard without tokens is never written.
        return tuple(np.memmap(shard.tokens_path, dtype=self.dtype, mode="r") for shard in self.shards)


def _shard(directory: Path, entry: dict[str, Any]) -> Shard:
    return Shard(
        tokens_path=directory / entry["tokens_file"],
        starts_path=directory / entry["starts_file"],
        tokens=entry["tokens"],
        documents=entry["documents"],
        sha256=entry["sha256"],
        starts_sha256=entry["starts_sha256"],
        blocks=tuple(entry["blocks"]),
    )


def _verify_sums(shards: TokenShards) -> None:
    """The whole must be what its parts add up to."""
    for name, whole in (("tokens", shards.tokens), ("documents", shards.documents)):
        parts = sum(getattr(shard, name) for shard in shards.shards)
        if parts != whole:
            what = f"the index says that the {shards.split} split has {whole:,} {name}, and its shards have {parts:,}"
            raise DataError(what, where=str(shards.directory / "index.json"), fix=_AGAIN)


def _verify_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError("the index lists this file, but it is missing", where=str(path), fix=_AGAIN) from None
    if size != expected:
        what = "ends" if size < expected else "goes on"
        at = min(size, expected)
        raise DataError(
            f"the file {what} at byte {at:,}: the index says {expected:,} bytes, it has {size:,}",
            where=str(path),
            fix=_AGAIN,
        )


def _verify_blocks(shard: Shard) -> None:
    with shard.tokens_path.open("rb") as file:
        for number, expected in enumerate(shard.blocks):
            if hashlib.sha256(file.read(BLOCK_BYTES)).hexdigest() != expected:
                first, last = number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, shard.tokens_path.stat().st_size)
                raise DataError(
                    f"the content differs from the index between bytes {first:,} and {last:,} (SHA-256)",
                    where=str(shard.tokens_path),
                    fix=_AGAIN,
                )
    if hashlib.sha256(shard.starts_path.read_bytes()).hexdigest() != shard.starts_sha256:
        raise DataError("the content differs from the index (SHA-256)", where=str(shard.starts_path), fix=_AGAIN)


def _blocks(tokens: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, len(tokens), size):
        yield first, tokens[first : first + size]


def _validate_starts(shard: Shard, tokens: np.ndarray, eos_id: int) -> None:
    import numpy as np

    starts = np.fromfile(shard.starts_path, dtype="<i8")
    wrong = np.flatnonzero(np.diff(starts) <= 0)
    if starts[0] != 0 or starts[-1] != len(tokens) or len(wrong):
        place = int(wrong[0]) + 1 if len(wrong) else (0 if starts[0] != 0 else len(starts) - 1)
        raise DataError(
            f"document start at byte {place * 8:,} is out of order", where=str(shard.starts_path), fix=_AGAIN
        )
    unended = np.flatnonzero(tokens[starts[1:] - 1] != eos_id)
    if len(unended):
        place = int(starts[int(unended[0]) + 1]) - 1
        raise DataError(
            f"document {int(unended[0])} does not end with the separator, near token {place:,}",
            where=str(shard.tokens_path),
            fix=_AGAIN,
        )
