"""A corpus on disk: a JSONL file per package, the licences, and a manifest that accounts for both."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.replaced import check_replaceable
from vitruvius.errors import DataError
from vitruvius.runs.files import read_json, sha256_of, sync_directory, write_atomically, write_json

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from vitruvius.data.document import Markup

CORPUS_SCHEMA = "vitruvius.corpus/1"
MANIFEST = "MANIFEST.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A corpus that was written."""

    directory: Path
    manifest: dict[str, Any]
    """The content of `MANIFEST.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A page in the spool."""

    offset: int
    bytes: int
    markup: Markup
    url: str
    fields: Mapping[str, str]


@final
class Part:
    """The pages of one package, spooled as they come and written sorted by path."""

    __slots__ = ("_end", "_spool", "about", "chosen", "copyright", "first_left_out", "left_out", "name", "pages")

    def __init__(self, spool: Path, name: str, about: dict[str, Any]) -> None:
        self._spool = spool.open("w+b")
        self._end = 0
        self.name = name
        self.about = about
        """What the manifest says of the package."""
        self.pages: dict[str, _Place] = {}
        self.chosen: list[str] = []
        """Paths of the pages that will be written."""
        self.left_out: Counter[str] = Counter()
        self.first_left_out: dict[str, str] = {}
        self.copyright: bytes | None = None

    def add(self, path: str, *, text: str, markup: Markup, url: str, fields: Mapping[str, str] | None = None) -> None:
        """Keep a page; one of the same path takes the place of an earlier one, as on an installed system.

        fields: what its row holds besides.
        """
        content = text.encode("utf-8")
        self._spool.write(content)
        self.pages[path] = _Place(offset=self._end, bytes=len(content), markup=markup, url=url, fields=fields or {})
        self._end += len(content)

    def leave_out(self, path: str, reason: str) -> None:
        """Count a file that is no page."""
        self.left_out[reason] += 1
        self.first_left_out.setdefault(reason, path)

    def text(self, path: str) -> str:
        """A page that was added."""
        place = self.pages[path]
        self._spool.seek(place.offset)
        return self._spool.read(place.bytes).decode("utf-8")

    def close(self) -> None:
        """Give the spool back."""
        self._spool.close()


@final
class CorpusFolder:
    """A corpus in the making: in a folder beside `out`, which takes its place when all is written."""

    __slots__ = ("_parts", "_work", "out")

    def __init__(self, out: Path, work: Path) -> None:
        self.out = out
        self._work = work
        self._parts: list[Part] = []

    def part(self, name: str, about: dict[str, Any]) -> Part:
        """Start a package. `name` becomes a file name, so it has been checked to be one.

        Raises:
            DataError: there is such a package already.
        """
        if any(part.name == name for part in self._parts):
            raise DataError("this package is named twice", where=name, fix="name each package once")
        part = Part(self._work / f".spool-{len(self._parts)}", name, about)
        self._parts.append(part)
        return part

    def finish(self, corpus: str, *, limit_bytes: int | None, settings: dict[str, Any]) -> Corpus:
        """Write everything and put it in place.

        With `limit_bytes`, a sample: the pages whose SHA-256 of package and path is smallest, until the next would
        pass the limit; the same pages wherever the packages are the same.

        Raises:
            DataError: there is no page.
        """
        self._parts.sort(key=lambda part: part.name)
        _choose(self._parts, limit_bytes)
        if not any(part.chosen for part in self._parts):
            raise DataError(
                "there is no document in it" if limit_bytes is None else "no document is as small as the limit",
                where=", ".join(part.name for part in self._parts) or corpus,
                fix="name other packages, or take more kinds of document"
                if limit_bytes is None
                else "raise --limit-mb",
            )
        packages = [_written(part, self._work) for part in self._parts]
        manifest = {
            "schema": CORPUS_SCHEMA,
            "corpus": corpus,
            "documents": sum(package["documents"] for package in packages),
            "text_bytes": sum(package["text_bytes"] for package in packages),
            "packages": packages,
            "settings": settings,
            "files": {
                path.relative_to(self._work).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
                for path in sorted(self._work.rglob("*"))
                if path.is_file() and not path.name.startswith(".")
            },
        }
        for part in self._parts:
            part.close()
        for spool in self._work.glob(".spool-*"):
            spool.unlink()
        write_json(self._work / MANIFEST, manifest)
        _publish(self._work, self.out)
        return Corpus(directory=self.out, manifest=manifest)

    def close(self) -> None:
        """Give the spools back, however the work ended."""
        for part in self._parts:
            part.close()


@contextlib.contextmanager
def corpus_folder(out: Path) -> Generator[CorpusFolder]:
    """Make a corpus at `out`; what was there before is touched only by `finish`.

    Raises:
        DataError: `out` is a file, a link, the folder one is in, or holds anything but an earlier corpus.
    """
    check_replaceable(out, holds="a corpus fetched before", foreign=_foreign)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vitruvius-corpus-", dir=out.parent, ignore_cleanup_errors=True) as top:
        work = Path(top, "corpus")
        work.mkdir()
        with contextlib.closing(CorpusFolder(out, work)) as folder:
            try:
                yield folder
            except OSError as error:
                if error.filename is None:  # a full disk, found while writing
                    error.filename = str(out)
                raise


def _choose(parts: list[Part], limit_bytes: int | None) -> None:
    pages = [(part, path) for part in parts for path in part.pages]
    if limit_bytes is not None:
        pages.sort(key=lambda page: hashlib.sha256(f"{page[0].name}/{page[1]}".encode()).digest())
    left = limit_bytes
    for part, path in pages:
        if left is not None:
            left -= part.pages[path].bytes
            if left < 0:
                break
        part.chosen.append(path)
    for part in parts:
        part.chosen.sort()


def _written(part: Part, work: Path) -> dict[str, Any]:
    """Write the JSONL file and the copyright of a package; what the manifest says of it."""
    if part.chosen:
        with (work / f"{part.name}.jsonl").open("xb") as file:
            for path in part.chosen:
                place = part.pages[path]
                row = {"url": place.url, "markup": place.markup, "text": part.text(path), **place.fields}
                file.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())
    licence = None
    if part.copyright is not None:
        (work / "licenses").mkdir(exist_ok=True)
        # No ending that `data prepare` would take for a document.
        licence = f"licenses/{part.name}.copyright"
        write_atomically(work / licence, part.copyright)
    return part.about | {
        "file": f"{part.name}.jsonl" if part.chosen else None,
        "copyright": licence,
        "documents": len(part.chosen),
        "text_bytes": sum(part.pages[path].bytes for path in part.chosen),
        "documents_not_sampled": len(part.pages) - len(part.chosen),
        "left_out": {
            reason: {"files": count, "first": part.first_left_out[reason]}
            for reason, count in sorted(part.left_out.items())
        },
    }


def _foreign(out: Path) -> list[str]:
    """Names below `out` that its manifest does not list."""
    try:
        manifest = read_json(out / MANIFEST)
        ours = {MANIFEST, "licenses", *manifest["files"]} if manifest.get("schema") == CORPUS_SCHEMA else set[str]()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        ours = set[str]()
    names = (path.relative_to(out).as_posix() for path in sorted(out.rglob("*")))
    return [name for name in names if name not in ours]


def _publish(work: Path, out: Path) -> None:
    for folder in (*(path for path in work.rglob("*") if path.is_dir()), work):
        sync_directory(folder)
    if out.exists():
        # Into the temporary folder, which is removed with it.
        out.rename(work.with_name("previous"))
    work.rename(out)
    sync_directory(out.parent)
