"""The source of Python's standard library and of installed packages as a corpus."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sysconfig
import tokenize
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vitruvius.data.corpora.folder import corpus_folder
from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.data.corpora.folder import Corpus, Part
    from vitruvius.data.progress import Progress

SOURCE_LIMIT = 16 * 2**20
"""Longest source file in bytes; `data prepare` reads no longer line either."""
_FOREIGN = frozenset(("site-packages", "dist-packages", "__pycache__"))
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,200}[A-Za-z0-9])?")
_LICENSE_FILE = re.compile(r"(licen[sc]e|copying)[^/]*", re.IGNORECASE)

LEFT_OUT = {
    "too_long": f"over {SOURCE_LIMIT:,} bytes",
    "not_decodable": "its bytes are not in the encoding that it declares (PEP 263), or UTF-8",
    "unreadable": "it is listed, but cannot be read",
}
"""Why a source file is left out -> what that means."""


def fetch_standard_library(
    out: Path,
    *,
    limit_bytes: int | None = None,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
) -> Corpus:
    """Write every `.py` file of the running Python's standard library to `out`, without installed packages.

    Raises:
        DataError: `out` holds something else.
    """
    library = Path(sysconfig.get_path("stdlib"))
    with corpus_folder(out) as folder:
        about = {"name": "python-stdlib", "version": platform.python_version(), "from": "this Python"}
        part = folder.part("python-stdlib", about | {"licenses": ["PSF-2.0"]})
        files = sorted(_below(library))
        for number, path in enumerate(files):
            progress("reading sources", number, len(files))
            name = path.relative_to(library).as_posix()
            _add(part, path, name, url=f"pkg:generic/python@{platform.python_version()}#Lib/{quote(name)}")
        progress("reading sources", len(files), len(files))
        part.copyright = first_bytes(library / "LICENSE.txt")
        return folder.finish("python-stdlib", limit_bytes=limit_bytes, settings={"limit_bytes": limit_bytes})


def fetch_python_packages(
    out: Path,
    *,
    packages: Sequence[str],
    limit_bytes: int | None = None,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
) -> Corpus:
    """Write the `.py` files of Python packages that are installed here to `out`; nothing is downloaded.

    Raises:
        UsageError: no package is named, or a name is none.
        DataError: a package is not installed, or `out` holds something else.
    """
    if not packages:
        raise UsageError("no package is named", where="--package", fix="name installed packages: --package numpy")
    with corpus_folder(out) as folder:
        for number, name in enumerate(packages):
            progress("reading sources", number, len(packages))
            about, files, licence, purl = licensed_files(name)
            part = folder.part(about["name"], about)
            for inside, path in files:
                _add(part, path, inside, url=f"{purl}#{quote(inside)}")
            part.copyright = licence
        progress("reading sources", len(packages), len(packages))
        return folder.finish("python-packages", limit_bytes=limit_bytes, settings={"limit_bytes": limit_bytes})


def _below(library: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(library):
        folders[:] = sorted(name for name in folders if name not in _FOREIGN)
        yield from (Path(parent, name) for name in names if name.endswith(".py"))


def _distribution(name: str) -> importlib.metadata.Distribution:
    if not _NAME.fullmatch(name):
        raise UsageError("this is no name of a Python package", where=name, fix="name it as pip does: --package numpy")
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            "this package is not installed in the Python that runs vitruvius",
            where=name,
            fix=f"pip install {name}, or name another; `pip list` shows what is there",
        ) from None
    if found.files is None or not _NAME.fullmatch(found.name or ""):
        raise DataError(
            "this package keeps no list of its files", where=name, fix="install it with pip, or name another"
        )
    return found


def licensed_files(name: str) -> tuple[dict[str, Any], list[tuple[str, Path]], bytes | None, str]:
    """Of an installed package: what a manifest says of it, its `.py` files, its licence texts, its package URL.

    Raises:
        UsageError: the name is none.
        DataError: it is not installed, or keeps no list of its files.
    """
    found = _distribution(name)
    plain = re.sub(r"[-_.]+", "-", found.name).lower()
    files, licences = _files_of(found)
    about = {
        "name": plain,
        "version": found.version,
        "from": "this Python's packages",
        "licenses": _licenses(found),
    }
    return about, files, licences, f"pkg:pypi/{plain}@{quote(found.version)}"


def _files_of(found: importlib.metadata.Distribution) -> tuple[list[tuple[str, Path]], bytes | None]:
    """The `.py` files of a package by their name inside it, and the text of its licences."""
    files: list[tuple[str, Path]] = []
    licences: list[bytes] = []
    for entry in sorted(found.files or (), key=str):
        inside = PurePosixPath(entry)
        if ".." in inside.parts or inside.is_absolute():
            continue
        path = Path(str(found.locate_file(entry)))
        if inside.suffix == ".py" and "__pycache__" not in inside.parts:
            files.append((inside.as_posix(), path))
        elif inside.parts[0].endswith(".dist-info") and _LICENSE_FILE.fullmatch(inside.name):
            content = first_bytes(path)
            licences += [] if content is None else [content]
    return files, b"\n\n".join(licences) or None


def _licenses(found: importlib.metadata.Distribution) -> list[str]:
    """What the package's metadata says: the SPDX expression, or the trove classifiers, or a short License field."""
    metadata = found.metadata
    if "License-Expression" in metadata:
        return [metadata["License-Expression"][:200]]
    classifiers = [value for value in metadata.get_all("Classifier") or () if value.startswith("License ::")]
    if classifiers:
        return sorted(value.rpartition(" :: ")[2] for value in classifiers)
    field = metadata["License"].strip() if "License" in metadata else ""
    return [field] if 0 < len(field) <= 100 and "\n" not in field else []


def _add(part: Part, path: Path, name: str, *, url: str) -> None:
    try:
        if path.stat().st_size > SOURCE_LIMIT:
            part.leave_out(name, "too_long")
            return
        with tokenize.open(path) as file:
            text = file.read()
        text.encode("utf-8")
    except (SyntaxError, ValueError, LookupError):
        part.leave_out(name, "not_decodable")
    except OSError:
        part.leave_out(name, "unreadable")
    else:
        part.add(name, text=text, markup="plain", url=url)


def first_bytes(path: Path, limit: int = 1 << 20) -> bytes | None:
    """The beginning of a file; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError:
        return None
