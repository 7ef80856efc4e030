"""What the verbs that look at prepared data share: their argument, and files that are written whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.output import clean_line, say

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def data_argument() -> Any:
    """The argument that names a folder of prepared data."""
    from pathlib import Path

    return click.argument("data", metavar="DATA", type=click.Path(path_type=Path))


def inputs_option() -> Any:
    """The option that says where the input files are that prepared data was made of."""
    from pathlib import Path

    return click.option(
        "--inputs-in",
        "root",
        type=click.Path(path_type=Path),
        default=Path(),
        show_default="the folder you are in",
        metavar="DIR",
        help="Where the relative names of the input files begin.",
    )


def refuse_folders(files: Mapping[str, Path | None]) -> None:
    """Check what will be written to, before minutes are spent. Raises UsageError; `files` is option -> path."""
    from vitruvius.errors import UsageError

    for option, path in files.items():
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{path} is a folder", where=option, fix="name a file")
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}", where=option, fix="make it, or name another file")


def write_pages(pages: Mapping[Path, str]) -> None:
    """Write texts to files, each whole or not at all, and say so."""
    from vitruvius.runs.files import write_atomically

    for path, text in pages.items():
        write_atomically(path, text.encode("utf-8", "replace"))
    if pages:
        say("wrote " + ", ".join(clean_line(str(path)) for path in pages))
