"""Files that are either the old version or the new one, never half of each."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
from typing import TYPE_CHECKING, Any

from vitruvius.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from typing import BinaryIO

CHUNK_BYTES = 1 << 20

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system answers when a file does not fit: disk full, quota used up, file size limit."""


def json_text(value: object) -> str:
    """JSON with sorted keys and a final newline, so that equal values give equal bytes.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON cannot say.
    """
    return encodable_json(value, indent=2, sort_keys=True) + "\n"


def encodable_json(value: object, **style: Any) -> str:
    """JSON that UTF-8 can say: readable, but spelled in ASCII where a text holds half a character.

    A name that is not UTF-8 comes from the system as such a text, and comes back from the JSON as the same.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, **style)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, allow_nan=False, **style)
    return text


def not_written(path: Path, error: OSError) -> RunError:
    """The error for a file of a run that could not be written; what it held before is intact."""
    if error.errno in NO_ROOM:
        fix = "free some space (or raise the quota or file size limit), then resume the run"
    else:
        fix = "check the permissions and the device, then resume the run"
    what = f"the file cannot be written: {error.strerror or error}; what it held before is intact"
    return RunError(what, where=str(path), fix=fix)


@contextlib.contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file beside `path`; it takes the name `path`, durably, when the block ends without an error.

    Raises:
        OSError: it cannot be written, or `path` is a directory, a device or a pipe; the error names `path`.
    """
    _refuse_special(path)
    # Beside, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in {None, str(temporary)}:
            error.filename, error.filename2 = str(path), None
        raise
    sync_directory(path.parent)


def _refuse_special(path: Path) -> None:
    """Raise OSError where `path` is a directory, a device or a pipe; where there is nothing, nothing is wrong."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: after a crash at any moment the file is the old one or the new one."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` as JSON, atomically."""
    write_atomically(path, json_text(value).encode())


def read_json(path: Path) -> Any:
    """What the JSON file `path` holds.

    Raises:
        OSError: the file cannot be read, or is a directory, a device or a pipe.
        ValueError: it is not UTF-8 or not JSON, of which NaN and infinities are no part.
    """
    _refuse_special(path)  # reading a pipe would wait for a writer for ever, and a device may have no end
    try:
        return json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> float:
    message = f"{name} is no JSON"
    raise ValueError(message)


def sync_file(path: Path) -> None:
    """Wait until the content of `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Wait until the names in directory `path` are on the disk; a rename is durable only after this."""
    sync_file(path)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
