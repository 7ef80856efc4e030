"""Docstrings and the names of the functions that they describe: pairs of real text that every Python has."""

from __future__ import annotations

import ast
import inspect
import platform
import re
import sysconfig
import tokenize
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from vitruvius.data.corpora.folder import corpus_folder
from vitruvius.data.corpora.python_sources import SOURCE_LIMIT, first_bytes, licensed_files
from vitruvius.data.pairs.subtokens import subtokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.data.corpora.folder import Corpus, Part
    from vitruvius.data.progress import Progress

LEAST_WORDS, MOST_CHARACTERS = 3, 600
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LEFT_OUT_FOLDERS = frozenset(("test", "tests", "idlelib", "lib2to3", "__pycache__", "site-packages", "dist-packages"))

LEFT_OUT = {
    "too_long": f"a file over {SOURCE_LIMIT:,} bytes",
    "not_decodable": "a file whose bytes are not in the encoding that it declares (PEP 263), or UTF-8",
    "not_parsed": "a file that this Python's `ast` does not take",
    "unreadable": "a file that is listed and cannot be read",
    "no_docstring": "a function without a docstring",
    "special_name": "a function whose name says nothing: of underscores, `__dunder__`, `test...`, `visit_...`",
    "names_itself": "a docstring whose summary holds the function's own name",
    "short": f"a summary of fewer than {LEAST_WORDS} words",
    "long": f"a summary of more than {MOST_CHARACTERS} characters",
}
"""Why something gives no pair -> what that means."""
_SILENT = re.compile(r"_+|__\w+__|_*test.*|_*visit_.*|_*do_[A-Z]+", re.IGNORECASE)


def fetch_docstrings(
    out: Path,
    *,
    packages: Sequence[str] = (),
    limit_bytes: int | None = None,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
) -> Corpus:
    """Write a row for each documented function of the standard library, and of installed `packages`, to `out`.

    `text` is the docstring's summary (up to its first blank line, as one line), `name` the function's name, `words` the
    parts of the name in lower case, and `module` where it is defined. Functions whose summary holds
    their own name are left out: nothing is to be copied. Nothing is imported and nothing runs: files are parsed.

    Raises:
        DataError: a package is not installed, or `out` holds something else.
        UsageError: a name of a package is none.
    """
    with corpus_folder(out) as folder:
        for number, name in enumerate(["", *packages]):
            progress("reading sources", number, len(packages) + 1)
            if name:
                about, files, licence, purl = licensed_files(name)
                part = folder.part(f"docstrings-{about['name']}", about)
                part.copyright = licence
            else:
                version = platform.python_version()
                about = {"name": "docstrings-python", "version": version, "from": "this Python"}
                part = folder.part("docstrings-python", about | {"licenses": ["PSF-2.0"]})
                part.copyright = first_bytes(Path(sysconfig.get_path("stdlib"), "LICENSE.txt"))
                files, purl = _standard_library(), f"pkg:generic/python@{version}"
            for inside, path in files:
                if not _LEFT_OUT_FOLDERS & set(inside.split("/")[:-1]):
                    _add_functions(part, path, inside, url=f"{purl}#{quote(inside)}")
        progress("reading sources", len(packages) + 1, len(packages) + 1)
        settings = {"limit_bytes": limit_bytes, "packages": sorted(packages)}
        return folder.finish("docstrings", limit_bytes=limit_bytes, settings=settings)


def _standard_library() -> Iterator[tuple[str, Path]]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if not {"site-packages", "dist-packages"} & set(inside.parts):
            yield inside.as_posix(), path


def _add_functions(part: Part, path: Path, inside: str, *, url: str) -> None:
    tree = _parsed(part, path, inside)
    if tree is None:
        return
    module = inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    seen: Counter[str] = Counter()
    for node in ast.walk(tree):
        if not isinstance(node, _FUNCTIONS):
            continue
        place = f"{inside}:{node.lineno}"
        summary = summary_of(ast.get_docstring(node, clean=False))
        reason = reason_against(node.name, summary)
        if reason is not None or summary is None:
            part.leave_out(place, reason or "no_docstring")
            continue
        seen[node.name] += 1
        # Several functions of a module may share a name; each is a page of its own.
        part.add(
            f"{inside}#{node.name}#{seen[node.name]:04}",
            text=summary,
            markup="plain",
            url=f"{url}:{node.lineno}",
            fields={"name": node.name, "words": " ".join(subtokens(node.name)), "module": module},
        )


def _parsed(part: Part, path: Path, inside: str) -> ast.Module | None:
    try:
        if path.stat().st_size > SOURCE_LIMIT:
            part.leave_out(inside, "too_long")
            return None
        with tokenize.open(path) as file:
            text = file.read()
        text.encode("utf-8")
    except (SyntaxError, ValueError, LookupError):
        part.leave_out(inside, "not_decodable")
        return None
    except OSError:
        part.leave_out(inside, "unreadable")
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what others wrote in their files
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        part.leave_out(inside, "not_parsed")
        return None


def summary_of(docstring: str | None) -> str | None:
    """The first paragraph of a docstring as one line; None where there is none."""
    if docstring is None:
        return None
    try:
        docstring.encode("utf-8")
    except UnicodeEncodeError:
        return None
    paragraph: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        if line.strip():
            paragraph.append(line.strip())
        elif paragraph:
            break
    return " ".join(" ".join(paragraph).replace("\0", "").split()) or None


def reason_against(name: str, summary: str | None) -> str | None:
    """Why a function gives no pair: a key of `LEFT_OUT`, or None."""
    if _SILENT.fullmatch(name):
        return "special_name"
    if summary is None:
        return "no_docstring"
    if name.casefold() in summary.casefold().replace("-", "_"):
        return "names_itself"
    if len(summary.split()) < LEAST_WORDS:
        return "short"
    return "long" if len(summary) > MOST_CHARACTERS else None
