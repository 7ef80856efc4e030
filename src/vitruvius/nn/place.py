"""Where the tokens of one call stand, and what the call reports back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from vitruvius.nn.backends.request import Asked
    from vitruvius.nn.cross import Source
    from vitruvius.spec import Layer
    from vitruvius.spec.recomputing import Checkpointing

BackendName = Literal["auto", "reference", "sdpa", "chunked", "flex"]


@dataclass(slots=True, kw_only=True)
class Signals:
    """What modules report besides their output. Pass one to a call to listen."""

    losses: list[Tensor] = field(default_factory=list)
    """Auxiliary losses, already multiplied by their coefficients; scalars to be added to the objective."""
    metrics: dict[str, list[Tensor]] = field(default_factory=dict)
    """Named scalars, one entry per layer that reports it."""
    attention: list[Tensor] | None = None
    """When a list: the reference backend appends each layer's attention weights, [B, H, T, S]."""
    largest_scores: list[Tensor] | None = None
    """When a list: the reference backend appends the largest score of each head before the softmax, [B, H]."""
    routing: list[Tensor] | None = None
    """When a list: each mixture appends its chosen experts, [N, top_k]."""
    replay: Iterator[Tensor] | None = None
    """When given: mixtures take their chosen experts from here instead of choosing."""
    requests: list[Asked] | None = None
    """When a list: each attention appends what it asks the backends for."""
    z_loss: float = 0.0
    """Coefficient of the mean squared log-sum-exp of the logits; above 0, `Model.loss` adds that to what it returns."""
    cross_entropy: Tensor | None = None
    """What `Model.loss` returned, detached and without the z-loss; only with one."""

    def report(self, name: str, value: Tensor) -> None:
        """Add one layer's value of a metric."""
        self.metrics.setdefault(name, []).append(value.detach())


@dataclass(slots=True, kw_only=True)
class Passed:
    """What earlier layers of a call leave for later ones, by layer index."""

    keys: dict[int, Any] = field(default_factory=dict)
    """Keys and values that other layers read."""
    values: dict[int, Tensor] = field(default_factory=dict)
    """Values that other layers mix into their own, [B, G, T, K]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where tokens stand: positions, documents, and how attention is to be computed."""

    positions: Tensor
    """Positions within the document, int64: [T] when all rows agree, else [B, T]."""
    documents: Tensor | None = None
    """Document of each token, [B, T]; tokens attend within their document only. None: one document per row."""
    tokens: Tensor | None = None
    """Ids of the tokens, [B, T], for what depends on the token itself and not on its vector."""
    prefix: Tensor | None = None
    """Length of the prefix that layers with an open prefix read in both directions, int64 [B]; None: no prefix."""
    backend: BackendName = "auto"
    """How attention is computed; `auto` reads the table in `vitruvius.nn.backends`."""
    checkpointing: Checkpointing = "none"
    """Which layers are computed again in the backward pass (`vitruvius.nn.checkpointing`)."""
    """What is computed again in the backward pass."""
    signals: Signals | None = None
    source: Source | None = None
    """What the encoder made of the source texts; None without an encoder, and where a cache holds it."""
    layer: Layer | None = None
    """The layer that is computing: weights shared by several layers tell by it where they stand."""
    passed: Passed = field(default_factory=Passed)
    """What earlier layers left."""

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
