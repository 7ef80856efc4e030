"""Gated linear attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.mixers.linear import GatedNorm, empty_recurrence, recur
from vitruvius.nn.projection import project
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.gla import GatedLinearAttention

if TYPE_CHECKING:
    from vitruvius.nn.mixers.recurrent import RecurrentState
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(GatedLinearAttention)
class GatedLinearAttentionModule(nn.Module):
    """Queries, keys and values, a low-rank map to the decays, a gated norm per head, the map back."""

    def __init__(self, spec: GatedLinearAttention, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec = spec
        self.key_width, self.value_width = spec.key_width(scope), spec.width_of_value(scope)
        keys, values = spec.heads * self.key_width, spec.heads * self.value_width
        bare = {"bias": False, **factory}
        self.q, self.k = (nn.Linear(scope.width, keys, **bare) for _ in range(2))
        self.v, self.gate = (nn.Linear(scope.width, values, **bare) for _ in range(2))
        self.decay_down = nn.Linear(scope.width, spec.rank, **bare)
        self.decay_up = nn.Linear(spec.rank, keys, **factory)
        self.norm = GatedNorm(self.value_width, factory, eps=spec.norm_eps)
        self.out = nn.Linear(values, scope.width, **bare)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: RecurrentState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        if cache is not None:
            cache.begin()
        q, k, v, z_BTE, decay = project(x_BTD, (self.q, self.k, self.v, self.gate, self.decay_down))
        log_decay = F.logsigmoid(self.decay_up(decay).to(wide(decay.dtype))) / self.spec.slowness
        q_BTHN, k_BTHN, log_decay = (part.unflatten(2, (-1, self.key_width)) for part in (q, k, log_decay))
        v_BTHP, z_BTHP = (part.unflatten(2, (-1, self.value_width)) for part in (v, z_BTE))
        q_BTHN = q_BTHN * self.key_width**-0.5
        out_BTHP = recur(q_BTHN, k_BTHN, v_BTHP, place, cache, log_decay=log_decay)
        return self.out(self.norm(out_BTHP, z_BTHP).flatten(2))

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> RecurrentState:
        """The state of `batch` sequences before their first token."""
        return empty_recurrence(self.spec, scope, batch=batch, capacity=capacity, like=self.out.weight)
