"""The selective scan of Mamba: a diagonal state per channel, with its own decay for each of its numbers.

    h_t = exp(dt_t * A) * h_{t-1} + dt_t * x_t B_t^T          y_t = h_t C_t + D * x_t

No two of the D x N numbers decay alike, so there is no matmul over pairs of tokens to be had. What is left to save is
memory traffic: a piece of the sequence small enough for a core's cache is expanded to [tokens, B, D, N], scanned with
one fused operation per token, read, and thrown away. The backward pass expands it again, so that training keeps one
state per piece. Nothing is ever divided by a decay, so none is too strong. Gu and Dao, 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.ops.recurrence.chunks import exp_of_decay, segments_of, working_dtype
from vitruvius.spec.tracing.recurrences import piece_length

if TYPE_CHECKING:
    from torch import Tensor


def selective_scan(
    x_BTD: Tensor,
    dt_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    *,
    skip_D: Tensor | None = None,
    state_BDN: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The outputs [B, T, D] of a selective scan and its last state [B, D, N].

    dt_BTD: step sizes of at least 0; where one is 0 the token leaves the state alone. A_DN: at most 0. documents_BT:
    the state starts again wherever the document changes. Outputs have the dtype of x; the state and everything between
    are fp32, or fp64 for fp64 inputs.
    """
    dtype = working_dtype(x_BTD, dt_BTD, A_DN, B_BTN, C_BTN, state_BDN)
    x, dt, A, B, C = (t.to(dtype) for t in (x_BTD, dt_BTD, A_DN, B_BTN, C_BTN))
    start = x.new_zeros(x.shape[0], *A.shape) if state_BDN is None else state_BDN.to(dtype)
    y, last = _scan(x * dt, dt, A, B, C, _continues(documents_BT, dtype), start)
    if skip_D is not None:
        y = y + skip_D.to(dtype) * x
    return y.to(x_BTD.dtype), last


def selective_scan_step(
    x_BD: Tensor,
    dt_BD: Tensor,
    A_DN: Tensor,
    B_BN: Tensor,
    C_BN: Tensor,
    *,
    skip_D: Tensor | None = None,
    state_BDN: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token of `selective_scan`: its output [B, D] and the state after it, both products written as matmuls."""
    x, dt, A, B, C = (t.to(state_BDN.dtype) for t in (x_BD, dt_BD, A_DN, B_BN, C_BN))
    state_BDN = state_BDN * (dt.unsqueeze(-1) * A).exp()
    state_BDN = state_BDN + (x * dt).unsqueeze(-1) @ B.unsqueeze(-2)
    y = (state_BDN @ C.unsqueeze(-1)).squeeze(-1)
    return (y if skip_D is None else y + skip_D.to(y.dtype) * x).to(x_BD.dtype), state_BDN


def selective_scan_steps(
    x_BTD: Tensor,
    dt_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    *,
    skip_D: Tensor | None = None,
    state_BDN: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` one token at a time."""
    dtype = working_dtype(x_BTD, dt_BTD, A_DN, B_BTN, C_BTN, state_BDN)
    state = x_BTD.new_zeros(x_BTD.shape[0], *A_DN.shape, dtype=dtype) if state_BDN is None else state_BDN.to(dtype)
    continues = _continues(documents_BT, dtype)
    outputs: list[Tensor] = []
    for t in range(x_BTD.shape[1]):
        if continues is not None:
            state = state * continues[:, t, None, None]
        tokens = (x_BTD[:, t], dt_BTD[:, t], A_DN, B_BTN[:, t], C_BTN[:, t])
        y_BD, state = selective_scan_step(*tokens, skip_D=skip_D, state_BDN=state)
        outputs.append(y_BD)
    return torch.stack(outputs, dim=1), state


def _continues(documents_BT: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """[B, T]: one where a token is of the same document as the one before, zero where a document starts."""
    if documents_BT is None:
        return None
    segments = segments_of(documents_BT)
    return F.pad((segments[:, 1:] == segments[:, :-1]).to(dtype), (1, 0), value=1.0)


@uncompiled
def _scan(*inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    return _Scan.apply(*inputs)


class _Scan(torch.autograd.Function):
    """Time comes first inside, so that a token's numbers are one piece of memory."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, continues: Tensor | None, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        v, dt, B, C = (t.transpose(0, 1).contiguous() for t in (v, dt, B, C))
        continues = None if continues is None else continues.T
        length, numbers = len(v), start.numel()
        size = piece_length(length, numbers)
        y = torch.empty_like(v)
        starts = v.new_empty(-(-length // size), *start.shape)
        state = start
        for i in range(len(starts)):
            at = slice(i * size, (i + 1) * size)
            starts[i] = state
            _, states = _expand(v[at], dt[at], A, B[at], None if continues is None else continues[at], state)
            torch.matmul(states, C[at].unsqueeze(-1), out=y[at].unsqueeze(-1))
            state = states[-1]
        ctx.save_for_backward(v, dt, A, B, C, continues, starts)
        ctx.size = size
        return y.transpose(0, 1), state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, dt, A, B, C, continues, starts = ctx.saved_tensors
        y_grad, flow = grads[0].transpose(0, 1).contiguous(), grads[1]
        v_grad, dt_grad, A_grad, B_grad, C_grad = (torch.empty_like(t) for t in (v, dt, A, B, C))
        A_grad.zero_()
        for i in reversed(range(len(starts))):
            at = slice(i * ctx.size, (i + 1) * ctx.size)
            here = None if continues is None else continues[at]
            decay, states = _expand(v[at], dt[at], A, B[at], here, starts[i])
            torch.matmul(states.transpose(2, 3), y_grad[at].unsqueeze(-1), out=C_grad[at].unsqueeze(-1))
            flows = y_grad[at].unsqueeze(-1) * C[at].unsqueeze(-2)  # flows[t]: gradient of states[t]
            flows[-1] += flow
            for t in reversed(range(len(flows) - 1)):
                flows[t].addcmul_(flows[t + 1], decay[t + 1])
            flow = flows[0] * decay[0]
            torch.matmul(flows, B[at].unsqueeze(-1), out=v_grad[at].unsqueeze(-1))
            torch.matmul(flows.transpose(2, 3), v[at].unsqueeze(-1), out=B_grad[at].unsqueeze(-1))
            # From here on: the gradient of dt * A.
            flows *= decay
            flows[1:] *= states[:-1]
            flows[0] *= starts[i]
            torch.sum(flows * A, dim=-1, out=dt_grad[at])
            A_grad += torch.einsum("tbdn,tbd->dn", flows, dt[at])
        first = (t.transpose(0, 1) for t in (v_grad, dt_grad))
        return *first, A_grad, B_grad.transpose(0, 1), C_grad.transpose(0, 1), None, flow


def _expand(
    v: Tensor, dt: Tensor, A: Tensor, B: Tensor, continues: Tensor | None, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Decays and states of a piece, each [tokens, B, D, N]."""
    decay = exp_of_decay(dt.unsqueeze(-1) * A)
    if continues is not None:
        decay *= continues[..., None, None]
    states = v.unsqueeze(-1) * B.unsqueeze(-2)
    states[0].addcmul_(start, decay[0])
    for t in range(1, len(states)):
        states[t].addcmul_(states[t - 1], decay[t])
    return decay, states
