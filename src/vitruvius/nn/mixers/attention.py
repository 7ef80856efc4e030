"""Softmax attention with grouped queries over a pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.errors import UsageError
from vitruvius.nn.backends import Request, attend, attend_stored
from vitruvius.nn.mixers.keyvalue import KeyValueStore
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
        self.q = nn.Linear(scope.width, outward, **inward)
        self.k = nn.Linear(scope.width, grouped, **inward)
        self.v = nn.Linear(scope.width, grouped, **inward)
        self.out = nn.Linear(outward, scope.width, bias=spec.bias == "all", **factory)
        self.q_norm = None if spec.qk_norm is None else make(spec.qk_norm, self.head_width, factory)
        self.k_norm = None if spec.qk_norm is None else make(spec.qk_norm, self.head_width, factory)
        self.position = None if spec.position is None else make(spec.position, scope, factory)
        _ensure_hooks(self.position)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: KeyValueStore | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        q_BHTK, k_BGTK, v_BGTK = self._project(x_BTD)
        if self.q_norm is not None and self.k_norm is not None:
            q_BHTK, k_BGTK = self.q_norm(q_BHTK), self.k_norm(k_BGTK)
        rotate, bias = getattr(self.position, "rotate", None), getattr(self.position, "bias", None)
        if rotate is not None:
            q_BHTK, k_BGTK = rotate(q_BHTK, k_BGTK, place.positions)
        request = Request(pattern=self.pattern, scale=self.scale, place=place, bias=bias)
        if cache is None:
            out_BHTK = attend(q_BHTK, k_BGTK, v_BGTK, request)
        else:
            readable = cache.extend(k_BGTK, v_BGTK, place.positions)
            out_BHTK = attend_stored(q_BHTK, readable, request)
        return self.out(out_BHTK.transpose(1, 2).flatten(2))

    def _project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = (self.heads, self.groups, self.groups)
        parts = project(x_BTD, (self.q, self.k, self.v))
        q, k, v = (
            part.unflatten(2, (count, self.head_width)).transpose(1, 2)
            for part, count in zip(parts, heads, strict=True)
        )
        return q, k, v

    def decode_state(self, batch: int, capacity: int) -> KeyValueStore:
        """Empty keys and values for `batch` sequences of up to `capacity` tokens."""
        shapes = self.spec.cache_shapes(self.scope, capacity)
        weight = self.k.weight
        k, v = (torch.zeros(batch, *shapes[name], device=weight.device, dtype=weight.dtype) for name in ("k", "v"))
        return KeyValueStore(self.spec.stores(capacity), k, v)


def _ensure_hooks(position: nn.Module | None) -> None:
    """Raise UsageError when attention would pass over what a position module does."""
    if position is None:
        return
    name = type(position).__qualname__
    if hasattr(position, "logits"):
        what = (
            f"{name} has a `logits` hook, which is reserved for positions with a kernel of their own: there is none yet"
        )
        raise UsageError(what, where="mixer.position", fix="turn queries and keys in `rotate`, or return a `bias`")
    if not (hasattr(position, "rotate") or hasattr(position, "bias")):
        what = f"{name} has neither of the hooks that attention calls, `rotate` and `bias`: it would change nothing"
        fix = "define one of them (see vitruvius.nn.positions), or choose rope or alibi"
        raise UsageError(what, where="mixer.position", fix=fix)
