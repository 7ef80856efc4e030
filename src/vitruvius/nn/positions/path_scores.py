"""The algebra of accumulated Householder-like maps: H_s = I - beta_s w_s w_s^T.

The score of query i and key j is q_i . (H_i H_{i-1} ... H_{j+1} k_j). For the tokens of one chunk, with W their vectors
as rows, b their betas, and

    A = I + stril(diag(b) W W^T)        Z = A^-1 diag(b) W        U = A^-1 stril(diag(b) W K^T)

the product of all of the chunk's maps is P = I - W^T Z; its keys, mapped to its end, are K - U^T W; its queries, mapped
back to its start, are Q - tril(Q W^T) Z; and its own scores are Q K^T - tril(Q W^T) U. So a query goes from chunk to
chunk to the left, one product with P each. Yang et al., "PaTH Attention", 2025; the form is that of WY products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.nn.positions.blocks import BLOCK, grouped_scores, recomputed, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MaskOf = Callable[[int, int, slice], "Tensor | None"]
"""(first query, one past the last, keys) -> who sees whom, [T, S] or [B, 1, T, S]; None for everybody."""


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
    def of(
        cls, k_BGTK: Tensor, w_BGTK: Tensor, beta_BGT: Tensor, *, again: bool = False, goes_on: bool = True
    ) -> Chunks:
        """Those of a sequence. The last chunk is filled with maps that do nothing; `again` as for `recomputed`.

        goes_on: whether anything is read beyond a chunk, for which `P` and `k_end` are needed.
        """
        inner = recomputed(_prepared, k_BGTK, w_BGTK, beta_BGT, again=again)
        ends = recomputed(_moved, *inner, again=again) if goes_on else ()
        # Cut once: the gradients of slices would each be as long as the sequence.
        w, Z, U, k = (part.unbind(2) for part in inner)
        P, k_end = (part.unbind(2) for part in ends) if ends else ((), ())
        return cls(w=w, Z=Z, U=U, P=P, k=k, k_end=k_end, length=k_BGTK.shape[2])

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


def _prepared(k_BGTK: Tensor, w_BGTK: Tensor, beta_BGT: Tensor) -> tuple[Tensor, ...]:
    """W, Z, U and keys: [B, G, chunks, ...]."""
    length, size = k_BGTK.shape[2], min(BLOCK, k_BGTK.shape[2])
    fill = -length % size
    k, w = (F.pad(x, (0, 0, 0, fill)).unflatten(2, (-1, size)) for x in (k_BGTK, w_BGTK))
    scaled = F.pad(beta_BGT, (0, fill)).unflatten(2, (-1, size)).unsqueeze(-1) * w
    lower = torch.matmul(scaled, w.transpose(-1, -2))
    right = torch.cat([scaled, torch.matmul(scaled, k.transpose(-1, -2)).tril(-1)], dim=-1)
    # Of `lower` only what lies below the diagonal is read; ones stand on it.
    solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    Z, U = solved.split((w.shape[-1], size), dim=-1)
    return w, Z, U, k


def _moved(w: Tensor, Z: Tensor, U: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    """P, and keys at the end of their chunk."""
    P = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) - torch.matmul(w.transpose(-1, -2), Z)
    return P, k - torch.matmul(U.transpose(-1, -2), w)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """What a cache holds from before the sequence, mapped to where it starts."""

    k_BGSK: Tensor
    v_BGSK: Tensor
    decay_BHS: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What the queries of a call read: masks count the keys of `stored` after the sequence's own."""

    chunks: Chunks
    v_BGTK: Tensor
    scale: float
    mask_of: MaskOf
    decay_BHT: Tensor | None = None
    """Sums of log forget gates; what lies between two tokens weakens their score by the difference."""
    stored: Stored | None = None

    def attend(self, q_BHCK: Tensor, chunk: int, needed: Sequence[int]) -> Tensor:
        """Attention of one chunk's queries, [B, H, C, K]. `needed`: earlier chunks with keys that some query sees."""
        start, stop = self.chunks.bounds(chunk)
        columns = [slice(*self.chunks.bounds(i)) for i in (*needed, chunk)]
        goes_on = bool(needed) or self.stored is not None
        parts, q_BHCK = self._own(q_BHCK, chunk, goes_on=goes_on)
        scores = {chunk: parts}
        leftmost = 0 if self.stored is not None else min(needed, default=chunk)
        for i in range(chunk - 1, leftmost - 1, -1):
            if i in needed:
                scores[i] = grouped_scores(q_BHCK, self.chunks.k_end[i])
            q_BHCK = weighted_sum(q_BHCK, self.chunks.P[i])
        ordered = [scores[i] for i in (*needed, chunk)]
        values = [self.v_BGTK[:, :, run] for run in columns]
        if self.stored is not None:
            ordered.append(grouped_scores(q_BHCK, self.stored.k_BGSK))
            values.append(self.stored.v_BGSK)
            columns.append(slice(self.chunks.length, self.chunks.length + values[-1].shape[2]))
        logits = [self._masked(part, start, stop, run) for part, run in zip(ordered, columns, strict=True)]
        return weighted_sum(torch.cat(logits, dim=-1).softmax(dim=-1), torch.cat(values, dim=2))

    def _own(self, q_BHCK: Tensor, chunk: int, *, goes_on: bool) -> tuple[Tensor, Tensor]:
        """Scores with the chunk's own keys, and the queries, mapped back to the chunk's start where that `goes_on`."""
        count = q_BHCK.shape[2]  # the last chunk may be filled up with nothing
        w, Z, k = (part[chunk][:, :, :count] for part in (self.chunks.w, self.chunks.Z, self.chunks.k))
        U = self.chunks.U[chunk][:, :, :count, :count]
        back_BHCC = grouped_scores(q_BHCK, w).tril()
        scores_BHCC = grouped_scores(q_BHCK, k) - weighted_sum(back_BHCC, U)
        return scores_BHCC, q_BHCK - weighted_sum(back_BHCC, Z) if goes_on else q_BHCK

    def _masked(self, products: Tensor, start: int, stop: int, keys: slice) -> Tensor:
        """Scaled products with the decay, and -inf where a key is not visible."""
        scores = products * self.scale
        if self.decay_BHT is not None:
            scores = scores + (self.decay_BHT[:, :, start:stop].unsqueeze(-1) - self._decay_of(keys).unsqueeze(-2))
        mask = self.mask_of(start, stop, keys)
        return scores if mask is None else scores.masked_fill(~mask, -torch.inf)

    def _decay_of(self, keys: slice) -> Tensor:
        assert self.decay_BHT is not None
        if keys.start < self.chunks.length:
            return self.decay_BHT[:, :, keys]
        assert self.stored is not None
        assert self.stored.decay_BHS is not None
        return self.stored.decay_BHS


