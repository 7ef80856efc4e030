"""What kernels of positions share: which keys a run of queries needs, which pairs are visible, and the weighted sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from vitruvius.nn.backends.packed import by_distance
from vitruvius.nn.backends.scores import document_runs, visible
from vitruvius.nn.casting import recomputing
from vitruvius.patterns import segments

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitruvius.nn.backends import Request
    from vitruvius.patterns import Segment

Made = TypeVar("Made")

BLOCK = 128
"""Queries at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sight:
    """Who sees whom in one call without a cache."""

    request: Request
    runs_BT: Tensor | None
    """Documents by where they change; None for one document per row."""

    @classmethod
    def of(cls, request: Request) -> Sight:
        """That of a request."""
        documents = request.place.documents
        return cls(request=request, runs_BT=None if documents is None else document_runs(documents))

    def segments(self, start: int, stop: int) -> tuple[Segment, ...]:
        """Runs of keys that hold every key which queries [start, stop) may see, in order, and perhaps some more."""
        pattern, length = self.request.pattern, self.request.place.length
        # Positions count from the start of a document, which may stand anywhere: only distances say something then.
        return segments(pattern if self.runs_BT is None else by_distance(pattern), start, stop, length)

    def mask(self, start: int, stop: int, keys: slice | Tensor) -> Tensor:
        """Which of the keys queries [start, stop) see: bool [T, S], or [B, 1, T, S] when rows differ."""
        positions = self.request.place.positions
        allowed = visible(self.request, positions[..., start:stop], positions[..., keys])
        if self.runs_BT is None:
            return allowed
        same = self.runs_BT[:, start:stop].unsqueeze(-1) == self.runs_BT[:, keys].unsqueeze(-2)
        return allowed & same.unsqueeze(1)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a backward pass will come."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def recomputed(function: Callable[..., Made], *inputs: Any, again: bool) -> Made:
    """What a function makes of its inputs; with `again` the backward pass computes anew what it would have kept."""
    if not again:
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **recomputing())


def grouped_scores(q_BHTK: Tensor, k_BGSK: Tensor) -> Tensor:
    """Products of every query with every key of its group, [B, H, T, S], without repeating keys."""
    groups, (heads, length) = k_BGSK.shape[1], q_BHTK.shape[1:3]
    q_BGMK = q_BHTK.unflatten(1, (groups, -1)).flatten(2, 3)
    scores_BGMS = torch.matmul(q_BGMK, k_BGSK.transpose(-1, -2))
    return scores_BGMS.unflatten(2, (heads // groups, length)).flatten(1, 2)


def weighted_sum(weights_BHTS: Tensor, v_BGSK: Tensor) -> Tensor:
    """Values of each head's group under its weights, [B, H, T, K]."""
    groups, (heads, length) = v_BGSK.shape[1], weights_BHTS.shape[1:3]
    weights_BGMS = weights_BHTS.unflatten(1, (groups, -1)).flatten(2, 3)
    out_BGMK = torch.matmul(weights_BGMS.to(v_BGSK.dtype), v_BGSK)
    return out_BGMK.unflatten(2, (heads // groups, length)).flatten(1, 2)
