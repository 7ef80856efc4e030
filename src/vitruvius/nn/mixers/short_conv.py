"""A short convolution between two gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from vitruvius.nn.mixers.linear import ShortConv, empty_recurrence
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.short_conv import ShortConvolution

if TYPE_CHECKING:
    from vitruvius.nn.mixers.recurrent import RecurrentState
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(ShortConvolution)
class ShortConvolutionModule(nn.Module):
    """out(C * conv(B * x)), with B, C and x one map of the token."""

    def __init__(self, spec: ShortConvolution, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec = spec
        biased = spec.bias == "all"
        self.in_proj = nn.Linear(scope.width, 3 * scope.width, bias=biased, **factory)
        self.conv = ShortConv(scope.width, spec.conv, factory, bias=biased, activation="none")
        self.out_proj = nn.Linear(scope.width, scope.width, bias=biased, **factory)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: RecurrentState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        if cache is not None:
            cache.begin()
        before_BTD, after_BTD, value_BTD = self.in_proj(x_BTD).chunk(3, dim=-1)
        mixed_BTD = self.conv(before_BTD * value_BTD, place, cache)
        return self.out_proj((after_BTD * mixed_BTD).to(x_BTD.dtype))

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> RecurrentState:
        """The state of `batch` sequences before their first token."""
        return empty_recurrence(self.spec, scope, batch=batch, capacity=capacity, like=self.out_proj.weight)
