"""Gated linear recurrences with a matrix for a state, in chunks: RetNet, Mamba-2, GLA, DeltaNet, Gated DeltaNet, KDA.

One family, S_t = S_{t-1} * decay_t * (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, read by queries, o_t = S_t q_t:

    log_decay            beta     known as
    constant, [B, T, H]  none     RetNet (Sun et al., 2023)
    data, [B, T, H]      none     Mamba-2, SSD (Dao and Gu, 2024), with dt * x as values
    data, [B, T, H, N]   none     gated linear attention (Yang et al., 2024)
    none                 data     DeltaNet (Schlag et al., 2021; Yang et al., 2024)
    data, [B, T, H]      data     Gated DeltaNet (Yang et al., 2025)
    data, [B, T, H, N]   data     Kimi delta attention (Kimi team, 2025)

Within a chunk all pairs of tokens meet in matmuls over all chunks at once; between chunks the state is carried by the
short loops of `carry`. Time and memory are linear in the length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.nn.ops.recurrence.carry import carry_corrections, carry_state
from vitruvius.nn.ops.recurrence.chunks import Borders, Chunks, borders, exp_of_decay, working_dtype
from vitruvius.nn.ops.recurrence.scores import Rows, scores_by_channel, scores_by_token
from vitruvius.spec.tracing.recurrences import CHUNK, chunk_length

if TYPE_CHECKING:
    from torch import Tensor


def gated_delta(
    q_BTGN: Tensor,
    k_BTGN: Tensor,
    v_BTHP: Tensor,
    *,
    log_decay: Tensor | None = None,
    beta_BTH: Tensor | None = None,
    state_BHNP: Tensor | None = None,
    documents_BT: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The outputs [B, T, H, P] of a gated linear recurrence, and its last state [B, H, N, P].

    Value heads H may share the queries and keys of G key heads, H / G neighbours each. log_decay: what the state is
    multiplied by before a token, as a logarithm of at most 0: [B, T, H], or [B, T, H, N] for each channel of the keys;
    None keeps everything. beta_BTH: how much of what the state answers to a key is replaced; None adds v k^T without
    looking. Keys of a delta rule are to have length 1. documents_BT: the state starts again wherever the document
    changes. A token with k = 0 (or v = 0 and beta = 0) and log_decay = 0 leaves the state alone.

    Outputs have the dtype of the values; the state and everything between are fp32, or fp64 for fp64 inputs.
    """
    groups = v_BTHP.shape[2] if log_decay is not None and log_decay.dim() == 4 else k_BTGN.shape[2]
    if groups != k_BTGN.shape[2]:
        q_BTGN, k_BTGN = (x.repeat_interleave(groups // x.shape[2], dim=2) for x in (q_BTGN, k_BTGN))
    length = v_BTHP.shape[1]
    dtype = working_dtype(q_BTGN, k_BTGN, v_BTHP, log_decay, beta_BTH, state_BHNP)
    chunks = Chunks(length=length, size=chunk_length(length, chunk), groups=groups, dtype=dtype)
    edges = borders(documents_BT, chunks)
    q_LBGCN, k_LBGCN, v_LBGCRP = chunks.heads(q_BTGN), chunks.heads(k_BTGN), chunks.values(v_BTHP)
    start_ZNRP = first_state(state_BHNP, k_LBGCN, v_LBGCRP)
    beta = None if beta_BTH is None else chunks.scalars(beta_BTH)
    if log_decay is not None and log_decay.dim() == 4:
        g_LBHCN = chunks.heads(log_decay).cumsum(dim=3)
        out, last = _by_channel(q_LBGCN, k_LBGCN, v_LBGCRP, g_LBHCN, beta, edges, start_ZNRP)
    else:
        decays = v_BTHP.new_zeros(v_BTHP.shape[:3], dtype=dtype) if log_decay is None else log_decay
        g_LBGRC = chunks.scalars(decays).cumsum(dim=4)
        out, last = _by_token(q_LBGCN, k_LBGCN, v_LBGCRP, g_LBGRC, beta, edges, start_ZNRP)
    return chunks.joined(out).to(v_BTHP.dtype), last_state(last, groups)


def first_state(state_BHNP: Tensor | None, k_LBGCN: Tensor, v_LBGCRP: Tensor) -> Tensor:
    """The state before the first chunk in the layout of the scans, [Z, N, R, P]; zeros when none is given."""
    _, batch, groups, _, repeats, width = v_LBGCRP.shape
    if state_BHNP is None:
        return v_LBGCRP.new_zeros(batch * groups, k_LBGCN.shape[-1], repeats, width)
    state = state_BHNP.to(v_LBGCRP.dtype).unflatten(1, (groups, repeats))
    return state.transpose(2, 3).flatten(0, 1)


def last_state(state_ZNRP: Tensor, groups: int) -> Tensor:
    """[Z, N, R, P] to [B, H, N, P]."""
    return state_ZNRP.unflatten(0, (-1, groups)).transpose(2, 3).flatten(1, 2)


def _by_token(
    q_LBGCN: Tensor,
    k_LBGCN: Tensor,
    v_LBGCRP: Tensor,
    g_LBGRC: Tensor,
    beta_LBGRC: Tensor | None,
    edges: Borders | None,
    start_ZNRP: Tensor,
) -> tuple[Tensor, Tensor]:
    """One decay per token and head: key heads are shared, and decays multiply values."""
    end = g_LBGRC[..., -1:]
    enter, leave, passing = exp_of_decay(g_LBGRC), exp_of_decay(end - g_LBGRC), exp_of_decay(end.squeeze(-1))
    if edges is not None:
        enter, leave = enter * edges.enters.unsqueeze(3), leave * edges.leaves.unsqueeze(3)
        passing = passing * edges.passes.unsqueeze(3)
    pairs = None if edges is None else edges.pairs
    decay_LZ1R = passing.flatten(1, 2).unsqueeze(2)
    rows = [Rows(x=q_LBGCN, itself=True)]
    q_LZCN, k_LZCN = q_LBGCN.flatten(1, 2), k_LBGCN.flatten(1, 2)
    if beta_LBGRC is None:
        (attention,) = scores_by_token(rows, k_LBGCN, g_LBGRC, pairs)
        left = (v_LBGCRP * _per_value(leave)).flatten(1, 2)
        carried, last = carry_state(q_LZCN, k_LZCN, left, decay_LZ1R, start_ZNRP)
        inside = attention @ v_LBGCRP.transpose(3, 4)
    else:
        rows.append(Rows(x=k_LBGCN, itself=False, scale=beta_LBGRC))
        attention, system = scores_by_token(rows, k_LBGCN, g_LBGRC, pairs)
        u, carried, last = carry_corrections(
            q_LZCN,
            k_LZCN,
            k_LZCN,
            (v_LBGCRP * _per_value(beta_LBGRC)).flatten(1, 2),
            system.flatten(1, 2),
            decay_LZ1R,
            start_ZNRP,
            asked_scale=(enter * beta_LBGRC).transpose(3, 4).flatten(1, 2),
            key_scale=leave.transpose(3, 4).flatten(1, 2),
        )
        inside = attention @ u.view(*v_LBGCRP.shape[:3], *u.shape[2:])
    out = carried.view(v_LBGCRP.shape) * _per_value(enter) + inside.transpose(3, 4)
    return out, last


def _per_value(x_LBGRC: Tensor) -> Tensor:
    """To multiply [L, B, G, C, R, P] with."""
    return x_LBGRC.transpose(3, 4).unsqueeze(-1)


def _by_channel(
    q_LBHCN: Tensor,
    k_LBHCN: Tensor,
    v_LBHC1P: Tensor,
    g_LBHCN: Tensor,
    beta_LBH1C: Tensor | None,
    edges: Borders | None,
    start_ZN1P: Tensor,
) -> tuple[Tensor, Tensor]:
    """One decay per token, head and channel of the keys: decays multiply queries and keys."""
    end = g_LBHCN[..., -1:, :]
    enter, leave, passing = exp_of_decay(g_LBHCN), exp_of_decay(end - g_LBHCN), exp_of_decay(end.squeeze(-2))
    if edges is not None:
        enter, leave = enter * edges.enters.unsqueeze(-1), leave * edges.leaves.unsqueeze(-1)
        passing = passing * edges.passes.unsqueeze(-1)
    v_LBHCP = v_LBHC1P.squeeze(4)
    decay_LZN1 = passing.flatten(1, 2).unsqueeze(-1)
    left = (k_LBHCN * leave).flatten(1, 2)
    rows = [Rows(x=q_LBHCN, itself=True)]
    q_LZCN = (q_LBHCN * enter).flatten(1, 2)
    if beta_LBH1C is None:
        (attention,) = scores_by_channel(rows, [k_LBHCN], g_LBHCN)
        values = v_LBHCP
        carried, last = carry_state(q_LZCN, left, v_LBHC1P.flatten(1, 2), decay_LZN1, start_ZN1P)
    else:
        beta_LBHC1 = beta_LBH1C.squeeze(3).unsqueeze(-1)
        rows.append(Rows(x=k_LBHCN * beta_LBHC1, itself=False))
        attention, system = scores_by_channel(rows, [k_LBHCN], g_LBHCN)
        if edges is not None:
            system = system * edges.pairs
        u, carried, last = carry_corrections(
            q_LZCN,
            (rows[1].x * enter).flatten(1, 2),
            left,
            (v_LBHCP * beta_LBHC1).flatten(1, 2).unsqueeze(3),
            system.flatten(1, 2).unsqueeze(2),
            decay_LZN1,
            start_ZN1P,
        )
        values = u.squeeze(2).view(v_LBHCP.shape)
    if edges is not None:
        attention = attention * edges.pairs
    out = carried.view(v_LBHCP.shape) + attention @ values
    return out.unsqueeze(4), last


def diagonal_rank_one(
    q_BTHN: Tensor,
    k_BTHN: Tensor,
    v_BTHP: Tensor,
    *,
    log_decay_BTHN: Tensor,
    a_BTHN: Tensor,
    b_BTHN: Tensor,
    state_BHNP: Tensor | None = None,
    documents_BT: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The recurrence of RWKV-7: S_t = S_{t-1} (diag(w_t) + a_t b_t^T) + v_t k_t^T, o_t = S_t q_t (Peng et al., 2025).

    What the state before the decay answers to `a` is written back under `b`: with a = -w * k and b = beta * k this is a
    delta rule. Shapes, dtypes and documents as for `gated_delta`; a token with k = 0, b = 0 and log_decay = 0 leaves
    the state alone.
    """
    length, groups = v_BTHP.shape[1:3]
    dtype = working_dtype(q_BTHN, k_BTHN, v_BTHP, log_decay_BTHN, a_BTHN, b_BTHN, state_BHNP)
    chunks = Chunks(length=length, size=chunk_length(length, chunk), groups=groups, dtype=dtype)
    edges = borders(documents_BT, chunks)
    q, k, a, b, w = (chunks.heads(x) for x in (q_BTHN, k_BTHN, a_BTHN, b_BTHN, log_decay_BTHN))
    v_LBHC1P = chunks.values(v_BTHP)
    start_ZN1P, v_LBHCP = first_state(state_BHNP, k, v_LBHC1P), v_LBHC1P.squeeze(4)
    g_LBHCN = w.cumsum(dim=3)
    before = g_LBHCN - w  # `a` reads the state before the token's own decay
    end = g_LBHCN[..., -1:, :]
    enter, leave, passing = exp_of_decay(g_LBHCN), exp_of_decay(end - g_LBHCN), exp_of_decay(end.squeeze(-2))
    enter_a = exp_of_decay(before)
    if edges is not None:
        enters, leaves = edges.enters.unsqueeze(-1), edges.leaves.unsqueeze(-1)
        enter, enter_a, leave = enter * enters, enter_a * enters, leave * leaves
        passing = passing * edges.passes.unsqueeze(-1)
    scores = scores_by_channel([Rows(x=q, itself=True), Rows(x=a, itself=False, to=before)], [b, k], g_LBHCN)
    if edges is not None:
        scores = [score * edges.pairs for score in scores]
    q_b, q_k, a_b, a_k = scores
    u, carried, last = carry_corrections(
        (q * enter).flatten(1, 2),
        -(a * enter_a).flatten(1, 2),
        (b * leave).flatten(1, 2),
        (a_k @ v_LBHCP).flatten(1, 2).unsqueeze(3),
        -a_b.flatten(1, 2).unsqueeze(2),
        passing.flatten(1, 2).unsqueeze(-1),
        start_ZN1P,
        more=((k * leave).flatten(1, 2), v_LBHC1P.flatten(1, 2)),
    )
    out = carried.view(v_LBHCP.shape) + q_k @ v_LBHCP + q_b @ u.view(v_LBHCP.shape)
    return chunks.joined(out.unsqueeze(4)).to(v_BTHP.dtype), last_state(last, groups)


def clear_padding(real_BT: Tensor | None, *tensors_BTx: Tensor) -> tuple[Tensor, ...]:
    """Zero at padding, of what must leave the state alone there: decays, betas, keys. Unchanged when all is real."""
    if real_BT is None:
        return tensors_BTx
    return tuple(torch.where(real_BT[(...,) + (None,) * (x.dim() - 2)], x, 0) for x in tensors_BTx)
