"""Rotary positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.ops import apply_rotary
from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.registry import Factory, implements
from vitruvius.spec.positions.rope import KEPT_TABLES, RotaryPosition

if TYPE_CHECKING:
    from vitruvius.spec import Scope
    from vitruvius.spec.node import Heads


@implements(RotaryPosition)
class RotaryPositionModule(nn.Module):
    """Turns queries and keys by angles proportional to their positions.

    Angles are computed in fp64 and the tables kept in fp32 (fp64 for fp64 models), outside the state dict and outside
    torch's buffers, so that a model made on the meta device needs no repair.
    """

    def __init__(self, spec: RotaryPosition, heads: Heads, scope: Scope, factory: Factory) -> None:
        super().__init__()
        del heads, factory
        self.spec = spec.in_context(scope.context)

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Turn queries and keys by the angles of their positions, [T] or [B, T]."""
        cos, sin = rotary_tables(self.spec, q_BHTK.shape[-1], positions, q_BHTK.dtype)
        pairing = self.spec.pairing
        return apply_rotary(q_BHTK, cos, sin, pairing), apply_rotary(k_BGTK, cos, sin, pairing)


class _Tables:
    """Cosines and sines of the last positions asked for: layers of one call, and calls of one length, share them."""

    def __init__(self, most: int = KEPT_TABLES) -> None:
        self.most = most
        self.kept: dict[tuple[object, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def get(self, key: tuple[object, ...], positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """The tables of these very positions, if kept."""
        entry = self.kept.get(key)
        if entry is None or entry[0] is not positions:
            return None
        return entry[1], entry[2]

    def put(self, key: tuple[object, ...], positions: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Keep the newest tables, forgetting the oldest."""
        self.kept.pop(key, None)
        self.kept[key] = (positions, cos, sin)
        while len(self.kept) > self.most:
            del self.kept[next(iter(self.kept))]


_tables = _Tables()


def forget_tables() -> None:
    """Give back the tables kept for the next call; who measures memory begins with this."""
    _tables.kept.clear()


@uncompiled  # a compiler's guards do not tell the keys of kept tables apart: one layer got those of another
def rotary_tables(spec: RotaryPosition, width: int, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position x frequency for heads of `width`: [T, pairs], or [B, 1, T, pairs] when rows differ.

    `spec` is that of the architecture's context (`in_context`).
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    key = (spec, width, wide)
    known = _tables.get(key, positions)
    if known is not None:
        return known
    frequencies = torch.tensor(spec.frequencies(width), dtype=torch.float64, device=positions.device)
    angles = positions.double().unsqueeze(-1) * frequencies
    if positions.dim() == 2:
        angles = angles.unsqueeze(1)
    factor = spec.attention_factor
    cos, sin = (angles.cos() * factor).to(wide), (angles.sin() * factor).to(wide)
    _tables.put(key, positions, cos, sin)
    return cos, sin
