"""One layer: mixer, cross-attention and feed-forward, each with its norm and its residual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vitruvius.nn.registry import Factory, make
from vitruvius.nn.shapes import Float, shaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.nn.cache import LayerState
    from vitruvius.nn.place import Place
    from vitruvius.spec import Layer


class LayerModule(nn.Module):
    """A layer of a stack; `norm_place` says where the norms stand, `order` who reads whom."""

    mixer: Any
    cross: Any
    ffn: Any

    def __init__(self, layer: Layer, factory: Factory) -> None:
        super().__init__()
        self.norm_place, self.order = layer.norm_place, layer.order
        self.branch_scale = layer.branch_scale
        self.sublayers = tuple(name for name, _ in layer.sublayers())
        for name in ("mixer", "cross", "ffn"):
            component = getattr(layer, name)
            present = component is not None
            has_norm = present and layer.has_norm(name)
            sandwich = present and layer.norm_place == "sandwich"
            self.add_module(f"{name}_norm", make(layer.norm, layer.scope.width, factory) if has_norm else None)
            self.add_module(name, make(component, layer.scope, factory) if present else None)
            self.add_module(f"{name}_out_norm", make(layer.norm, layer.scope.width, factory) if sandwich else None)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, state: LayerState | None = None
    ) -> Float[Tensor, "B T D"]:
        """The residual stream after this layer, [B, T, D]."""
        if self.order != "in-turn" and len(self.sublayers) > 1:
            return self._parallel(x_BTD, place, state)
        for name in self.sublayers:
            x_BTD = self._add(x_BTD, name, self._sublayer(name, place, state))
        return x_BTD

    def _sublayer(self, name: str, place: Place, state: LayerState | None) -> Callable[[Tensor], Tensor]:
        module = getattr(self, name)
        if name == "ffn":
            return lambda h_BTD: module(h_BTD, place)
        own = None if state is None else getattr(state, name)
        return lambda h_BTD: module(h_BTD, place, own)

    def _add(self, x_BTD: Tensor, name: str, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        norm, out_norm = getattr(self, f"{name}_norm"), getattr(self, f"{name}_out_norm")
        if norm is None:
            return x_BTD + self._scaled(sublayer(x_BTD))
        if self.norm_place == "post":
            return norm(x_BTD + self._scaled(sublayer(x_BTD)))
        if self.norm_place == "output":
            return x_BTD + self._scaled(norm(sublayer(x_BTD)))
        fork = getattr(norm, "fork", None)
        x_BTD, h_BTD = (x_BTD, norm(x_BTD)) if fork is None else fork(x_BTD)
        y_BTD = sublayer(h_BTD)
        return x_BTD + self._scaled(y_BTD if out_norm is None else out_norm(y_BTD))

    def _parallel(self, x_BTD: Tensor, place: Place, state: LayerState | None) -> Tensor:
        """Every sublayer reads the stream as it came in; one without a norm of its own reads the first one's."""
        h_BTD = total_BTD = x_BTD
        for name in self.sublayers:
            norm = getattr(self, f"{name}_norm")
            h_BTD = h_BTD if norm is None else norm(x_BTD)
            total_BTD = total_BTD + self._scaled(self._sublayer(name, place, state)(h_BTD))
        return total_BTD

    def _scaled(self, y_BTD: Tensor) -> Tensor:
        return y_BTD if self.branch_scale == 1.0 else y_BTD * self.branch_scale
