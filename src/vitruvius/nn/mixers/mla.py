"""Multi-head latent attention, with keys and values made anew or attention to the latents themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.backends import Request, attend, attend_stored
from vitruvius.nn.mixers.seeing import empty_store, position_inside
from vitruvius.nn.positions.hooks import hooks_of
from vitruvius.nn.projection import project
from vitruvius.nn.registry import Factory, implements, make
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.mla import LatentAttention

if TYPE_CHECKING:
    from vitruvius.nn.mixers.keyvalue import KeyValueStore, Readable
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(LatentAttention)
class LatentAttentionModule(nn.Module):
    """Queries of each head, one latent per token, and two ways to bring them together.

    *Expanded* makes each head's keys and values out of the latents, as a whole sequence is best served. *Absorbed*
    takes the map up to the keys over to the queries and the one up to the values over to the output, so that a few new
    tokens read the cached latents as they are. Both are the same function.
    """

    def __init__(self, spec: LatentAttention, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.heads, self.rank = spec.heads, spec.kv_rank
        self.nope, self.rope, self.value = spec.nope_width, spec.rope_width, spec.value_width
        self.scale = spec.scale(scope)
        self.pattern = spec.pattern()
        self.spec, self.scope = spec, scope
        query, plain = self.heads * (self.nope + self.rope), {"bias": False, **factory}
        if spec.q_rank is None:
            self.q = nn.Linear(scope.width, query, **plain)
        else:
            self.q_down = nn.Linear(scope.width, spec.q_rank, **plain)
            self.q_norm = make(spec.norm, spec.q_rank, factory)
            self.q_up = nn.Linear(spec.q_rank, query, **plain)
        self.kv_down = nn.Linear(scope.width, self.rank + self.rope, **plain)
        self.kv_norm = make(spec.norm, self.rank, factory)
        self.kv_up = nn.Linear(self.rank, self.heads * (self.nope + self.value), **plain)
        self.out = nn.Linear(self.heads * self.value, scope.width, **plain)
        self.position = position_inside(spec, scope, factory)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: KeyValueStore | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        q_BHTK, latent_B1TL = self._project(x_BTD)
        if cache is not None:
            cache.begin()
        hooks = hooks_of(self.position)
        q_BHTK, latent_B1TL = self._turned(q_BHTK, latent_B1TL, x_BTD, place, cache)
        table = None if hooks.table_bias is None else hooks.table_bias()
        request = Request(pattern=self.pattern, scale=self.scale, place=place, bias=hooks.bias, table=table)
        new = {"latent": latent_B1TL}
        if hooks.decay is not None:
            decay_BHT = hooks.decay(x_BTD, place, cache)
            request = replace(request, decay=(decay_BHT, decay_BHT))
            new["decay"] = decay_BHT.unsqueeze(3)
        if cache is None:
            out_BHTV = attend(q_BHTK, *self._expanded(latent_B1TL), request)
        else:
            readable = cache.extend(new, place.positions, self.pattern)
            out_BHTV = self._to_stored(q_BHTK, readable, request)
        return self.out(out_BHTV.transpose(1, 2).flatten(2))

    def _project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, H, T, nope + rope], and the normalised latent with the key that is to be turned [B, 1, T, L]."""
        if self.spec.q_rank is None:
            q_BTE, down_BTL = project(x_BTD, (self.q, self.kv_down))
        else:
            q_BTR, down_BTL = project(x_BTD, (self.q_down, self.kv_down))
            q_BTE = self.q_up(self.q_norm(q_BTR))
        latent_BTC, k_BTR = down_BTL.split([self.rank, self.rope], dim=-1)
        latent_BTL = torch.cat([self.kv_norm(latent_BTC), k_BTR], dim=-1)
        return q_BTE.unflatten(2, (self.heads, -1)).transpose(1, 2), latent_BTL.unsqueeze(1)

    def _turned(
        self, q_BHTK: Tensor, latent_B1TL: Tensor, x_BTD: Tensor, place: Place, cache: KeyValueStore | None
    ) -> tuple[Tensor, Tensor]:
        """The same, with what the position turns turned."""
        hooks = hooks_of(self.position)
        if hooks.rotate is None and hooks.turn is None:
            return q_BHTK, latent_B1TL
        plain_BHTN, q_BHTR = q_BHTK.split([self.nope, self.rope], dim=-1)
        latent_B1TC, k_B1TR = latent_B1TL.split([self.rank, self.rope], dim=-1)
        if hooks.rotate is not None:
            q_BHTR, k_B1TR = hooks.rotate(q_BHTR, k_B1TR, place.positions)
        if hooks.turn is not None:
            q_BHTR, k_B1TR = hooks.turn(q_BHTR, k_B1TR, x_BTD, place, cache)
        return torch.cat([plain_BHTN, q_BHTR], dim=-1), torch.cat([latent_B1TC, k_B1TR], dim=-1)

    def _expanded(self, latent_B1SL: Tensor) -> tuple[Tensor, Tensor]:
        """Each head's keys [B, H, S, nope + rope] and values [B, H, S, value]."""
        latent_BSC, k_BSR = latent_B1SL.squeeze(1).split([self.rank, self.rope], dim=-1)
        up_BHSE = self.kv_up(latent_BSC).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k_BHSN, v_BHSV = up_BHSE.split([self.nope, self.value], dim=-1)
        shared_BHSR = k_BSR.unsqueeze(1).expand(-1, self.heads, -1, -1)
        return torch.cat([k_BHSN, shared_BHSR], dim=-1), v_BHSV

    def _to_stored(self, q_BHTK: Tensor, readable: Readable, request: Request) -> Tensor:
        """Attention to cached latents, [B, H, T, value], the way that costs less."""
        latent_B1SL = readable.tensors["latent"]
        # A map that a transform has replaced cannot be taken over.
        if type(self.kv_up) is nn.Linear and q_BHTK.shape[2] <= self.spec.absorbed_up_to:
            return self._absorbed(q_BHTK, readable, request)
        k_BHSK, v_BHSV = self._expanded(latent_B1SL)
        tensors = {**readable.tensors, "k": k_BHSK, "v": v_BHSV}
        return attend_stored(q_BHTK, replace(readable, tensors=tensors), request)

    def _absorbed(self, q_BHTK: Tensor, readable: Readable, request: Request) -> Tensor:
        """One key head for all, as wide as the latent, whose first channels are its values too."""
        latent_B1SL = readable.tensors["latent"]
        up_HEC = self.kv_up.weight.unflatten(0, (self.heads, -1))
        k_up_HNC, v_up_HVC = up_HEC.split([self.nope, self.value], dim=1)
        plain_BHTN, q_BHTR = q_BHTK.split([self.nope, self.rope], dim=-1)
        q_BHTL = torch.cat([plain_BHTN @ k_up_HNC, q_BHTR], dim=-1)
        tensors = {**readable.tensors, "k": latent_B1SL, "v": latent_B1SL[..., : self.rank]}
        out_BHTC = attend_stored(q_BHTL, replace(readable, tensors=tensors), request)
        return out_BHTC @ v_up_HVC.transpose(-1, -2)

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> KeyValueStore:
        """Room for the latents of `batch` sequences of up to `capacity` tokens."""
        return empty_store(self.spec, scope, batch=batch, capacity=capacity, like=self.out.weight)
