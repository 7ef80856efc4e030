"""The tokenizer that a training run keeps beside its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.data.tokenization.tokenizer import Tokenizer, load_tokenizer
from vitruvius.runs import RunReader
from vitruvius.runs.checkpoints import tokenizer_path

if TYPE_CHECKING:
    from pathlib import Path


def tokenizer_of_run(run: Path | str) -> Tokenizer:
    """The tokenizer of a run folder, with the separator that its data had, whatever that is called.

    Raises:
        RunError: the folder is no run, or has no tokenizer.
        DataError: the tokenizer is damaged.
        MissingExtraError: tokenizers is not installed.
    """
    data: dict[str, Any] = RunReader(run).record()["data"] or {}
    return load_tokenizer(tokenizer_path(run), eos=data.get("eos"))
