"""`vitruvius data fetch`: real text without a hub."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.output import clean_line, emit_json, next_step, say
from vitruvius.cli.progress import progress_of
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.data.corpora.folder import Corpus
    from vitruvius.data.progress import Progress

SCHEMA = "vitruvius.data-fetch/1"
CORPORA = {
    "debian-docs": "documentation packages of Debian: HTML",
    "python-stdlib": "the source of Python's standard library",
    "python-packages": "the source of installed Python packages",
    "docstrings": "what functions of Python's standard library and of installed packages say they do, and their names",
}
DOCUMENTS = ("html", "text")


@click.command(
    "fetch",
    cls=ExampleCommand,
    help="""Make a corpus of real documents that needs no hub: JSONL files and a manifest with versions and licences.

    debian-docs downloads documentation packages with apt-get (no root, nothing is installed), or reads the
    .deb files of --deb: by default those of Linux, Python and PostgreSQL, 4,884 pages and 199 MB of HTML.
    python-stdlib is the source of Python's standard library, python-packages that of packages installed
    beside vitruvius; docstrings holds the summary, name and module of every documented function of the
    standard library and of --package, for `data pairs`. These three work offline.""",
    examples=[
        "vitruvius data fetch debian-docs --out debian-docs",
        "vitruvius data fetch debian-docs --package rust-doc --package sqlite3-doc --out docs --limit-mb 100",
        "vitruvius data fetch debian-docs --deb ./linux-doc-6.1_6.1.176-1_all.deb --out linux-docs",
        "vitruvius data fetch python-stdlib --out stdlib",
        "vitruvius data fetch python-packages --package numpy --out numpy-source",
        "vitruvius data fetch docstrings --package numpy --package torch --out docstrings",
    ],
)
@click.argument("corpus", type=click.Choice(tuple(CORPORA)))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for the corpus; replaces an earlier one."
)
@click.option("--package", "packages", multiple=True, metavar="NAME", help="A package; may be given again.")
@click.option(
    "--deb", "debs", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="A .deb file instead of apt."
)
@click.option(
    "--documents",
    type=click.Choice(DOCUMENTS),
    default="html",
    show_default=True,
    help="What to keep of Debian packages: web pages, or plain text (.txt, .md, .rst); each also with .gz.",
)
@click.option(
    "--limit-mb",
    type=click.FloatRange(min=0, min_open=True, max=1e9),
    help="Keep a sample of at most this many megabytes of text, the same on every machine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, without progress.")
def command(
    corpus: str,
    *,
    out: Path,
    packages: tuple[str, ...],
    debs: tuple[Path, ...],
    documents: str,
    limit_mb: float | None,
    as_json: bool,
) -> None:
    """Fetch a corpus and say what came."""
    from vitruvius.data.corpora.debian_docs import PACKAGES, fetch_debian_docs
    from vitruvius.data.corpora.docstrings import fetch_docstrings
    from vitruvius.data.corpora.python_sources import fetch_python_packages, fetch_standard_library

    context = click.get_current_context()
    documents_given = context.get_parameter_source("documents") is not click.core.ParameterSource.DEFAULT
    if corpus != "debian-docs" and (debs or documents_given):
        raise click.UsageError(f"--deb and --documents belong to debian-docs, not to {corpus}")
    if corpus == "python-stdlib" and packages:
        raise click.UsageError("python-stdlib is one corpus; --package belongs to the other three")
    if limit_mb is not None and math.isnan(limit_mb):
        raise click.UsageError("--limit-mb: NaN is no size; use a number above 0")
    limit = None if limit_mb is None else int(limit_mb * 1e6)
    fetchers: dict[str, Callable[[Progress], Corpus]] = {
        "debian-docs": lambda progress: fetch_debian_docs(
            out,
            packages=packages or (() if debs else PACKAGES),
            debs=debs,
            kind="html" if documents == "html" else "text",
            limit_bytes=limit,
            progress=progress,
        ),
        "python-stdlib": lambda progress: fetch_standard_library(out, limit_bytes=limit, progress=progress),
        "python-packages": lambda progress: fetch_python_packages(
            out, packages=packages, limit_bytes=limit, progress=progress
        ),
        "docstrings": lambda progress: fetch_docstrings(out, packages=packages, limit_bytes=limit, progress=progress),
    }
    with progress_of("quiet" if as_json else "lines") as progress:
        fetched = fetchers[corpus](progress)
    if as_json:
        emit_json(_json(fetched))
        return
    _tell(fetched)
    recipe = "--recipe docs" if corpus == "debian-docs" else "--recipe code"
    markup = " --markup html" if corpus == "debian-docs" and documents == "html" else ""
    if corpus == "docstrings":
        keys = "--source text --target words --group module"
        next_step(f"vitruvius data pairs {shlex.quote(clean_line(str(out)))} {keys} --vocab 2048 --out pairs")
        return
    next_step(f"vitruvius data prepare {shlex.quote(clean_line(str(out)))}{markup} {recipe} --out data")


def _json(fetched: Corpus) -> dict[str, object]:
    manifest = fetched.manifest
    return {
        "schema": SCHEMA,
        "out": str(fetched.directory),
        "corpus": manifest["corpus"],
        "documents": manifest["documents"],
        "text_bytes": manifest["text_bytes"],
        "packages": [
            {
                key: package.get(key)
                for key in (
                    "name", "version", "from", "package_sha256", "licenses", "copyright", "file", "documents",
                    "text_bytes", "documents_not_sampled", "left_out",
                )
            }
            for package in manifest["packages"]
        ],
    }  # fmt: skip


def _tell(fetched: Corpus) -> None:
    """A table of packages on stderr, and what was left out."""
    for package in fetched.manifest["packages"]:
        size = f"{package['documents']:>8,} documents {package['text_bytes'] / 1e6:>10,.1f} MB"
        say(f"{clean_line(package['name']):28} {clean_line(package['version']):24} {size}")
        for reason, found in package["left_out"].items():
            say(f"{'':28} left out: {found['files']:,} {reason}, such as {clean_line(found['first'])}")
        if package["copyright"] is None:
            say(f"{'':28} note: it brings no copyright file; look up its licence before you publish a model")
    manifest = fetched.manifest
    say(f"{'in all':53} {manifest['documents']:>8,} documents {manifest['text_bytes'] / 1e6:>10,.1f} MB")
    say(f"versions, hashes and licences are in {clean_line(str(fetched.directory))}/MANIFEST.json")
