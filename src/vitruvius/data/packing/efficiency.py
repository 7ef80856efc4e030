"""What a way of packing makes of a stream: padding, documents cut, tokens left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What a way of packing makes of a stream, per epoch."""

    samples: int
    context: int
    documents: int
    tokens: int
    """Tokens of the stream."""
    packed_tokens: int
    """Tokens that are an input of a sample."""
    cut_documents: int
    """Documents that lie in more than one sample, or of which a part is left out."""
    long_documents: int
    """Documents longer than the context: these no packing keeps whole."""
    attended_pairs: int
    """Pairs of a token and one that it reads, itself included, under causal attention within documents."""
    places: int | None = None
    """Places of all samples, where these are not `context` each."""

    @property
    def padding(self) -> int:
        """Places of samples without a token."""
        return self._places - self.packed_tokens

    @property
    def _places(self) -> int:
        return self.samples * self.context if self.places is None else self.places

    @property
    def padding_share(self) -> float:
        """Part of all places that is padding."""
        return self.padding / max(1, self._places)

    @property
    def left_out_tokens(self) -> int:
        """Tokens of the stream that no sample has as an input."""
        return self.tokens - self.packed_tokens

    @property
    def mean_attended_tokens(self) -> float:
        """Tokens that a token reads on average, itself included: what of its document comes before it in its row."""
        return self.attended_pairs / max(1, self.packed_tokens)

    def to_dict(self) -> dict[str, int | float]:
        """All of it as JSON data."""
        names = ("samples", "context", "documents", "tokens", "packed_tokens", "cut_documents", "long_documents")
        numbers: dict[str, int | float] = {name: getattr(self, name) for name in names}
        return numbers | {
            "padding_tokens": self.padding,
            "padding_share": self.padding_share,
            "left_out_tokens": self.left_out_tokens,
            "mean_attended_tokens": self.mean_attended_tokens,
        }


def together(parts: Sequence[Efficiency]) -> Efficiency:
    """Of one stream whose tokens are in several parts: documents are counted once, by the first of them."""
    first = parts[0]
    return replace(
        first,
        samples=sum(part.samples for part in parts),
        places=None if first.places is None else sum(part.places or 0 for part in parts),
        packed_tokens=sum(part.packed_tokens for part in parts),
        attended_pairs=sum(part.attended_pairs for part in parts),
    )


def pairs_within(lengths: np.ndarray) -> int:
    """Pairs of a token and one up to it, within stretches of these lengths."""
    return int((lengths * (lengths + 1) // 2).sum())
