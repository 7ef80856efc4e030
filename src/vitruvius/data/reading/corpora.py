"""Real text that is on every machine."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LEFT_OUT = frozenset(("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"))


def standard_library_sources(limit_bytes: int = 4_000_000) -> list[Path]:
    """The `.py` files of Python's standard library, a sample of at most `limit_bytes` bytes, sorted by path.

    Without installed packages, tests, idlelib and lib2to3. The sample is the files with the smallest
    SHA-256 of their relative path until the next would pass the limit: the same files on every machine
    with the same Python, and a mixture of all parts of the library.
    """
    library = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    for parent, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        files += [Path(parent, name) for name in names if name.endswith(".py")]
    files.sort(key=lambda path: hashlib.sha256(path.relative_to(library).as_posix().encode()).digest())
    chosen: list[Path] = []
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > limit_bytes:
            break
        chosen.append(path)
    return sorted(chosen)


def _standard_library() -> list[tuple[str, Path]]:
    library = Path(sysconfig.get_path("stdlib"))
    return [(f"python-stdlib/{path.relative_to(library).as_posix()}", path) for path in standard_library_sources()]


CORPORA: dict[str, Callable[[], list[tuple[str, Path]]]] = {"python-stdlib": _standard_library}
"""Corpora known by name: functions that list (name of the document, file)."""
