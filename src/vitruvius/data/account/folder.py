"""A prepared folder, opened to be looked at: its index and counts, its quarantine and the origins of its documents."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.data.packing.index import AGAIN, SPLITS, read_index, shard_of
from vitruvius.data.reading.jsonl import fast_parser
from vitruvius.errors import DataError
from vitruvius.runs.files import read_json, sha256_of
from vitruvius.runs.shapes import COUNT, MAPPING, Shape, first_misfit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from vitruvius.data.packing.index import Shard
    from vitruvius.data.tokenization.tokenizer import Tokenizer

LONGEST_ROW = 16 * 2**20
"""Bytes of the longest row of a quarantine or of origins that is believed."""

_COUNTS: Shape = {"documents_in": COUNT, "documents_out": COUNT, "dropped": MAPPING, "changed": MAPPING}


@final
class PreparedFolder:
    """What `data prepare` left in a folder, read as a stream: nothing is kept for a document."""

    def __init__(self, directory: Path | str) -> None:
        """Open the folder.

        Raises:
            DataError: it is not prepared data, or its index or counts are damaged.
        """
        self.directory = Path(directory)
        self.index: dict[str, Any] = read_index(self.directory)
        """The content of `index.json`."""
        self.counts: dict[str, Any] = self._read_counts()
        """The content of `counts.json`."""

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the data was prepared with."""
        settings: object = self.index.get("settings")
        return cast("dict[str, Any]", settings) if isinstance(settings, dict) else {}

    @property
    def source_counts(self) -> dict[str, dict[str, Any]]:
        """The counts of each source, as far as they are there."""
        sources: object = self.counts.get("sources")
        items = cast("dict[str, object]", sources).items() if isinstance(sources, dict) else ()
        return {name: cast("dict[str, Any]", counts) for name, counts in items if isinstance(counts, dict)}

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return SPLITS

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split, which may be none; their files are checked when they are read."""
        return tuple(shard_of(self.directory, entry) for entry in self.index["splits"][split]["shards"])

    def origins(self, split: str) -> Iterator[dict[str, Any]]:
        """A row for each document of a split, in order: `id`, `source`, `text_bytes`, `tokens`, `url`.

        Raises:
            DataError: a file is missing or damaged, or has another number of rows than its shard has documents.
        """
        for shard in self.shards(split):
            yield from shard_origins(shard)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer the data was made with.

        Raises:
            DataError: it is missing, damaged, or not the one that the index names.
            MissingExtraError: tokenizers is not installed.
        """
        from vitruvius.data.tokenization.tokenizer import load_tokenizer

        entry = self.index["tokenizer"]
        path = self.directory / entry["file"]
        if not path.is_file():
            raise DataError("the tokenizer is missing", where=str(path), fix=AGAIN)
        if sha256_of(path) != entry["sha256"]:
            raise DataError("the tokenizer differs from the one in the index (SHA-256)", where=str(path), fix=AGAIN)
        found = load_tokenizer(path, eos=self.index["eos"])
        if (found.vocab_size, found.eos_id) != (self.index["vocab_size"], self.index["eos_id"]):
            what = (
                f"the index says {self.index['vocab_size']:,} ids with the separator {self.index['eos_id']:,}, the "
                f"tokenizer has {found.vocab_size:,} with {found.eos_id:,}"
            )
            raise DataError(what, where=str(path), fix=AGAIN)
        return found

    @property
    def quarantine_path(self) -> Path:
        """Where the dropped documents are listed."""
        return self.directory / "quarantine.jsonl"

    def quarantine(self, *, holding: tuple[bytes, ...] = ()) -> Iterator[dict[str, Any]]:
        """A row for each dropped document, or for those whose line has one of the byte strings `holding`.

        Raises:
            DataError: the file is missing or damaged; names the line.
        """
        try:
            with self.quarantine_path.open("rb") as file:
                yield from (row for _, row in _rows(file, self.quarantine_path, holding=holding))
        except FileNotFoundError:
            raise DataError("the quarantine is missing", where=str(self.quarantine_path), fix=AGAIN) from None

    def _read_counts(self) -> dict[str, Any]:
        path = self.directory / "counts.json"
        try:
            counts: object = read_json(path)
        except FileNotFoundError:
            raise DataError("the counts are missing", where=str(path), fix=AGAIN) from None
        except (OSError, ValueError) as error:
            raise DataError(f"the counts cannot be read: {error}", where=str(path), fix=AGAIN) from None
        misfit = first_misfit(_COUNTS, counts)
        if misfit is None:
            found = cast("dict[str, Any]", counts)
            for key in ("dropped", "changed"):
                misfit = misfit or first_misfit(dict.fromkeys(found[key], COUNT), found[key], key)
            misfit = misfit or _unbalanced(found)
        if misfit is not None:
            raise DataError(f"the counts are damaged: {misfit}", where=str(path), fix=AGAIN)
        return cast("dict[str, Any]", counts)


