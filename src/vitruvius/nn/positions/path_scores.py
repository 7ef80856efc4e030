"""The algebra of accumulated Householder-like maps: H_s = I - beta_s w_s w_s^T.

The score of query i and key j is q_i . (H_i H_{i-1} ... H_{j+1} k_j). For the tokens of one chunk, with W their vectors
as rows, b their betas, and

    A = I + stril(diag(b) W W^T)        Z = A^-1 diag(b) W        U = A^-1 stril(diag(b) W K^T)

the product of all of the chunk's maps is P = I - W^T Z; its keys, mapped to its end, are K - U^T W; its queries, mapped
back to its start, are Q - tril(Q W^T) Z; and its own scores are Q K^T - tril(Q W^T) U. So a query goes from chunk to
chunk to the left, one product with P each. Yang et al., "PaTH Attention", 2025; the form is that of WY products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vitruvius.nn.positions.blocks import BLOCK, grouped_scores, recomputed, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    MaskOf = Callable[[int, int, int, int], Tensor | None]
    """(first query, one past the last, first key, one past the last) -> who sees whom, or None for everybody."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunks:
    """Keys and maps of a sequence, chunk by chunk: lists over chunks, tensors [B, G, C, ...] in at least fp32."""

    w: tuple[Tensor, ...]
    Z: tuple[Tensor, ...]
    U: tuple[Tensor, ...]
    P: tuple[Tensor, ...]
    """The whole chunk's map, [B, G, K, K]."""
    k: tuple[Tensor, ...]
    """Keys as they were."""
    k_end: tuple[Tensor, ...]
    """Keys mapped to the end of their chunk."""
    length: int
    """Tokens, without what fills the last chunk."""

    @classmethod
    def of(cls, k_BGTK: Tensor, w_BGTK: Tensor, beta_BGT: Tensor) -> Chunks:
        """Those of a sequence. The last chunk is filled with maps that do nothing."""
        length = k_BGTK.shape[2]
        fill = -length % BLOCK if length > BLOCK else 0
        k, w = (torch.nn.functional.pad(x, (0, 0, 0, fill)) for x in (k_BGTK, w_BGTK))
        size = min(BLOCK, length + fill)
        k, w = (x.unflatten(2, (-1, size)) for x in (k, w))
        beta = torch.nn.functional.pad(beta_BGT, (0, fill)).unflatten(2, (-1, size)).unsqueeze(-1)
        scaled = beta * w
        unit_lower = torch.matmul(scaled, w.transpose(-1, -2)).tril(-1)
        right = torch.cat([scaled, torch.matmul(scaled, k.transpose(-1, -2)).tril(-1)], dim=-1)
        # Only what lies below the diagonal is read; ones stand on it.
        solved = torch.linalg.solve_triangular(unit_lower, right, upper=False, unitriangular=True)
        Z, U = solved.split((w.shape[-1], size), dim=-1)
        P = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) - torch.matmul(w.transpose(-1, -2), Z)
        k_end = k - torch.matmul(U.transpose(-1, -2), w)
        parts = {"w": w, "Z": Z, "U": U, "P": P, "k": k, "k_end": k_end}
        return cls(**{name: part.unbind(2) for name, part in parts.items()}, length=length)

    @property
    def size(self) -> int:
        """Tokens per chunk."""
        return self.w[0].shape[2]

    def bounds(self, chunk: int) -> tuple[int, int]:
        """First token of a chunk, and one past its last real one."""
        start = chunk * self.size
        return start, min(start + self.size, self.length)

    def at_end(self) -> tuple[Tensor, Tensor]:
        """All keys mapped to the end of the sequence, [B, G, T, K], and the whole map [B, G, K, K]."""
        moved = [self.k_end[-1]]
        total = self.P[-1]
        for chunk in range(len(self.P) - 2, -1, -1):
            moved.append(torch.matmul(self.k_end[chunk], total.transpose(-1, -2)))
            total = torch.matmul(total, self.P[chunk])
        return torch.cat(moved[::-1], dim=2)[:, :, : self.length], total


def attend_chunk(
    q_BHCK: Tensor,
    chunk: int,
    chunks: Chunks,
    *,
    scale: float,
    needed: Sequence[int],
    v_BGTK: Tensor,
    mask_of: MaskOf,
    decay: tuple[Tensor, Tensor] | None,
    before: tuple[Tensor, Tensor] | None,
    again: bool,
) -> Tensor:
    """Attention of the queries of one chunk, [B, H, C, K].

    `needed` are the chunks to the left whose keys some query sees, in order. `before` are keys and values of a cache,
    at the start of the sequence; the columns of masks and decays count them after the sequence's own keys. With `again`
    nothing that depends on the number of keys is kept for the backward pass.
    """
    start, stop = chunks.bounds(chunk)
    leftmost = 0 if before is not None else min(needed, default=chunk)
    between = tuple(range(chunk - 1, leftmost - 1, -1))
    columns = [(*chunks.bounds(i),) for i in (*needed, chunk)]
    masks = [mask_of(start, stop, low, high) for low, high in columns]
    if before is not None:
        masks.append(mask_of(start, stop, chunks.length, chunks.length + before[0].shape[2]))

    def run(q: Tensor, v: Tensor, w: Tensor, Z: Tensor, U: Tensor, k: Tensor, *others: Tensor) -> tuple[Tensor]:
        count = len(between)
        P = dict(zip(between, others[:count], strict=True))
        k_end = dict(zip(needed, others[count : count + len(needed)], strict=True))
        rest = others[count + len(needed) :]
        scores: dict[int, Tensor] = {}
        back_BHCC = grouped_scores(q, w).tril()
        scores[chunk] = grouped_scores(q, k) - weighted_sum_wide(back_BHCC, U)
        q = q - weighted_sum_wide(back_BHCC, Z)
        for i in between:
            if i in k_end:
                scores[i] = grouped_scores(q, k_end[i])
            q = weighted_sum_wide(q, P[i])
        parts = [scores[i][..., : high - low] for i, (low, high) in zip((*needed, chunk), columns, strict=True)]
        values = [v[:, :, low:high] for low, high in columns]
        if before is not None:
            parts.append(grouped_scores(q, rest[0]))
            values.append(rest[1])
            rest = rest[2:]
        logits = _visible(parts, scale, masks, columns, rest, before)
        return (weighted_sum(logits.softmax(dim=-1), _joined(values)),)

    del start
    inputs = [chunks.w[chunk][:, :, : stop - chunk * chunks.size]]
    raise NotImplementedError(inputs)
