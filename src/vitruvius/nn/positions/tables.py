"""Positions added to the embedding: learned and sinusoidal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.errors import PositionOverflowError
from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.registry import Factory, implements
from vitruvius.spec.positions.tables import LearnedPosition, SinusoidalPosition

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(LearnedPosition)
class LearnedPositionModule(nn.Module):
    """A trained row per position; the table grows on demand up to its limit."""

    def __init__(self, spec: LearnedPosition, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.limit = spec.limit(scope)
        self.table_std = 0.02
        self.weight = nn.Parameter(torch.empty(spec.rows(scope), scope.width, **factory))

    def embed(self, x_BTD: Tensor, place: Place) -> Tensor:
        """Add each position's row; raises as `rows`."""
        return x_BTD + self.rows(place.positions, x_BTD)

    def rows(self, positions: Tensor, like: Tensor) -> Tensor:
        """The rows of positions, [T, D] or [B, T, D].

        Raises PositionOverflowError, naming limit, length and the ways out, when a position is past the limit.
        """
        del like
        self.grow(positions.shape[-1] if positions.is_meta else _reach(positions))
        return self.weight[positions]

    def grow(self, length: int) -> None:
        """Give the table at least `length` rows; new rows are drawn from the initial distribution.

        Growing replaces the parameter, so grow (or run one forward pass) before making an optimizer. A new row depends
        on its index alone, so that a table has the same rows in whatever steps it grew.
        """
        rows, width = self.weight.shape
        if length > self.limit:
            raise PositionOverflowError(
                f"a sequence of {length:,} tokens reaches past the {self.limit:,} learned positions",
                where="embedding.position",
                fix=f"use sequences of at most {self.limit:,} tokens, raise embedding.position.size to {length:,} "
                "(and train the new rows), or choose positions without a table: rope, alibi or sinusoidal",
            )
        if length <= rows:
            return
        target = min(self.limit, max(length, 2 * rows))
        first = rows // _DRAWN_TOGETHER
        drawn = [_fresh_rows(block, width) for block in range(first, -(-target // _DRAWN_TOGETHER))]
        offset = first * _DRAWN_TOGETHER
        fresh = torch.cat(drawn)[rows - offset : target - offset] * self.table_std
        grown = torch.cat([self.weight.detach(), fresh.to(self.weight)])
        self.weight = nn.Parameter(grown, requires_grad=self.weight.requires_grad)


@uncompiled  # it asks for a number: a compiler would break off there, and say so to whoever trains
def _reach(positions: Tensor) -> int:
    return int(positions.max()) + 1


_DRAWN_TOGETHER = 64


def _fresh_rows(block: int, width: int) -> Tensor:
    """Standard normal rows 64 * block, 64 * block + 1, ... of a table that grows."""
    return torch.randn(_DRAWN_TOGETHER, width, generator=torch.Generator().manual_seed(block))


@implements(SinusoidalPosition)
class SinusoidalPositionModule(nn.Module):
    """Sines on the first half of the channels, cosines on the second, of geometric wavelengths."""

    def __init__(self, spec: SinusoidalPosition, scope: Scope, factory: Factory) -> None:
        super().__init__()
        del scope, factory
        self.base = spec.base

    def embed(self, x_BTD: Tensor, place: Place) -> Tensor:
        """Add the position's vector."""
        return x_BTD + self.rows(place.positions, x_BTD)

    def rows(self, positions: Tensor, like: Tensor) -> Tensor:
        """The vectors of positions, [T, D] or [B, T, D], computed in fp64 and rounded once to the dtype of `like`."""
        width = like.shape[-1]
        half = (width + 1) // 2
        exponents = torch.arange(half, dtype=torch.float64, device=positions.device) / half
        angles = positions.double().unsqueeze(-1) * self.base**-exponents
        table = torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :width]
        return table.to(like.dtype)
