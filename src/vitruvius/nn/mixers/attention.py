"""Softmax attention with grouped queries over a pattern."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from vitruvius.nn.backends import Request, attend, attend_stored
from vitruvius.nn.mixers.keyvalue import KeyValueStore
from vitruvius.nn.mixers.seeing import empty_store, position_inside
from vitruvius.nn.positions.hooks import Hooks, hooks_of
from vitruvius.nn.projection import project
from vitruvius.nn.registry import Factory, implements, make
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.attention import Attention

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(Attention)
class AttentionModule(nn.Module):
    """Queries, keys and values, the position hooks between, and the backend that the pattern calls for."""

    def __init__(self, spec: Attention, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.heads, self.groups, self.head_width = spec.heads, spec.groups, spec.width_of_head(scope)
        self.scale = spec.scale(scope)
        self.pattern = spec.pattern()
        self.spec, self.scope = spec, scope
        outward, grouped = self.heads * self.head_width, self.groups * self.head_width
        inward = {"bias": spec.bias != "none", **factory}
        reads_own, normed = spec.kv_from is None, spec.qk_norm
        self.q = nn.Linear(scope.width, outward, **inward)
        self.k = nn.Linear(scope.width, grouped, **inward) if reads_own else None
        self.v = nn.Linear(scope.width, grouped, **inward) if reads_own else None
        gates = {"headwise": self.heads, "elementwise": outward}
        self.gate = None if spec.gate == "none" else nn.Linear(scope.width, gates[spec.gate], **inward)
        self.out = nn.Linear(outward, scope.width, bias=spec.bias == "all", **factory)
        self.q_norm = None if normed is None else make(normed, self.head_width, factory)
        self.k_norm = make(normed, self.head_width, factory) if normed is not None and reads_own else None
        self.position = position_inside(spec, scope, factory)
        self.sinks = nn.Parameter(torch.empty(self.heads, **factory)) if spec.sinks == "learned" else None
        self.value_mix = None if spec.value_from is None else nn.Parameter(torch.empty(2, **factory))

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: KeyValueStore | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        maps = [m for m in (self.q, self.k, self.v, self.gate) if m is not None]
        q_BTE, *rest = project(x_BTD, maps)
        q_BHTK = self._split(q_BTE)
        if self.q_norm is not None:
            q_BHTK = self.q_norm(q_BHTK)
        if self.spec.kv_from is None:
            k_BGTK, v_BGTK = self._split(rest[0]), self._mixed(self._split(rest[1]), place)
            if self.k_norm is not None:
                k_BGTK = self.k_norm(k_BGTK)
            out_BHTK = self._to_own(q_BHTK, k_BGTK, v_BGTK, x_BTD, place, cache)
        else:
            out_BHTK = self._to_borrowed(q_BHTK, place)
        out_BTHK = out_BHTK.transpose(1, 2)
        if self.gate is not None:
            out_BTHK = out_BTHK * rest[-1].sigmoid().unflatten(2, (self.heads, -1))
        return self.out(out_BTHK.flatten(2))

    def _to_own(
        self, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, x_BTD: Tensor, place: Place, cache: KeyValueStore | None
    ) -> Tensor:
        """Attention to this layer's keys, those in the cache included."""
        if cache is not None:
            cache.begin()
        hooks = hooks_of(self.position)
        if hooks.rotate is not None:
            q_BHTK, k_BGTK = hooks.rotate(q_BHTK, k_BGTK, place.positions)
        if hooks.turn is not None:
            q_BHTK, k_BGTK = hooks.turn(q_BHTK, k_BGTK, x_BTD, place, cache)
        self._lend(k_BGTK, v_BGTK, place, cache)
        request = self._request(place, hooks)
        if hooks.attend is not None:
            return hooks.attend(q_BHTK, k_BGTK, v_BGTK, x_BTD, request, cache)
        new = {"k": k_BGTK, "v": v_BGTK}
        if hooks.decay is not None:
            decay_BHT = hooks.decay(x_BTD, place, cache)
            request = replace(request, decay=(decay_BHT, decay_BHT))
            new["decay"] = decay_BHT.unsqueeze(3)
        if cache is None:
            return attend(q_BHTK, k_BGTK, v_BGTK, request)
        readable = cache.extend(new, place.positions, self.pattern)
        if hooks.prune is not None:
            readable = hooks.prune(q_BHTK, k_BGTK, readable, request, cache)
        return attend_stored(q_BHTK, readable, request)

    def _to_borrowed(self, q_BHTK: Tensor, place: Place) -> Tensor:
        """Attention to the keys that an earlier layer left, itself or in its cache."""
        hooks = hooks_of(self.position)
        if hooks.rotate is not None:
            q_BHTK, _ = hooks.rotate(q_BHTK, q_BHTK[:, :1], place.positions)
        lent = place.passed.keys[_lender(place, "keys")]
        if isinstance(lent, KeyValueStore):
            return attend_stored(q_BHTK, lent.read(place.positions, self.pattern), self._request(place, hooks))
        k_BGTK, v_BGTK = lent
        return attend(q_BHTK, k_BGTK, v_BGTK, self._request(place, hooks))

    def _request(self, place: Place, hooks: Hooks) -> Request:
        off_by_one = self.spec.sinks == "off-by-one"
        return Request(
            pattern=self.pattern,
            scale=self.scale,
            place=place,
            softcap=self.spec.logit_cap,
            bias=hooks.bias,
            table=None if hooks.table_bias is None else hooks.table_bias(),
            sink_H=self.out.weight.new_zeros(self.heads) if off_by_one else self.sinks,
            prefix_B=place.prefix if self.spec.prefix == "open" else None,
        )

    def _mixed(self, v_BGTK: Tensor, place: Place) -> Tensor:
        """The values, with those of an earlier layer where the spec says so (Zhou et al., 2024)."""
        if self.value_mix is None:
            return v_BGTK
        own, other = self.value_mix
        return own * v_BGTK + other * place.passed.values[_lender(place, "values")]

    def _lend(self, k_BGTK: Tensor, v_BGTK: Tensor, place: Place, cache: KeyValueStore | None) -> None:
        """Leave for later layers what they read of this one, and nothing else: it would take memory until the end."""
        if place.layer is None:
            return
        if "keys" in place.layer.lends:
            place.passed.keys[place.layer.index] = (k_BGTK, v_BGTK) if cache is None else cache
        if "values" in place.layer.lends:
            place.passed.values[place.layer.index] = v_BGTK

    def _split(self, x_BTE: Tensor) -> Tensor:
        """Heads apart, [B, H, T, K]."""
        return x_BTE.unflatten(2, (-1, self.head_width)).transpose(1, 2)

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> KeyValueStore:
        """Empty keys and values for `batch` sequences of up to `capacity` tokens of a layer in this scope."""
        return empty_store(self.spec, scope, batch=batch, capacity=capacity, like=self.out.weight)


def _lender(place: Place, what: Literal["keys", "values"]) -> int:
    """The layer whose keys or values the one that is computing reads; the model always says which."""
    assert place.layer is not None
    return dict(place.layer.loans())[what]
