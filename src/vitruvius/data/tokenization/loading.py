"""Where tokenizers come from: a tokenizer.json, a folder that holds one, or a GGUF file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from vitruvius.data.tokenization.definition import LARGEST_FILE, parse
from vitruvius.data.tokenization.from_gguf import state_of
from vitruvius.data.tokenization.gguf import MAGIC, read_header
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from vitruvius.data.tokenization.definition import State

FILE = "tokenizer.json"
"""The name in a folder."""
_CONFIG = "tokenizer_config.json"
_NAME = "name a tokenizer.json, a folder that holds one, or a GGUF file"


def read_state(path: Path) -> tuple[State, str | None]:
    """The tokenizer at `path` as the content of a `tokenizer.json`, and the separator its files name.

    A folder is read by its `tokenizer.json`, with the `eos_token` of a `tokenizer_config.json` beside it; a GGUF file
    by its metadata.

    Raises:
        DataError: there is no tokenizer, or a damaged one.
    """
    folder = path.is_dir()
    file = path / FILE if folder else path
    if file.exists() and not file.is_file():  # opening a pipe would wait for its writer
        raise DataError("this is no regular file", where=str(file), fix=_NAME)
    try:
        with file.open("rb") as source:
            start = source.read(len(MAGIC))
            content = b"" if start == MAGIC else start + source.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(f"the tokenizer cannot be read: {error.strerror}", where=str(file), fix=_NAME) from None
    if start == MAGIC:
        return state_of(read_header(file))
    return parse(content, str(file)), _eos_of(path / _CONFIG) if folder else None


def _eos_of(config: Path) -> str | None:
    """The `eos_token` of a tokenizer_config.json: a text, or an object with its content; None where there is none."""
    try:
        if not config.is_file() or config.stat().st_size > LARGEST_FILE:
            return None
        found: Any = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"this is no tokenizer_config.json: {error}", where=str(config), fix="mend it, or name the tokenizer.json"
        ) from None
    eos = cast("dict[str, Any]", found).get("eos_token") if isinstance(found, dict) else None
    if isinstance(eos, dict):
        eos = cast("dict[str, Any]", eos).get("content")
    return eos if isinstance(eos, str) else None
