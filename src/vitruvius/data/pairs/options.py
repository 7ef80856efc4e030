"""What `prepare_pairs` may be told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data.tokenization.training import LARGEST_VOCABULARY, SMALLEST_VOCABULARY
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOptions:
    """Everything that changes what `prepare_pairs` writes."""

    source: str = "source"
    """Key of the text that is read."""
    target: str = "target"
    """Key of the text that is to be written."""
    group: str | None = None
    """Key of what keeps pairs in one split (a module, an author, a page); None: equal sources stay together."""
    vocab: int = 8192
    """Largest vocabulary of the tokenizer to train."""
    tokenizer: Path | None = None
    """A tokenizer to use instead."""
    eos: str | None = None
    """Its separator, when that has an unusual name."""
    held_out: float = 0.1
    """Share of the pairs for validation, as near as whole groups come to it."""
    max_bad_rate: float = 0.001
    """Stop when a larger share of the records is damaged."""
    seed: int = 0
    """Another seed holds out other groups."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: names the option.
        """
        for name in ("source", "target", "group"):
            if getattr(self, name) == "":
                raise UsageError("the name of a field is empty", where=f"--{name}", fix="name a key of the records")
        if self.source == self.target:
            what = f"source and target are both {self.source!r}, so there would be nothing to learn"
            raise UsageError(what, where="--target", fix="name two keys of the records")
        if not SMALLEST_VOCABULARY <= self.vocab <= LARGEST_VOCABULARY:
            what = f"{self.vocab:,} is no size of a vocabulary"
            fix = f"use {SMALLEST_VOCABULARY} to {LARGEST_VOCABULARY:,}"
            raise UsageError(what, where="--vocab", fix=fix)
        for name, most in (("held_out", 0.9), ("max_bad_rate", 1.0)):
            if not 0 <= getattr(self, name) <= most:  # also refuses NaN
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{getattr(self, name)} is out of range", where=option, fix=f"use 0 to {most:g}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed={self.seed} is out of range", where="--seed", fix="use 0 to 2^63 - 1")

    def as_json(self) -> dict[str, Any]:
        """Plain data for the index."""
        tokenizer = None if self.tokenizer is None else str(self.tokenizer)
        return asdict(self) | {"tokenizer": tokenizer}
