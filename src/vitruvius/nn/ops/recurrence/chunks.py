"""Sequences cut into chunks: layout, cumulative decays, and which tokens of a chunk share a document.

Letters beyond those of `vitruvius.nn`: G key heads, R value heads to a key head (H = G * R), L chunks, C tokens of a
chunk, Z rows and key heads together (B * G), N state width (of keys and queries), P value width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def working_dtype(*tensors: Tensor | None) -> torch.dtype:
    """What states, decays and sums are kept in: fp64 where an input is, else fp32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


FLOOR = {torch.float32: -40.0, torch.float64: -300.0}
"""Least power that is taken. What decays further is nothing beside what decays less (4e-18 of it, in fp32); the product
of two such factors is still a normal number, and arithmetic on smaller ones is many times slower on a CPU."""


def exp_of_decay(log_decay: Tensor) -> Tensor:
    """Exp of a log decay of at most zero."""
    return log_decay.clamp(min=FLOOR[log_decay.dtype]).exp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """How the tokens of one call are laid out: chunks first, so that a chunk is one piece of memory."""

    length: int
    """Tokens of a row."""
    size: int
    """Tokens of a chunk."""
    groups: int
    """Key heads, in which value heads are grouped."""
    dtype: torch.dtype

    def cut(self, x_BTx: Tensor) -> Tensor:
        """[B, T, ...] to [L, B, C, ...], padded with zeros to whole chunks."""
        missing = -self.length % self.size
        x_BTx = x_BTx.to(self.dtype)
        if missing:
            x_BTx = F.pad(x_BTx, (0, 0) * (x_BTx.dim() - 2) + (0, missing))
        return x_BTx.unflatten(1, (-1, self.size)).transpose(0, 1)

    def heads(self, x_BTHN: Tensor) -> Tensor:
        """[B, T, H, N] to [L, B, H, C, N], contiguous."""
        return self.cut(x_BTHN).transpose(2, 3).contiguous()

    def values(self, x_BTHP: Tensor) -> Tensor:
        """[B, T, H, P] to [L, B, G, C, R, P], contiguous."""
        return self.cut(x_BTHP).unflatten(3, (self.groups, -1)).transpose(2, 3).contiguous()

    def scalars(self, x_BTH: Tensor) -> Tensor:
        """[B, T, H] to [L, B, G, R, C], contiguous."""
        return self.cut(x_BTH).unflatten(3, (self.groups, -1)).permute(0, 1, 3, 4, 2).contiguous()

    def joined(self, x_LBGCRP: Tensor) -> Tensor:
        """Back from [L, B, G, C, R, P] to [B, T, H, P]."""
        return x_LBGCRP.permute(1, 0, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)[:, : self.length]


@dataclass(frozen=True, slots=True, kw_only=True)
class Borders:
    """Where documents begin and end within chunks, as masks to multiply with."""

    pairs: Tensor
    """[L, B, 1, C, C]: both tokens are of one document."""
    enters: Tensor
    """[L, B, 1, C]: the token continues the document that the chunk's first state belongs to."""
    leaves: Tensor
    """[L, B, 1, C]: the token's document goes on to the end of the chunk."""
    passes: Tensor
    """[L, B, 1]: the document that the first state belongs to goes on to the end of the chunk."""


def segments_of(documents_BT: Tensor) -> Tensor:
    """Numbers 0, 0, 0, 1, 1, 2, ... that rise where the document changes: [B, T] int64."""
    changes = documents_BT[:, 1:] != documents_BT[:, :-1]
    return F.pad(changes.cumsum(dim=1), (1, 0))


def borders(documents_BT: Tensor | None, chunks: Chunks) -> Borders | None:
    """The masks of packed rows; None without documents. A state given at the start belongs to the first document."""
    if documents_BT is None:
        return None
    segments = segments_of(documents_BT)
    last = segments[:, -1:].expand(-1, -chunks.length % chunks.size)
    segments = torch.cat([segments, last], dim=1).unflatten(1, (-1, chunks.size))
    segments_LB1C = segments.transpose(0, 1).unsqueeze(2)
    ends = segments_LB1C[..., -1]
    before = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
    dtype = chunks.dtype
    return Borders(
        pairs=(segments_LB1C.unsqueeze(-1) == segments_LB1C.unsqueeze(-2)).to(dtype),
        enters=(segments_LB1C == before.unsqueeze(-1)).to(dtype),
        leaves=(segments_LB1C == ends.unsqueeze(-1)).to(dtype),
        passes=(ends == before).to(dtype),
    )