def shard_origins(shard: Shard) -> Iterator[dict[str, Any]]:
    """A row for each document of a shard, in order.

    Raises:
        DataError: the file is missing or damaged, or has another number of rows than the shard has documents.
    """
    return (row for _, row in numbered_origins(shard))


def numbered_origins(shard: Shard, *, holding: tuple[bytes, ...] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number in the shard, row) of each document, or of those whose line has one of the byte strings `holding`.

    Raises:
        DataError: the file is missing or damaged, or has another number of rows than the shard has documents.
    """
    path = shard.origins_path
    lines = [0]
    try:
        with gzip.open(path, "rb") as file:
            yield from _rows(cast("BinaryIO", file), path, holding=holding, lines=lines)
    except FileNotFoundError:
        raise DataError("the origins of the shard's documents are missing", where=str(path), fix=AGAIN) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the file is damaged: {error}", where=str(path), fix=AGAIN) from None
    if lines[0] != shard.documents:
        what = f"there are {lines[0]:,} origins, and the shard has {shard.documents:,} documents"
        raise DataError(what, where=str(path), fix=AGAIN)


def _rows(
    file: BinaryIO, path: Path, *, holding: tuple[bytes, ...] = (), lines: list[int] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 0, object) of each line, or of those that have one of `holding`; counts all of them in `lines`."""
    fast, number = fast_parser(), 0
    while line := file.readline(LONGEST_ROW + 1):
        number += 1
        if len(line) > LONGEST_ROW:
            raise DataError(f"line {number:,} is over {LONGEST_ROW:,} bytes", where=str(path), fix=AGAIN)
        if holding and not any(part in line for part in holding):
            continue
        row = _parsed(line, fast, number, path)
        if not isinstance(row, dict):
            raise DataError(f"line {number:,} is no JSON object", where=str(path), fix=AGAIN)
        yield number - 1, cast("dict[str, Any]", row)
    if lines is not None:
        lines[0] = number


def _parsed(line: bytes, fast: Callable[[bytes], Any] | None, number: int, path: Path) -> object:
    if fast is not None:
        try:
            return fast(line)
        except ValueError:
            pass  # half a surrogate pair, perhaps, which the slow parser takes
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"line {number:,} is not JSON: {why}", where=str(path), fix=AGAIN) from None


def needles(text: str) -> tuple[bytes, ...]:
    """How JSON may spell a text, in ASCII or in UTF-8; other spellings are possible, but nobody here writes them."""
    spellings = (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
    return tuple({spelling.encode("utf-8", "surrogatepass") for spelling in spellings})


def _unbalanced(counts: dict[str, Any]) -> str | None:
    dropped = sum(counts["dropped"].values())
    if counts["documents_in"] == counts["documents_out"] + dropped:
        return None
    return f"{counts['documents_in']:,} in is not {counts['documents_out']:,} out and {dropped:,} dropped"


def text_of(row: dict[str, Any], key: str) -> str | None:
    """A text in a row; None where it is missing or is no text."""
    value = row.get(key)
    return value if isinstance(value, str) else None


def count_of(row: dict[str, Any], key: str) -> int | None:
    """A whole number from 0 in a row; None where it is missing or is none."""
    value = row.get(key)
    return value if type(value) is int and value >= 0 else None


def number_of(row: dict[str, Any], key: str) -> float | None:
    """A finite number in a row; None where it is missing or is none."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e308 else None


def scalar_of(row: dict[str, Any], key: str) -> str | float | None:
    """A text or a finite number in a row, as it is; None where it is missing or is neither."""
    value = row.get(key)
    return value if isinstance(value, str) or number_of(row, key) is not None else None


def id_of(row: dict[str, Any]) -> str | None:
    """The id of a dropped document; where a record was too damaged to have one, its file and line."""
    if (given := text_of(row, "id")) is not None:
        return given
    file, line = text_of(row, "file"), count_of(row, "line")
    return file if file is None or line is None else f"{file}:{line}"
