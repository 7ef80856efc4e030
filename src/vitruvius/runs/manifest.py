"""A SHA-256 manifest per folder, written last: what it lists is what was written, or the folder is corrupt."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal, cast

from vitruvius.errors import CorruptCheckpointError
from vitruvius.runs.files import json_text, read_json, sha256_of, sync_directory, sync_file, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = "vitruvius.manifest/1"


Beside = Literal["nothing", "anything"]
"""Which files a folder may hold that its manifest does not list."""


def write_manifest(directory: Path) -> dict[str, Any]:
    """List size and SHA-256 of every file below `directory` in its `manifest.json`; returns what was written.

    Call it after the last file is closed. Every listed file is on the disk before the manifest is, so
    a folder with a manifest is a whole folder.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in _files_below(directory):
        sync_file(path)
        files[path.relative_to(directory).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    for folder in (directory, *(path for path in sorted(directory.rglob("*")) if path.is_dir())):
        sync_directory(folder)
    manifest = {"schema": MANIFEST_SCHEMA, "files": files, "sha256": _digest(files)}
    write_atomically(directory / MANIFEST_NAME, json_text(manifest).encode())
    return manifest


def verify_manifest(directory: Path, *, beside: Beside = "nothing") -> dict[str, Any]:
    """Compare every file below `directory` with its manifest; returns the manifest.

    beside: `anything` passes over files that the manifest does not list.

    Raises:
        CorruptCheckpointError: names the file and what differs: no manifest, a damaged manifest, a missing
            file, a file it does not list, another size, another content.
    """
    manifest = _read_manifest(directory)
    listed = cast("dict[str, dict[str, Any]]", manifest["files"])
    found = {path.relative_to(directory).as_posix(): path for path in _files_below(directory)}
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise _corrupt(directory / name, "the manifest lists this file, but it is missing")
        if name not in listed and beside == "anything":
            continue
        if name not in listed:
            raise _corrupt(found[name], "the manifest does not list this file")
        _verify_file(found[name], listed[name])
    return manifest


def _files_below(directory: Path) -> list[Path]:
    manifest = directory / MANIFEST_NAME
    return sorted(path for path in directory.rglob("*") if path != manifest and not path.is_dir())


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_NAME
    try:
        manifest = read_json(path)
        raw = path.read_bytes()
    except FileNotFoundError:
        raise _corrupt(path, "there is no manifest, so the folder was not completely written") from None
    except OSError as error:
        raise _corrupt(path, f"the manifest cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _corrupt(path, f"the manifest is not JSON ({error})") from None
    # Our own text is canonical: whatever does not come out as it went in has been changed, even in a space. The
    # manifest's hash of itself tells a flipped name or hash in it from a damaged file.
    if (
        not _is_manifest(manifest)
        or json_text(manifest).encode() != raw
        or manifest["sha256"] != _digest(manifest["files"])
    ):
        raise _corrupt(path, "the manifest is damaged: it is not as it was written")
    return manifest


def _is_manifest(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    manifest = cast("dict[str, Any]", value)
    if manifest.keys() != {"schema", "files", "sha256"} or manifest["schema"] != MANIFEST_SCHEMA:
        return False
    if not isinstance(manifest["files"], dict):
        return False
    entries = cast("dict[str, Any]", manifest["files"]).values()
    return all(
        isinstance(entry, dict) and {"bytes", "sha256"} == cast("dict[str, Any]", entry).keys() for entry in entries
    )


def _digest(files: dict[str, Any]) -> str:
    return hashlib.sha256(json_text(files).encode()).hexdigest()


def _verify_file(path: Path, expected: dict[str, Any]) -> None:
    if path.is_symlink() or not path.is_file():
        raise _corrupt(path, "this is not a regular file")
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise _corrupt(path, f"the file has {size:,} bytes, its manifest says {expected['bytes']:,}")
        if sha256_of(path) != expected["sha256"]:
            raise _corrupt(path, "the content differs from its manifest (SHA-256)")
    except OSError as error:
        # A disk that fails while it reads is damage like any other: there may be an earlier checkpoint.
        raise _corrupt(path, f"the file cannot be read: {error.strerror}") from None


def _corrupt(path: Path, what: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(what, where=str(path), fix="go back to an earlier checkpoint, or copy this one again")
