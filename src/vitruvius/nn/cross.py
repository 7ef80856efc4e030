"""Cross-attention: queries from the decoder, keys and values from the encoder's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.errors import UsageError
from vitruvius.nn.backends import Request, attend_stored
from vitruvius.nn.mixers.keyvalue import Readable
from vitruvius.nn.mixers.recurrent import empty_state
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.patterns import everything
from vitruvius.spec.cross import CrossAttention

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.nn.cache import Step
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the encoder made of the source texts."""

    h_BSD: Tensor
    """The encoder's output; a batch of one serves every row."""
    lengths: tuple[int, ...] | None = None
    """Real tokens of each row, the others being padding on the right; None when all are."""

    def mask(self) -> Tensor | None:
        """[B, 1, 1, S], True where a source token is real; None when all are."""
        if self.lengths is None:
            return None
        lengths_B1 = torch.tensor(self.lengths, device=self.h_BSD.device).unsqueeze(1)
        return (torch.arange(self.h_BSD.shape[1], device=self.h_BSD.device) < lengths_B1)[:, None, None, :]


class CrossStore:
    """Keys and values of the sources of some rows, [B, G, S, K], written when a sequence starts."""

    def __init__(self, k_BGSK: Tensor, v_BGSK: Tensor) -> None:
        self.k, self.v = k_BGSK, v_BGSK
        self.lengths = [0] * k_BGSK.shape[0]
        self.step: Step

    def tensors(self) -> Iterator[Tensor]:
        """Everything that takes memory."""
        yield from (self.k, self.v)

    def take(self, k_BGSK: Tensor, v_BGSK: Tensor, lengths: tuple[int, ...] | None) -> None:
        """Keep the keys and values of the sources of the rows that start a sequence in this step."""
        length = k_BGSK.shape[2]
        if length > self.k.shape[2]:
            what = f"the cache holds sources of {self.k.shape[2]:,} tokens and one of {length:,} came"
            raise UsageError(what, fix=f"allocate it with source_capacity={length}, or use a shorter source")
        for row, start in enumerate(self.step.starts):
            if start == 0:
                of = row if k_BGSK.shape[0] > 1 else 0
                self.k[row, :, :length], self.v[row, :, :length] = k_BGSK[of], v_BGSK[of]
                self.lengths[row] = length if lengths is None else lengths[row if len(lengths) > 1 else 0]

    def readable(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and the mask [B, 1, 1, S] of what is kept; no mask when all rows are as long."""
        longest = max(self.lengths)
        k, v = self.k[:, :, :longest], self.v[:, :, :longest]
        if min(self.lengths) == longest:
            return k, v, None
        lengths_B1 = torch.tensor(self.lengths, device=k.device).unsqueeze(1)
        return k, v, (torch.arange(longest, device=k.device) < lengths_B1)[:, None, None, :]


@implements(CrossAttention)
class CrossAttentionModule(nn.Module):
    """Each position attends to the whole source of its row."""

    def __init__(self, spec: CrossAttention, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec = spec
        self.groups, self.head_width, self.scale = spec.groups, spec.width_of_head(scope), spec.scale(scope)
        outward, grouped = spec.heads * self.head_width, spec.groups * self.head_width
        biased = spec.bias != "none"
        self.q = nn.Linear(scope.width, outward, bias=biased, **factory)
        self.k = nn.Linear(scope.width, grouped, bias=biased, **factory)
        self.v = nn.Linear(scope.width, grouped, bias=biased, **factory)
        self.out = nn.Linear(outward, scope.width, bias=spec.bias == "all", **factory)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, store: CrossStore | None = None
    ) -> Float[Tensor, "B T D"]:
        """What each position reads from its source, [B, T, D]."""
        q_BHTK = self._heads(self.q(x_BTD))
        if place.source is not None:
            k_BGSK, v_BGSK = self._heads(self.k(place.source.h_BSD)), self._heads(self.v(place.source.h_BSD))
            mask = place.source.mask()
            if store is not None:
                store.take(k_BGSK, v_BGSK, place.source.lengths)
        if store is not None:
            k_BGSK, v_BGSK, mask = store.readable()
        batch = q_BHTK.shape[0]
        k_BGSK, v_BGSK = (x.expand(batch, -1, -1, -1) for x in (k_BGSK, v_BGSK))
        positions = torch.arange(k_BGSK.shape[2], device=k_BGSK.device)
        readable = Readable(tensors={"k": k_BGSK, "v": v_BGSK}, positions=positions, seen=mask)
        out_BHTK = attend_stored(q_BHTK, readable, Request(pattern=everything, scale=self.scale, place=place))
        return self.out(out_BHTK.transpose(1, 2).flatten(2))

    def _heads(self, x_BTE: Tensor) -> Tensor:
        return x_BTE.unflatten(2, (-1, self.head_width)).transpose(1, 2)

    def decode_state(self, batch: int, source: int, scope: Scope) -> CrossStore:
        """Room for the keys and values of `batch` sources of up to `source` tokens."""
        weight = self.k.weight
        made = empty_state(self.spec.state_tensors(scope, source), batch, device=weight.device, dtype=weight.dtype)
        return CrossStore(made["k"], made["v"])
