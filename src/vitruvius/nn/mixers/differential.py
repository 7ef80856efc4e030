"""Differential attention: the difference of two softmax maps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.backends import Request, attend, attend_stored
from vitruvius.nn.backends.scores import wide
from vitruvius.nn.mixers.seeing import empty_store, position_inside
from vitruvius.nn.positions.hooks import hooks_of
from vitruvius.nn.projection import project
from vitruvius.nn.registry import Factory, implements, make
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.differential import DifferentialAttention

if TYPE_CHECKING:
    from vitruvius.nn.mixers.keyvalue import KeyValueStore, Readable
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(DifferentialAttention)
class DifferentialAttentionModule(nn.Module):
    """Two attentions to the same values, the second taken off the first lambda times.

    Heads stand in the order of Hugging Face's DiffLlama: the queries of all first maps, then those of all second ones,
    and keys likewise. The values of a group are its two halves in one head of twice the width.
    """

    def __init__(self, spec: DifferentialAttention, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.heads, self.groups, self.head_width = spec.heads, spec.groups, spec.width_of_head(scope)
        self.scale = spec.scale(scope)
        self.pattern = spec.pattern()
        self.spec, self.scope = spec, scope
        outward, grouped = 2 * self.heads * self.head_width, 2 * self.groups * self.head_width
        inward = {"bias": spec.bias != "none", **factory}
        self.q = nn.Linear(scope.width, outward, **inward)
        self.k = nn.Linear(scope.width, grouped, **inward)
        self.v = nn.Linear(scope.width, grouped, **inward)
        self.out = nn.Linear(outward, scope.width, bias=spec.bias == "all", **factory)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.empty(self.head_width, **factory)) for _ in range(4)
        )
        self.head_norm = make(spec.head_norm, 2 * self.head_width, factory)
        self.position = position_inside(spec, scope, factory)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: KeyValueStore | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        q_BTE, k_BTE, v_BTE = project(x_BTD, (self.q, self.k, self.v))
        # Both maps are heads of one attention; H stands for those of both here, G for both keys of each group.
        q_BHTK = q_BTE.unflatten(2, (2 * self.heads, -1)).transpose(1, 2)
        k_BGTK = k_BTE.unflatten(2, (2 * self.groups, -1)).transpose(1, 2)
        v_BVTP = v_BTE.unflatten(2, (self.groups, -1)).transpose(1, 2)
        both_BHTP = self._attend(q_BHTK, k_BGTK, v_BVTP, x_BTD, place, cache)
        first_BHTP, second_BHTP = both_BHTP.chunk(2, dim=1)
        start = self.spec.first_lambda(self.scope.layer if place.layer is None else place.layer.index)
        share = self._lambda(start).to(first_BHTP.dtype)
        out_BTHP = self.head_norm((first_BHTP - share * second_BHTP).transpose(1, 2)) * (1 - start)
        return self.out(out_BTHP.flatten(2))

    def _lambda(self, start: float) -> Tensor:
        """exp(q1 . k1) - exp(q2 . k2) + start, a scalar in at least fp32."""
        format_ = wide(self.lambda_q1.dtype)
        q1, k1, q2, k2 = (x.to(format_) for x in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2))
        return (q1 * k1).sum().exp() - (q2 * k2).sum().exp() + start

    def _attend(
        self, q_BHTK: Tensor, k_BGTK: Tensor, v_BVTP: Tensor, x_BTD: Tensor, place: Place, cache: KeyValueStore | None
    ) -> Tensor:
        """What both maps give, those of the first map before those of the second."""
        if cache is not None:
            cache.begin()
        hooks = hooks_of(self.position)
        if hooks.rotate is not None:
            q_BHTK, k_BGTK = hooks.rotate(q_BHTK, k_BGTK, place.positions)
        if hooks.turn is not None:
            q_BHTK, k_BGTK = hooks.turn(q_BHTK, k_BGTK, x_BTD, place, cache)
        table = None if hooks.table_bias is None else hooks.table_bias()
        request = Request(pattern=self.pattern, scale=self.scale, place=place, bias=hooks.bias, table=table)
        new = {"k": k_BGTK, "v": v_BVTP}
        if hooks.decay is not None:
            decay_BHT = hooks.decay(x_BTD, place, cache)
            request = replace(request, decay=(decay_BHT, decay_BHT))
            new["decay"] = decay_BHT.unsqueeze(3)
        if cache is None:
            return attend(q_BHTK, k_BGTK, _twice(v_BVTP), request)
        readable = cache.extend(new, place.positions, self.pattern)
        if hooks.prune is not None:
            readable = hooks.prune(q_BHTK, k_BGTK, readable, request, cache)
        if request.bias is not None or request.table is not None:
            tensors = {**readable.tensors, "v": _twice(readable.v_BGSK)}
            return attend_stored(q_BHTK, replace(readable, tensors=tensors), request)
        # One map after the other, so that what the cache holds is read where it is.
        parts = [_of_map(which, q_BHTK, readable, request) for which in range(2)]
        return torch.cat([attend_stored(*part) for part in parts], dim=1)

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> KeyValueStore:
        """Empty keys and values for `batch` sequences of up to `capacity` tokens of a layer in this scope."""
        return empty_store(self.spec, scope, batch=batch, capacity=capacity, like=self.out.weight)


def _twice(v_BVTP: Tensor) -> Tensor:
    """The values for the keys of the first maps, and again for those of the second."""
    return torch.cat([v_BVTP, v_BVTP], dim=1)


def _of_map(which: int, q_BHTK: Tensor, readable: Readable, request: Request) -> tuple[Tensor, Readable, Request]:
    """The queries of the first or second maps, their keys with all values, and what is asked of them."""
    queries = q_BHTK.chunk(2, dim=1)[which]
    tensors = {
        name: tensor if name == "v" else tensor.chunk(2, dim=1)[which] for name, tensor in readable.tensors.items()
    }
    if request.decay is not None:
        decay = request.decay[0].chunk(2, dim=1)[which]
        request = replace(request, decay=(decay, decay))
    return queries, replace(readable, tensors=tensors), request
