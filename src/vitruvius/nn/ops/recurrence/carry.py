"""The only sequential part of a chunked recurrence: the state goes from chunk to chunk, read and written on its way.

Two scans with a hand-written backward. A chunk costs a few matmuls on its own slices, which stay in a core's cache:
autograd over a loop of slices would touch whole tensors once per chunk, which is quadratic in the length. Of each chunk
the state before it is kept for the backward pass, nothing else of that size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.compiling import uncompiled

if TYPE_CHECKING:
    from torch import Tensor


@uncompiled
def carry_state(
    query: Tensor, key: Tensor, value_LZCRP: Tensor, decay_LZNR: Tensor, start_ZNRP: Tensor
) -> tuple[Tensor, Tensor]:
    """What queries read of the state before their chunk, [L, Z, C, R, P], and the last state [Z, N, R, P].

        read = query S          S <- decay * S + key^T value

    query, key: [L, Z, C, N]. `decay` may have one row for all N, one column for all R.
    """
    return _Carry.apply(query, key, value_LZCRP, decay_LZNR.unsqueeze(-1), start_ZNRP)


@uncompiled
def carry_corrections(
    query: Tensor,
    asked: Tensor,
    key: Tensor,
    value_LZCRP: Tensor,
    system_LZRCC: Tensor,
    decay_LZNR: Tensor,
    start_ZNRP: Tensor,
    *,
    asked_scale: Tensor | None = None,
    key_scale: Tensor | None = None,
    more: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with a delta rule: what is written is first corrected by what the state says already.

        u = (I + system)^-1 (value - asked_scale * (asked S))
        read = query S          S <- decay * S + key^T (key_scale * u) + more_key^T more_value

    query, asked, key, more_key: [L, Z, C, N]; system: strictly lower triangular; scales: [L, Z, C, R], one without.
    Returns u [L, Z, R, C, P], what queries read [L, Z, C, R, P], and the last state [Z, N, R, P].
    """
    more_key, more_value = (None, None) if more is None else more
    scales = [None if scale is None else scale.unsqueeze(-1) for scale in (asked_scale, key_scale)]
    inputs = (query, asked, key, value_LZCRP, system_LZRCC, decay_LZNR.unsqueeze(-1), start_ZNRP)
    return _Corrections.apply(*inputs, *scales, more_key, more_value)


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        states = _room_for_states(value, start)
        read = torch.empty_like(value, memory_format=torch.contiguous_format)
        for i in range(len(value)):
            torch.bmm(query[i], states[i].flatten(2), out=read[i].flatten(2))
            torch.mul(states[i], decay[i], out=states[i + 1])
            _write(states[i + 1], key[i], value[i])
        ctx.save_for_backward(query, key, value, decay, states)
        return read, states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        query, key, value, decay, states = ctx.saved_tensors
        query_grad, key_grad, decay_grad = (torch.empty_like(x) for x in (query, key, decay))
        value_grad = torch.empty_like(value, memory_format=torch.contiguous_format)
        read_grad, flow = grads[0].contiguous(), grads[1].contiguous()  # flow: the gradient of states[i + 1]
        for i in reversed(range(len(value))):
            _gradients_of_write(key[i], value[i], flow, key_grad[i], value_grad[i])
            torch.bmm(read_grad[i].flatten(2), states[i].flatten(2).transpose(1, 2), out=query_grad[i])
            decay_grad[i] = (states[i] * flow).sum_to_size(decay[i].shape)
            flow = flow * decay[i]
            _write(flow, query[i], read_grad[i])
        return query_grad, key_grad, value_grad, decay_grad, flow


