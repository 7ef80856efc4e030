"""Where the tokens of one call stand, and what the call reports back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

BackendName = Literal["auto", "reference", "sdpa", "chunked"]


@dataclass(slots=True, kw_only=True)
class Signals:
    """What modules report besides their output. Pass one to a call to listen."""

    losses: list[Tensor] = field(default_factory=list)
    """Auxiliary losses, already multiplied by their coefficients; scalars to be added to the objective."""
    metrics: dict[str, list[Tensor]] = field(default_factory=dict)
    """Named scalars, one entry per layer that reports it."""
    attention: list[Tensor] | None = None
    """When a list: the reference backend appends each layer's attention weights, [B, H, T, S]."""
    routing: list[Tensor] | None = None
    """When a list: each mixture appends its chosen experts, [N, top_k]."""
    replay: Iterator[Tensor] | None = None
    """When given: mixtures take their chosen experts from here instead of choosing."""

    def report(self, name: str, value: Tensor) -> None:
        """Add one layer's value of a metric."""
        self.metrics.setdefault(name, []).append(value.detach())


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where tokens stand: positions, documents, and how attention is to be computed."""

    positions: Tensor
    """Positions within the document, int64: [T] when all rows agree, else [B, T]."""
    documents: Tensor | None = None
    """Document of each token, [B, T]; tokens attend within their document only. None: one document per row."""
    backend: BackendName = "auto"
    """How attention is computed; `auto` reads the table in `vitruvius.nn.backends`."""
    signals: Signals | None = None

    @property
    def length(self) -> int:
        """Tokens per row in this call."""
        return self.positions.shape[-1]


def place_packed(documents_BT: Tensor) -> Tensor:
    """Positions within each document of packed rows: [B, T] int64, starting at 0 wherever the document changes."""
    index = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    changes = torch.ones_like(documents_BT, dtype=torch.bool)
    changes[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts = torch.where(changes, index, 0).cummax(dim=1).values
    return index - starts
