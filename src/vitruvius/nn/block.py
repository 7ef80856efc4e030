"""One layer: mixer and feed-forward, each with its norm and its residual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from vitruvius.nn.registry import Factory, make
from vitruvius.nn.shapes import Float, shaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.nn.cache import LayerCache
    from vitruvius.nn.place import Place
    from vitruvius.spec import Layer, Scope


class LayerModule(nn.Module):
    """A layer of the stack; `norm_place` says where the norms stand."""

    def __init__(self, layer: Layer, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.norm_place = layer.norm_place
        self.mixer_norm = self._norm(layer, scope, factory) if layer.mixer is not None else None
        self.mixer = make(layer.mixer, scope, factory) if layer.mixer is not None else None
        self.mixer_out_norm = self._out_norm(layer, scope, factory) if layer.mixer is not None else None
        self.ffn_norm = self._norm(layer, scope, factory) if layer.ffn is not None else None
        self.ffn = make(layer.ffn, scope, factory) if layer.ffn is not None else None
        self.ffn_out_norm = self._out_norm(layer, scope, factory) if layer.ffn is not None else None

    @staticmethod
    def _norm(layer: Layer, scope: Scope, factory: Factory) -> nn.Module | None:
        return None if layer.norm_place == "none" else make(layer.norm, scope.width, factory)

    @staticmethod
    def _out_norm(layer: Layer, scope: Scope, factory: Factory) -> nn.Module | None:
        return make(layer.norm, scope.width, factory) if layer.norm_place == "sandwich" else None

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        """The residual stream after this layer, [B, T, D]."""
        mixer, ffn = self.mixer, self.ffn
        if mixer is not None:
            x_BTD = self._add(x_BTD, self.mixer_norm, self.mixer_out_norm, lambda h: mixer(h, place, cache))
        if ffn is not None:
            x_BTD = self._add(x_BTD, self.ffn_norm, self.ffn_out_norm, lambda h: ffn(h, place))
        return x_BTD

    def _add(
        self, x_BTD: Tensor, norm: nn.Module | None, out_norm: nn.Module | None, sublayer: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if norm is None:
            return x_BTD + sublayer(x_BTD)
        if self.norm_place == "post":
            return norm(x_BTD + sublayer(x_BTD))
        if self.norm_place == "output":
            return x_BTD + norm(sublayer(x_BTD))
        fork = getattr(norm, "fork", None)
        x_BTD, h_BTD = (x_BTD, norm(x_BTD)) if fork is None else fork(x_BTD)
        y_BTD = sublayer(h_BTD)
        return x_BTD + (y_BTD if out_norm is None else out_norm(y_BTD))
