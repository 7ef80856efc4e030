"""The way out: the documents of prepared data as JSON lines or Parquet, which `datasets.load_dataset` reads."""

from __future__ import annotations

import contextlib
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

from vitruvius.data.packing.index import SPLITS, read_index
from vitruvius.data.packing.shards import TokenShards
from vitruvius.data.reading.libraries import library
from vitruvius.data.reading.text import writable
from vitruvius.errors import DataError, UsageError
from vitruvius.runs.files import replacing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import BinaryIO

    from vitruvius.data.packing.index import Shard
    from vitruvius.data.tokenization.tokenizer import Tokenizer

Form = Literal["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]
FORMS: Final[tuple[Form, ...]] = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
"""What may be written, by the end of the file's name."""

_GROUP_BYTES: Final = 16 << 20
_GROUP_ROWS: Final = 1000
"""A row group is written at one or the other: what `datasets` does, so that a reader needs little memory."""
_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A document on its way out."""

    id: str | None
    """What the reader called it; None where the data does not say."""
    text: str
    """As the tokenizer gives it back."""
    url: str | None
    """Where it was published, if the input said so."""
    source: str
    """The part of the corpus it belongs to."""
    split: str
    """`train` or `validation`."""
    tokens: int
    """Tokens, without the separator."""
    exact: bool = True
    """Whether the text has as many bytes as the one that was prepared; not written."""


_COLUMNS: Final = ("id", "text", "url", "source", "split", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written."""

    documents: int
    """Rows."""
    text_bytes: int
    """UTF-8 bytes of the texts."""
    inexact: int
    """Documents whose text is not as long as the one that was prepared: the tokenizer does not keep all of it."""
    file_bytes: int
    """Length of the file."""


def form_of(path: Path) -> Form:
    """The form of a file, by its name.

    Raises:
        UsageError: it is none that can be written.
    """
    for form in FORMS:
        if path.name.lower().endswith(f".{form}"):
            return form
    raise UsageError(
        "the name does not say what to write",
        where=str(path),
        fix=f"end it in {', '.join('.' + form for form in FORMS)}",
    )


def prepared_documents(directory: Path | str, splits: Iterable[str] = SPLITS) -> Iterator[Exported]:
    """The documents of prepared data, split after split, decoded; a split without documents is passed over.

    Raises:
        DataError: it is no prepared data, none of the splits has documents, or a file is missing or damaged.
    """
    directory = Path(directory)
    index = read_index(directory)
    wanted = tuple(splits)
    held = [split for split in wanted if index["splits"][split]["shards"]]
    if not held:
        raise DataError(
            f"there are no documents in {' and '.join(wanted)}",
            where=str(directory),
            fix="choose another split; --held-out says how much is for validation",
        )
    for split in held:
        shards = TokenShards.open(directory, split)
        tokenizer = shards.tokenizer()
        first = 0
        for number, shard in enumerate(shards.shards):
            for place, origin in enumerate(shards.origins(number)):
                yield _exported(shards, shard, tokenizer, first + place, origin)
            first += shard.documents


def _exported(shards: TokenShards, shard: Shard, tokenizer: Tokenizer, number: int, origin: dict[str, Any]) -> Exported:
    ids = cast("list[int]", shards.document(number)[:-1].tolist())
    content = tokenizer.decode_bytes(ids)
    return Exported(
        id=writable(origin.get("id")),
        text=content.decode("utf-8", "replace"),
        url=writable(origin.get("url")),
        source=shard.source,
        split=shards.split,
        tokens=len(ids),
        exact=len(content) == origin.get("text_bytes"),
    )


def export(documents: Iterable[Exported], path: Path) -> Written:
    """Write documents to `path`, in the form that its name says; a file of that name is replaced when all is written.

    Equal documents give equal bytes, with one version of the packing libraries.

    Raises:
        UsageError: the name says no form that can be written.
        DataError: the file cannot be written; what was there is untouched.
        MissingExtraError: pyarrow or zstandard is not installed.
    """
    form = form_of(path)
    counts = [0, 0, 0]

    def counted() -> Iterator[tuple[Exported, int]]:
        for document in documents:
            size = len(document.text.encode())
            counts[0] += 1
            counts[1] += size
            counts[2] += not document.exact
            yield document, size

    try:
        with replacing(path) as file:
            with _writer(file, form) as writer:
                for document, size in counted():
                    writer.add({name: getattr(document, name) for name in _COLUMNS}, size)
            file.flush()
            file_bytes = file.tell()
    except OSError as error:
        raise DataError(
            f"the file cannot be written: {error.strerror or error}", where=str(path), fix="check the path and the disk"
        ) from error
    return Written(documents=counts[0], text_bytes=counts[1], inexact=counts[2], file_bytes=file_bytes)


class _Writer(Protocol):
    def add(self, row: dict[str, Any], text_bytes: int) -> None: ...


@contextlib.contextmanager
def _writer(file: BinaryIO, form: Form) -> Generator[_Writer]:
    if form == "parquet":
        table = _Table(file)
        try:
            yield table
        except BaseException:
            # The library would write its footer later, when nobody listens and the file is gone.
            with contextlib.suppress(OSError):
                table.close()
            raise
        table.close()
    elif form == "jsonl.gz":
        # Neither name nor time, so that equal documents give equal bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=_GZIP_LEVEL, mtime=0) as packed:
            yield _Lines(cast("BinaryIO", packed))
    elif form == "jsonl.zst":
        compressor = library("zstandard").ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
        with compressor.stream_writer(file, closefd=False) as packed:
            yield _Lines(packed)
    else:
        yield _Lines(file)


class _Lines:
    """Writes JSON lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, row: dict[str, Any], text_bytes: int) -> None:
        """Write a row."""
        del text_bytes
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


class _Table:
    """Writes Parquet, row group by row group."""

    def __init__(self, file: BinaryIO) -> None:
        self._pa = library("pyarrow")
        kinds = {"tokens": self._pa.int64()}
        self._schema = self._pa.schema([(name, kinds.get(name, self._pa.string())) for name in _COLUMNS])
        self._writer = library("pyarrow.parquet").ParquetWriter(
            file, self._schema, compression="zstd", write_page_checksum=True
        )
        self._rows: list[dict[str, Any]] = []
        self._held = 0

    def add(self, row: dict[str, Any], text_bytes: int) -> None:
        """Take a row; write those held when they are enough."""
        self._rows.append(row)
        self._held += text_bytes
        if self._held >= _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._held = [], 0
