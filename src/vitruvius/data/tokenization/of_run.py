"""The tokenizer that a training run keeps beside its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.data.tokenization.tokenizer import Tokenizer, load_tokenizer
from vitruvius.runs.checkpoints import tokenizer_path
from vitruvius.runs.models import reader_of

if TYPE_CHECKING:
    from pathlib import Path


def tokenizer_of_run(run: Path | str) -> Tokenizer:
    """The tokenizer of a run folder, one of its checkpoints or an exported model.

    It has the separator that its data had, whatever that is called.

    Raises:
        RunError: the folder is no run, or has no tokenizer.
        DataError: the tokenizer is damaged.
        MissingExtraError: tokenizers is not installed.
    """
    reader = reader_of(run)
    data: dict[str, Any] = reader.record()["data"] or {}
    return load_tokenizer(tokenizer_path(reader.path), eos=data.get("eos"))
