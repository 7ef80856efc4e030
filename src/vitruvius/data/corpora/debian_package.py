"""One Debian package: who it is, its copyright file, and its documents."""

from __future__ import annotations

import os
import re
import stat
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from vitruvius.data.corpora.archives import BrokenArchiveError, Member, ar_members, tar_members, unpacked
from vitruvius.data.reading.charsets import decoded_page
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vitruvius.data.document import Markup

_Found = TypeVar("_Found")
DocumentKind = Literal["html", "text"]
SUFFIXES: dict[DocumentKind, tuple[str, ...]] = {
    "html": (".html", ".htm", ".xhtml"),
    "text": (".txt", ".md", ".rst"),
}
"""How documents end, before `.gz` if they are packed."""
MARKUP: dict[DocumentKind, Markup] = {"html": "html", "text": "plain"}
PAGE_LIMIT = 16 * 2**20
"""Longest document in bytes; `data prepare` reads no longer line either."""

_CONTROL_LIMIT = 1 << 20
_COPYRIGHT_LIMIT = 4 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,200}")
_VERSION = re.compile(r"[A-Za-z0-9.+:~-]{1,200}")
_LICENSE = re.compile(r"^License:[ \t]*(\S.{0,200}?)[ \t]*$", re.MULTILINE)
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.+-]{1,40})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageName:
    """Who a package says it is."""

    name: str
    """Of the binary package, such as `python3.11-doc`."""
    version: str
    architecture: str
    """`all` for most documentation."""
    source: str | None
    """Of the source package, where the control file names it."""
    homepage: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A file of documentation."""

    path: str
    """In the installed system, without the first slash."""
    kind: DocumentKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A file with the name of a document that is none."""

    path: str
    reason: str
    """A key of `LEFT_OUT`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copyright:
    """The package's copyright file."""

    content: bytes

    def licenses(self) -> list[str]:
        """The names of licences in it, sorted; none where nobody wrote names down, and one has to read the file.

        The short names of its `License:` lines where the file is made for machines, or else of the files below
        /usr/share/common-licenses that it points at.

        Source: Debian's "Machine-readable debian/copyright file", version 1.0.
        """
        text = self.content.decode("utf-8", "replace")
        if text.startswith(("Format:", "Format-Specification:")):
            return sorted(set(_LICENSE.findall(text)))
        return sorted({name.rstrip(".-") for name in _COMMON.findall(text)})


LEFT_OUT = {
    "link": "a link, not a file: what it points at is there under its own name, or elsewhere",
    "too_long": f"over {PAGE_LIMIT:,} bytes",
    "not_utf8": "neither UTF-8 nor in the encoding that the page declares",
    "corrupt_gzip": "its .gz is damaged",
}
"""Why a file with the name of a document is left out -> what that means."""


def read_name(deb: Path) -> PackageName:
    """The name and version in the control file of a package.

    Raises:
        DataError: the file cannot be read, or is no Debian package.
    """
    found = next(_within(deb, "control.tar", _control_file), None)
    if found is None:
        raise _broken(deb, "it has no control file")
    fields: dict[str, str] = {}
    for line in found.decode("utf-8", "replace").splitlines():
        key, colon, value = line.partition(":")
        if colon and not key.startswith((" ", "\t")):
            fields.setdefault(key.lower(), value.strip())
    name, version = fields.get("package", ""), fields.get("version", "")
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
        raise _broken(deb, "its control file names no package and version that a package can have")
    return PackageName(
        name=name,
        version=version,
        architecture=fields.get("architecture", "all")[:40],
        source=fields.get("source", "")[:200] or None,
        homepage=fields.get("homepage", "")[:1000] or None,
    )


def read_pages(
    deb: Path, name: str, kind: DocumentKind, *, tick: Callable[[], None] = lambda: None
) -> Iterator[Page | LeftOut | Copyright]:
    """The documents of package `name`, in the order of the archive, and its copyright file.

    Raises:
        DataError: the file is damaged, or unpacks to too much.
        MissingExtraError: the package is packed by zstd and zstandard is not installed.
    """
    copyright_file = f"usr/share/doc/{name}/copyright"

    def found(member: Member) -> Iterator[Page | LeftOut | Copyright]:
        tick()
        path = member.name.removeprefix("./").lstrip("/")
        if path == copyright_file and member.kind == "file":
            content = member.content.all(_COPYRIGHT_LIMIT)
            if content is not None:
                yield Copyright(content=content)
        elif member.kind in {"file", "link"} and path.lower().removesuffix(".gz").endswith(SUFFIXES[kind]):
            yield _page(member, path, kind)

    return _within(deb, "data.tar", found)


def _within(deb: Path, wanted: str, look: Callable[[Member], Iterator[_Found]]) -> Iterator[_Found]:
    """What `look` finds in the tar archive of `deb` whose name starts with `wanted`."""
    try:
        # Without waiting, which is what opening a pipe does.
        with os.fdopen(os.open(deb, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _broken(deb, "it is not a regular file")
            for part in ar_members(file):
                if part.name == wanted or part.name.startswith(f"{wanted}."):
                    for member in tar_members(unpacked(part.content, part.name.removeprefix(wanted))):
                        yield from look(member)
                    return
    except BrokenArchiveError as error:
        raise _broken(deb, str(error)) from None
    except OSError as error:
        raise DataError(
            f"the package cannot be read: {error.strerror}", where=str(deb), fix="check the path and its permissions"
        ) from None
    raise _broken(deb, f"it has no {wanted}")


def _control_file(member: Member) -> Iterator[bytes]:
    if member.name.removeprefix("./") == "control" and member.kind == "file":
        content = member.content.all(_CONTROL_LIMIT)
        if content is not None:
            yield content


def _page(member: Member, path: str, kind: DocumentKind) -> Page | LeftOut:
    if member.kind == "link":
        return LeftOut(path=path, reason="link")
    content = member.content.all(PAGE_LIMIT)
    if content is not None and path.lower().endswith(".gz"):
        content = _gunzipped(content)
        if isinstance(content, str):
            return LeftOut(path=path, reason=content)
    if content is None:
        return LeftOut(path=path, reason="too_long")
    text = _decoded(content, kind)
    return LeftOut(path=path, reason="not_utf8") if text is None else Page(path=path, kind=kind, text=text)


def _gunzipped(packed: bytes) -> bytes | str:
    """The unpacked bytes, or the reason why there are none."""
    decoder = zlib.decompressobj(wbits=31)
    try:
        content = decoder.decompress(packed, PAGE_LIMIT + 1)
    except zlib.error:
        return "corrupt_gzip"
    if len(content) > PAGE_LIMIT:
        return "too_long"
    return content if decoder.eof else "corrupt_gzip"


def _decoded(content: bytes, kind: DocumentKind) -> str | None:
    if kind == "html":
        return decoded_page(content)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _broken(deb: Path, what: str) -> DataError:
    return DataError(
        f"this Debian package cannot be used: {what}",
        where=str(deb),
        fix="download it again; `dpkg-deb --contents FILE` shows what a whole one holds",
    )