class _Corrections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        asked: Tensor,
        key: Tensor,
        value: Tensor,
        system: Tensor,
        decay: Tensor,
        start: Tensor,
        asked_scale: Tensor | None,
        key_scale: Tensor | None,
        more_key: Tensor | None,
        more_value: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        chunks, batch, size, heads, width = value.shape
        inverse = _inverse(system).flatten(1, 2)
        states = _room_for_states(value, start)
        read, answer = (torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(2))
        u = value.new_empty(chunks, batch, heads, size, width)
        for i in range(chunks):
            torch.bmm(query[i], states[i].flatten(2), out=read[i].flatten(2))
            torch.bmm(asked[i], states[i].flatten(2), out=answer[i].flatten(2))
            x = value[i] - (answer[i] if asked_scale is None else answer[i] * asked_scale[i])
            torch.bmm(inverse[i], x.transpose(1, 2).flatten(0, 1), out=u[i].flatten(0, 1))
            torch.mul(states[i], decay[i], out=states[i + 1])
            written = u[i].transpose(1, 2)
            _write(states[i + 1], key[i], written if key_scale is None else written * key_scale[i])
            if more_key is not None and more_value is not None:
                _write(states[i + 1], more_key[i], more_value[i])
        ctx.save_for_backward(
            query, asked, key, inverse, decay, asked_scale, key_scale, more_key, more_value, states, answer, u
        )
        return u, read, states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, asked, key, inverse, decay, asked_scale, key_scale, more_key, more_value, states, answer, u = (
            ctx.saved_tensors
        )
        batch, size, heads, width = answer.shape[1:]
        query_grad, asked_grad, key_grad, decay_grad = (torch.empty_like(x) for x in (query, asked, key, decay))
        value_grad, system_grad = torch.empty_like(answer), torch.empty_like(inverse)
        key_scale_grad, more_key_grad, more_value_grad = (
            None if x is None else torch.empty_like(x) for x in (key_scale, more_key, more_value)
        )
        u_grads, read_grad, flow = grads[0], grads[1].contiguous(), grads[2].contiguous()
        for i in reversed(range(len(answer))):
            if more_key_grad is not None and more_value_grad is not None:
                _gradients_of_write(more_key[i], more_value[i], flow, more_key_grad[i], more_value_grad[i])
            u_i = u[i].transpose(1, 2)
            written_grad = torch.empty_like(answer[i])
            _gradients_of_write(
                key[i], u_i if key_scale is None else u_i * key_scale[i], flow, key_grad[i], written_grad
            )
            if key_scale is not None and key_scale_grad is not None:
                key_scale_grad[i] = (u_i * written_grad).sum(-1, keepdim=True)
                written_grad *= key_scale[i]
            u_grad = (u_grads[i] + written_grad.transpose(1, 2)).flatten(0, 1)
            x_grad = torch.bmm(inverse[i].transpose(1, 2), u_grad)
            torch.bmm(x_grad, u[i].flatten(0, 1).transpose(1, 2), out=system_grad[i])
            value_grad[i] = x_grad.view(batch, heads, size, width).transpose(1, 2)
            answer_grad = value_grad[i] if asked_scale is None else value_grad[i] * asked_scale[i]
            before = states[i].flatten(2).transpose(1, 2)
            torch.bmm(answer_grad.flatten(2), before, out=asked_grad[i])
            torch.bmm(read_grad[i].flatten(2), before, out=query_grad[i])
            decay_grad[i] = (states[i] * flow).sum_to_size(decay[i].shape)
            flow = flow * decay[i]
            _write(flow, query[i], read_grad[i])
            _write(flow, asked[i], answer_grad, sign=-1)
        return (
            query_grad,
            asked_grad.neg_(),
            key_grad,
            value_grad,
            system_grad.neg_().tril_(-1).view(-1, batch, heads, size, size),
            decay_grad,
            flow,
            None if asked_scale is None else -(value_grad * answer).sum(-1, keepdim=True),
            key_scale_grad,
            more_key_grad,
            more_value_grad,
        )


def _room_for_states(value: Tensor, start: Tensor) -> Tensor:
    """[L + 1, Z, N, R, P] with the first state in it."""
    states = value.new_empty(len(value) + 1, *start.shape)
    states[0] = start
    return states


def _write(state_ZNRP: Tensor, key_ZCN: Tensor, value_ZCRP: Tensor, sign: int = 1) -> None:
    """Add sign * key^T value to the state, in place."""
    state_ZNRP.flatten(2).baddbmm_(key_ZCN.transpose(1, 2), value_ZCRP.flatten(2), alpha=sign)


def _gradients_of_write(key: Tensor, value: Tensor, flow: Tensor, key_grad: Tensor, value_grad: Tensor) -> None:
    """Fill in the gradients of key^T value, [Z, C, N] and [Z, C, R, P], from that of the state."""
    torch.bmm(value.flatten(2), flow.flatten(2).transpose(1, 2), out=key_grad)
    torch.bmm(key, flow.flatten(2), out=value_grad.flatten(2))


def _inverse(system: Tensor) -> Tensor:
    """(I + system)^-1 for strictly lower triangular systems [..., C, C]."""
    eye = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)
    return torch.linalg.solve_triangular(system, eye.expand_as(system), upper=False, unitriangular=True)
