"""The same recurrences token by token: what decoding does, and the readable form that the chunked one is held against.

Written out of matmuls, so that a count of floating-point operations sees them: 2*N*P each for the read, the outer
product, and what a delta rule asks of the state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.nn.ops.recurrence.chunks import segments_of, working_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def gated_delta_step(
    q_BGN: Tensor,
    k_BGN: Tensor,
    v_BHP: Tensor,
    *,
    log_decay: Tensor | None = None,
    beta_BH: Tensor | None = None,
    state_BHNP: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token of `gated_delta`: its output [B, H, P] and the state after it. log_decay: [B, H] or [B, H, N]."""
    q, k, v = (x.to(state_BHNP.dtype) for x in (_per_value_head(q_BGN, v_BHP), _per_value_head(k_BGN, v_BHP), v_BHP))
    if log_decay is not None:
        decay = log_decay.to(state_BHNP.dtype).exp()
        state_BHNP = state_BHNP * (decay[..., None, None] if decay.dim() == 2 else decay.unsqueeze(-1))
    if beta_BH is not None:
        v = beta_BH.to(v.dtype).unsqueeze(-1) * (v - _answer(k, state_BHNP))
    state_BHNP = state_BHNP + k.unsqueeze(-1) @ v.unsqueeze(-2)
    return _answer(q, state_BHNP).to(v_BHP.dtype), state_BHNP


def diagonal_rank_one_step(
    q_BHN: Tensor,
    k_BHN: Tensor,
    v_BHP: Tensor,
    *,
    log_decay_BHN: Tensor,
    a_BHN: Tensor,
    b_BHN: Tensor,
    state_BHNP: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token of `diagonal_rank_one`: its output [B, H, P] and the state after it."""
    q, k, v, a, b, w = (x.to(state_BHNP.dtype) for x in (q_BHN, k_BHN, v_BHP, a_BHN, b_BHN, log_decay_BHN))
    # Two outer products in one matmul: what is written under `b`, and what is written under `k`.
    under, written = torch.stack([b, k], dim=-1), torch.stack([_answer(a, state_BHNP), v], dim=-2)
    state_BHNP = state_BHNP * w.exp().unsqueeze(-1) + under @ written
    return _answer(q, state_BHNP).to(v_BHP.dtype), state_BHNP


def _answer(x_BHN: Tensor, state_BHNP: Tensor) -> Tensor:
    return (x_BHN.unsqueeze(-2) @ state_BHNP).squeeze(-2)


def _per_value_head(x_BGN: Tensor, v_BHP: Tensor) -> Tensor:
    repeats = v_BHP.shape[1] // x_BGN.shape[1]
    return x_BGN if repeats == 1 else x_BGN.repeat_interleave(repeats, dim=1)


def gated_delta_steps(
    q_BTGN: Tensor,
    k_BTGN: Tensor,
    v_BTHP: Tensor,
    *,
    log_decay: Tensor | None = None,
    beta_BTH: Tensor | None = None,
    state_BHNP: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`gated_delta` one token at a time."""
    dtype = working_dtype(q_BTGN, k_BTGN, v_BTHP, log_decay, beta_BTH, state_BHNP)

    def step(t: int, state: Tensor) -> tuple[Tensor, Tensor]:
        decay_t, beta_t = (None if x is None else x[:, t] for x in (log_decay, beta_BTH))
        return gated_delta_step(
            q_BTGN[:, t], k_BTGN[:, t], v_BTHP[:, t], log_decay=decay_t, beta_BH=beta_t, state_BHNP=state
        )

    return _walk(step, v_BTHP, q_BTGN.shape[-1], state_BHNP, documents_BT, dtype)


def diagonal_rank_one_steps(
    q_BTHN: Tensor,
    k_BTHN: Tensor,
    v_BTHP: Tensor,
    *,
    log_decay_BTHN: Tensor,
    a_BTHN: Tensor,
    b_BTHN: Tensor,
    state_BHNP: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`diagonal_rank_one` one token at a time."""
    dtype = working_dtype(q_BTHN, k_BTHN, v_BTHP, log_decay_BTHN, a_BTHN, b_BTHN, state_BHNP)
    inputs = (q_BTHN, k_BTHN, v_BTHP)

    def step(t: int, state: Tensor) -> tuple[Tensor, Tensor]:
        w, a, b = log_decay_BTHN[:, t], a_BTHN[:, t], b_BTHN[:, t]
        return diagonal_rank_one_step(*(x[:, t] for x in inputs), log_decay_BHN=w, a_BHN=a, b_BHN=b, state_BHNP=state)

    return _walk(step, v_BTHP, q_BTHN.shape[-1], state_BHNP, documents_BT, dtype)


def _walk(
    step: Callable[[int, Tensor], tuple[Tensor, Tensor]],
    v_BTHP: Tensor,
    state_width: int,
    state_BHNP: Tensor | None,
    documents_BT: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    batch, length, heads, width = v_BTHP.shape
    if state_BHNP is None:
        state_BHNP = v_BTHP.new_zeros(batch, heads, state_width, width, dtype=dtype)
    state = state_BHNP.to(dtype)
    segments = None if documents_BT is None else segments_of(documents_BT)
    outputs: list[Tensor] = []
    for t in range(length):
        if segments is not None and t:
            goes_on = segments[:, t] == segments[:, t - 1]
            state = torch.where(goes_on[:, None, None, None], state, 0)
        out, state = step(t, state)
        outputs.append(out)
    return torch.stack(outputs, dim=1), state
