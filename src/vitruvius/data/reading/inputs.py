"""What the command line names, as a list of files in an order that the order of arguments does not change."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vitruvius.data.reading.corpora import CORPORA
from vitruvius.data.reading.hub import HUB, dataset_name
from vitruvius.data.reading.options import InputFile, Kind
from vitruvius.data.reading.unpacking import PACKING_SUFFIXES
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

InputKind = Literal["auto", "text", "jsonl", "html", "source", "parquet", "arrow"]
INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)

SUFFIXES: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""Kinds known by their name; source files are known by `--ext`. A suffix of compression may follow, but for tables."""

TABLES: frozenset[Kind] = frozenset(("parquet", "arrow"))
"""Kinds that are compressed within, never as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The files to read and the files passed over."""

    files: tuple[InputFile, ...]
    """Sorted by name; a file reached twice appears once."""
    passed_over: dict[str, int]
    """Files in folders that the kind does not cover: suffix -> count."""


def find_inputs(
    arguments: Sequence[str | Path],
    *,
    kind: InputKind = "auto",
    extensions: Sequence[str] = (".py",),
    exclude: Sequence[Path] = (),
) -> Inputs:
    """The files that `arguments` (files, folders, names of corpora) stand for.

    A named file is read as `kind`, or by its suffix, or else as text. In a folder, only files whose suffix
    belongs to `kind` are taken; hidden files and folders, links to folders, and the folders `exclude`
    (the output may lie inside an input) are left out.

    Raises:
        DataError: an argument does not exist, a folder cannot be listed, or there is no file to read.
    """
    left_out = {_identity(path) for path in exclude}
    wanted = _suffixes(kind, extensions)
    found: dict[str, InputFile] = {}
    passed_over: dict[str, str] = {}
    for argument in arguments:
        try:
            for identity, file in _named_by(str(argument), wanted, left_out, kind=kind):
                if isinstance(file, str):
                    passed_over[identity] = file
                else:
                    # Of two names for one file the first in the alphabet counts, not the first argument.
                    found[identity] = min(found.get(identity, file), file, key=lambda one: (one.name, one.kind))
        except OSError as error:
            raise DataError(
                f"this cannot be looked at: {error.strerror}", where=_name(Path(argument)), fix="check the path"
            ) from None
    suffixes = Counter(suffix for identity, suffix in passed_over.items() if identity not in found)
    if not found:
        seen = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(5)) or "none at all"
        raise DataError(
            f"no file to read: kind {kind} takes {' '.join(sorted(wanted))}; found {seen}",
            where=" ".join(map(str, arguments)),
            fix="choose --kind, or name the suffixes of source files with --ext",
        )
    files = sorted(found.values(), key=lambda file: (file.name, str(file.path)))
    return Inputs(files=tuple(files), passed_over=dict(sorted(suffixes.items())))


def _named_by(
    argument: str, wanted: dict[str, Kind], left_out: set[str], *, kind: InputKind
) -> Iterator[tuple[str, InputFile | str]]:
    """What one argument stands for: (identity, file), or (identity, suffix) of a file that is passed over."""
    if not argument:
        raise DataError("a name is empty", where="IN", fix="name a file or folder; . is the one you are in")
    path = Path(argument)
    if argument.startswith(HUB) and not path.exists():
        yield argument, InputFile(name=argument, path=Path(dataset_name(argument).path), kind="hf")
    elif argument in CORPORA and not path.exists():
        for name, source in CORPORA[argument]():
            yield _identity(source), InputFile(name=name, path=source, kind="source")
    elif path.is_dir():
        for file in _files_below(path, left_out):
            of_file = wanted.get(suffix := _suffix(file))
            passed_over = suffix or "(none)"
            found = InputFile(name=_name(file), path=file, kind=of_file) if of_file is not None else passed_over
            yield _identity(file), found
    elif path.exists():
        of_file = wanted.get(_suffix(path), "text") if kind == "auto" else kind
        packed = path.suffix.lower() in PACKING_SUFFIXES
        if packed and (of_file in TABLES or SUFFIXES.get(Path(path.stem).suffix.lower()) in TABLES):
            raise DataError(
                "a table cannot be read while it is compressed as a whole", where=_name(path), fix="unpack it first"
            )
        yield _identity(path), InputFile(name=_name(path), path=path, kind=of_file)
    else:
        raise DataError(
            "there is no such file or folder",
            where=_name(path),
            fix=f"check the path; the corpora that need none are: {', '.join(CORPORA)}",
        )


def _suffixes(kind: InputKind, extensions: Sequence[str]) -> dict[str, Kind]:
    sources: dict[str, Kind] = {f".{name.removeprefix('.').lower()}": "source" for name in extensions}
    every = SUFFIXES | sources
    return every if kind == "auto" else {suffix: of for suffix, of in every.items() if of == kind}


def _suffix(path: Path) -> str:
    """What says the kind of a file: the suffix before that of compression; both, where a table is compressed."""
    suffix = path.suffix.lower()
    if suffix not in PACKING_SUFFIXES:
        return suffix
    inner = Path(path.stem).suffix.lower()
    return inner + suffix if SUFFIXES.get(inner) in TABLES else inner


def _files_below(folder: Path, left_out: set[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=_refuse_unlisted):
        wanted = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(name for name in wanted if _identity(Path(parent, name)) not in left_out)
        tables = _saved_tables(Path(parent)) if "state.json" in names else None
        for name in sorted(names):
            file = Path(parent, name)
            if tables is not None and name.endswith(".arrow") and name not in tables:
                continue
            if not name.startswith(".") and file.is_file():
                yield file


def _saved_tables(folder: Path) -> set[str] | None:
    """The files of a dataset that `datasets` saved here; beside them may lie its caches. None where it is none."""
    try:
        state: Any = json.loads((folder / "state.json").read_bytes())
        return {str(entry["filename"]) for entry in state["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _refuse_unlisted(error: OSError) -> None:
    """Stop instead of passing over a folder in silence, which is what os.walk does."""
    raise DataError(
        f"the folder cannot be listed: {error.strerror}", where=str(error.filename), fix="check its permissions"
    )


def _identity(path: Path) -> str:
    return os.path.realpath(path)


def _name(path: Path) -> str:
    # A name that is not UTF-8 on disk must still fit into JSON.
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")
