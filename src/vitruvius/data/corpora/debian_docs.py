"""Debian's documentation packages as a corpus: thousands of real web pages that every Debian mirror has."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from vitruvius.data.corpora.apt import download
from vitruvius.data.corpora.debian_package import MARKUP, Copyright, LeftOut, PackageName, read_name, read_pages
from vitruvius.data.corpora.folder import corpus_folder
from vitruvius.runs.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.data.corpora.debian_package import DocumentKind
    from vitruvius.data.corpora.folder import Corpus, CorpusFolder
    from vitruvius.data.progress import Progress

PACKAGES = ("linux-doc-6.1", "python3.11-doc", "postgresql-doc-15")
"""What is fetched when no package is named, from Debian 12: the documentation of Linux, Python and PostgreSQL,
4,884 pages and 199 MB of HTML in 52 MB of packages."""


def fetch_debian_docs(
    out: Path,
    *,
    packages: Sequence[str] = PACKAGES,
    debs: Sequence[Path] = (),
    kind: DocumentKind = "html",
    limit_bytes: int | None = None,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
) -> Corpus:
    """Write the documents of Debian packages to `out`: JSONL with `url`, `markup` and `text`, and a manifest.

    `packages` are downloaded with `apt-get download`, which needs no root and installs nothing; `debs` are files. The
    same packages give the same bytes.

    Raises:
        DataError: a package cannot be had or read, holds no documents, or `out` holds something else.
        UsageError: a name is no package name.
    """
    with corpus_folder(out) as folder, tempfile.TemporaryDirectory(prefix="vitruvius-apt-") as downloads:
        for number, deb in enumerate(debs):
            progress("reading packages", number, len(debs) + len(packages))
            _add(folder, deb, origin="file", kind=kind)
        for number, name in enumerate(packages):
            progress("downloading packages", number, len(packages))
            target = Path(downloads, str(number))
            target.mkdir()
            deb = download(name, target)
            progress("reading packages", len(debs) + number, len(debs) + len(packages))
            _add(folder, deb, origin="apt", kind=kind)
            deb.unlink()
        progress("reading packages", len(debs) + len(packages), len(debs) + len(packages))
        settings = {"documents": kind, "limit_bytes": limit_bytes}
        return folder.finish("debian-docs", limit_bytes=limit_bytes, settings=settings)


def _add(folder: CorpusFolder, deb: Path, *, origin: str, kind: DocumentKind) -> None:
    who = read_name(deb)
    part = folder.part(who.name, {})
    for found in read_pages(deb, who.name, kind):
        if isinstance(found, Copyright):
            part.copyright = found.content
            part.about["licenses"] = found.licenses()
        elif isinstance(found, LeftOut):
            part.leave_out(found.path, found.reason)
        else:
            url = f"file:///{quote(found.path)}"
            part.add(found.path, text=found.text, markup=MARKUP[found.kind], url=url)
    part.about = _about(who, deb, origin) | {"licenses": part.about.get("licenses")}


def _about(who: PackageName, deb: Path, origin: str) -> dict[str, str | int | None]:
    return {
        "name": who.name,
        "version": who.version,
        "architecture": who.architecture,
        "source": who.source,
        "homepage": who.homepage,
        "from": origin,
        "package_sha256": sha256_of(deb),
        "package_bytes": deb.stat().st_size,
    }
