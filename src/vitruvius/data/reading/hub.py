"""Datasets that the `datasets` library reads, streaming: folders of any format it knows, and those of the hub."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from vitruvius.data.reading.libraries import library
from vitruvius.data.reading.streams import Identity
from vitruvius.data.reading.tables import columns_of, row_document, row_refusal
from vitruvius.data.reading.text import Problem, type_name, usable, writable
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from vitruvius.data.document import Document
    from vitruvius.data.ledger import Refusal
    from vitruvius.data.reading.options import InputFile, ReadOptions
    from vitruvius.data.reading.streams import Span

HUB: Final = "hf:"
"""What the name of such an input begins with: `hf:NAME_OR_PATH[:CONFIG][@SPLIT]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetName:
    """A dataset, as an input names it."""

    path: str
    """A folder, a file, or the name of a repository on the hub."""
    config: str | None = None
    """One of several forms of the dataset."""
    split: str | None = None
    """One of its parts; None takes `train`, or the only one."""

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return Path(self.path).exists()


def dataset_name(argument: str) -> DatasetName:
    """The dataset that `hf:NAME_OR_PATH[:CONFIG][@SPLIT]` names; a file of the whole name wins.

    Raises:
        DataError: a part is empty.
    """
    rest = argument.removeprefix(HUB)
    if rest and Path(rest).exists():
        return DatasetName(path=rest)
    config = split = None
    path, mark, last = rest.rpartition("@")
    if mark and "/" not in last:
        rest, split = path, last
    path, mark, last = rest.rpartition(":")
    if mark and "/" not in last:
        rest, config = path, last
    if not rest or config == "" or split == "":
        raise DataError(
            "a part of the dataset's name is empty", where=argument, fix="write hf:NAME_OR_PATH[:CONFIG][@SPLIT]"
        )
    return DatasetName(path=rest, config=config, split=split)


def read_dataset(
    file: InputFile, options: ReadOptions, span: Span, expected: Identity | None = None
) -> Iterator[Document | Refusal]:
    """The documents of the dataset's shards from `span.start` on; ids are `hf:NAME#ROW`, or `hf:NAME/SHARD#ROW`.

    Raises:
        DataError: it does not exist, cannot be reached, has no such column or split, or changed.
        MissingExtraError: datasets is not installed.
    """
    name = dataset_name(file.name)
    if expected is not None:
        _refuse_changed(file, name, expected)
    dataset = open_dataset(file)
    shards = shards_of(dataset)
    for shard in range(span.start, shards if span.stop is None else min(span.stop, shards)):
        label = shard_label(file.name, shard, shards)
        rows = dataset.shard(num_shards=shards, index=shard) if shards > 1 else dataset
        yield from _rows(rows, name, label, options)
    if expected is not None:
        _refuse_changed(file, name, expected)


def open_dataset(file: InputFile) -> Any:
    """The dataset as the library streams it.

    Raises:
        DataError: it does not exist, cannot be reached or read, or has no such split.
        MissingExtraError: datasets is not installed.
    """
    datasets = library("datasets")
    name = dataset_name(file.name)
    if name.is_local and any((Path(name.path) / mark).exists() for mark in ("state.json", "dataset_dict.json")):
        raise DataError(
            "the folder was saved by `save_to_disk`", where=file.name, fix=f"name it without hf: ({name.path})"
        )
    if not name.is_local:
        _refuse_unreachable(name, file.name)
    with _quiet(datasets):
        try:
            found: Any = datasets.load_dataset(name.path, name.config, split=name.split, streaming=True)
        except ConnectionError as error:
            raise _unreachable(file.name, error) from None
        except Exception as error:  # noqa: BLE001 (each format has errors of its own)
            raise DataError(
                f"the dataset cannot be opened: {_first_line(error)}",
                where=file.name,
                fix="check its name, configuration and split: hf:NAME_OR_PATH[:CONFIG][@SPLIT]",
            ) from None
    if isinstance(found, dict):
        found = _only_split(cast("dict[str, Any]", found), file.name)
    return found


def _refuse_unreachable(name: DatasetName, where: str) -> None:
    """Ask the hub for the dataset, once: the library would ask for half a minute, and say so on the terminal."""
    hub = library("huggingface_hub")
    if hub.constants.HF_HUB_OFFLINE:
        return
    try:
        hub.HfApi().dataset_info(name.path, timeout=10)
    except hub.errors.RepositoryNotFoundError:
        raise DataError(
            "there is no folder of this name, and on the hub no dataset that may be read without a key",
            where=where,
            fix="check the name; a private dataset needs `hf auth login`",
        ) from None
    except Exception as error:  # noqa: BLE001 (whatever the connection's library raises)
        raise _unreachable(where, error) from None


def _unreachable(where: str, error: Exception) -> DataError:
    return DataError(
        f"the hub cannot be reached, and no folder has this name: {_first_line(error)}",
        where=where,
        fix="check name and connection, or name a folder; HF_HUB_OFFLINE=1 reads what was fetched before",
    )


def shards_of(dataset: Any) -> int:
    """Into how many parts of its own the dataset is cut; at least one."""
    return max(1, int(dataset.num_shards))


def shard_label(name: str, shard: int, shards: int) -> str:
    """How a shard is called: as the dataset where it is the only one."""
    return name if shards == 1 else f"{name}/{shard}"


def dataset_identity(file: InputFile) -> Identity | None:
    """Bytes and last change of all files of a dataset of this machine; None for one of the hub."""
    name = dataset_name(file.name)
    if not name.is_local:
        return None
    path = Path(name.path)
    files = [path] if path.is_file() else [Path(parent, one) for parent, _, names in os.walk(path) for one in names]
    status = [one.stat() for one in files if one.is_file()]
    return Identity(
        size=sum(one.st_size for one in status), mtime_ns=max((one.st_mtime_ns for one in status), default=0)
    )


def _refuse_changed(file: InputFile, name: DatasetName, expected: Identity) -> None:
    found = dataset_identity(file)
    change = "is gone" if found is None else expected.difference(found)
    if change:
        raise DataError(
            f"the dataset {change} since the work was planned", where=name.path, fix="put it back, or prepare anew"
        )


def _only_split(splits: dict[str, Any], name: str) -> Any:
    if "train" in splits:
        return splits["train"]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(
        f"the dataset has no split `train`, but {', '.join(splits)}", where=name, fix=f"choose one: {name}@SPLIT"
    )


def _rows(rows: Any, name: DatasetName, label: str, options: ReadOptions) -> Iterator[Document | Refusal]:
    """The documents of one shard."""
    wanted = [options.field, options.url_field]
    if rows.features is not None:
        columns = columns_of(rows.features.arrow_schema, label, options)
        wanted = [column for column in (columns.text, columns.url) if column is not None]
        # Images and sound are not unpacked for nothing.
        rows = rows.select_columns(wanted)
    done = 0
    try:
        for row in rows:
            done += 1
            text = _row_text(row, options)
            if isinstance(text, Problem):
                yield row_refusal(label, done, text)
            else:
                url = writable(row.get(options.url_field)) if options.url_field in wanted else None
                yield row_document(label, done, text, url, options)
    except Exception as error:  # noqa: BLE001 (each format has errors of its own)
        if not name.is_local:
            raise DataError(
                f"the dataset cannot be read on after row {done:,}: {_first_line(error)}",
                where=label,
                fix="check the connection, and prepare again: what is done is kept",
            ) from None
        yield row_refusal(label, done + 1, Problem("corrupt_table", f"from row {done + 1:,} on: {_first_line(error)}"))


def _row_text(row: dict[str, Any], options: ReadOptions) -> str | Problem:
    if options.field not in row:
        return Problem("missing_field", f"no column {options.field!r}")
    text = row[options.field]
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            return Problem("invalid_utf8", f"byte {error.start} of the text: {error.reason}")
    if not isinstance(text, str):
        return Problem("wrong_type", f"column {options.field!r} is {type_name(text)}")
    # A character has four bytes at most: only texts that may be too long are measured.
    if len(text) * 4 > options.limit and (size := len(text.encode("utf-8", "surrogatepass"))) > options.limit:
        return Problem("too_long", f"{size:,} bytes, the limit is {options.limit:,}")
    return usable(text)


@contextlib.contextmanager
def _quiet(datasets: Any) -> Generator[None]:
    """Without the library's bars, which would be drawn across ours."""
    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:500] or type(error).__name__
