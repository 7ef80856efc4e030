"""Debian packages from the mirrors that this machine's apt knows; apt checks their hashes against signed lists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?")
_SECONDS = 3600


def download(name: str, folder: Path) -> Path:
    """Download the package `name` (`NAME`, `NAME:ARCHITECTURE` or `NAME=VERSION`) into the empty `folder`.

    Raises:
        UsageError: `name` is no name of a package.
        DataError: there is no apt, no such package, or no network.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "this is no name of a Debian package",
            where=name,
            fix="a name has lower-case letters, digits, + - and dots: linux-doc-6.1; for a file use --deb",
        )
    program = shutil.which("apt-get")
    if program is None:
        raise DataError(
            "this machine has no apt-get to download Debian packages with",
            where=name,
            fix="download the .deb files on another machine (packages.debian.org) and name them with --deb",
        )
    command = [program, "-q", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=60", "download", name]
    try:
        done = subprocess.run(  # noqa: S603 (the name was checked, and no shell reads it)
            command, cwd=folder, env=os.environ | {"LC_ALL": "C"}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DataError(
            f"the download took over {_SECONDS // 60} minutes",
            where=name,
            fix="try another mirror, or name .deb files with --deb",
        ) from None
    found = sorted(folder.glob("*.deb"))
    if done.returncode != 0 or len(found) != 1:
        raise _refused(name, done.stderr)
    return found[0]


def _refused(name: str, said: str) -> DataError:
    errors = [line.removeprefix("E: ") for line in said.splitlines() if line.startswith("E: ")]
    what = errors[0] if errors else "apt-get brought no file"
    unknown = any("Unable to locate" in line or "no installation candidate" in line for line in errors)
    unknown = unknown or any("Can't select candidate version" in line or "was not found" in line for line in errors)
    return DataError(
        f"apt-get cannot download this package: {what[:500]}",
        where=name,
        fix="check the name with `apt-cache search`; `apt-get update` (as root) refreshes the list of packages"
        if unknown
        else "check the network, or name .deb files that you have with --deb",
    )