def one_by_one(k_BGTK: Tensor, w_BGTK: Tensor, beta_BGT: Tensor, q_BHTK: Tensor) -> Tensor:
    """The scores [B, H, T, T] as the definition reads: each token maps all keys before it, then multiplies its query.

    What a decode step does, token by token: 4 K operations for each pair and key head, and 2 K for each query head.
    Later keys are there too, as they were; the caller masks them.
    """
    batch, groups, length, _ = k_BGTK.shape
    k, w = k_BGTK.flatten(0, 1), w_BGTK.flatten(0, 1)
    beta, q = beta_BGT.flatten(0, 1), q_BHTK.unflatten(1, (groups, -1)).flatten(0, 1)
    earlier = torch.arange(length, device=k.device)
    rows: list[Tensor] = []
    for t in range(length):
        w_NK1 = w[:, t].unsqueeze(-1)
        lost_NT1 = torch.bmm(k, w_NK1) * beta[:, t, None, None] * (earlier < t).to(k.dtype).unsqueeze(-1)
        k = k - torch.bmm(lost_NT1, w_NK1.transpose(1, 2))
        rows.append(torch.bmm(q[:, :, t], k.transpose(1, 2)))
    scores_NRTT = torch.stack(rows, dim=2)
    return scores_NRTT.unflatten(0, (batch, groups)).flatten(1, 2)
