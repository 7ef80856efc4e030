"""Output folders that are replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable


def check_replaceable(out: Path, *, holds: str, foreign: Callable[[Path], list[str]]) -> None:
    """Check that `out` is free, or holds nothing but what may be replaced, before any work is done.

    holds: what that is, in words. foreign: names below a folder that are none of it.

    Raises:
        DataError: it is a file or a link, holds other files, or is the working folder or above it.
    """
    here = Path.cwd()
    if out.resolve() in {here, *here.parents}:
        raise DataError(
            "the output folder is replaced as a whole, so it cannot be the one you are in, or above it",
            where=str(out),
            fix=f"choose a folder of its own, such as {out / 'data'}",
        )
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DataError("this is not a folder", where=str(out), fix="choose another --out")
    others = foreign(out) if out.is_dir() else []
    if others:
        raise DataError(
            f"this folder holds other files ({others[0]!r})",
            where=str(out),
            fix=f"choose a new or empty folder, or one that holds {holds}",
        )
