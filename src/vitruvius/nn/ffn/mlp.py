"""Plain and gated multilayer perceptrons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from vitruvius.nn.ops import gated_activation
from vitruvius.nn.projection import project
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.ffn.mlp import Gated, GeGLU, Mlp, SwiGLU

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


def activate(x: Tensor, name: str) -> Tensor:
    """Apply an activation by the name that specs use."""
    match name:
        case "relu":
            return F.relu(x)
        case "relu2":
            return F.relu(x).square()
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "silu":
            return F.silu(x)
        case _:
            raise AssertionError(name)


@implements(Mlp)
class MlpModule(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, spec: Mlp, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.activation = spec.activation
        self.up = nn.Linear(scope.width, spec.hidden, bias=spec.bias, **factory)
        self.down = nn.Linear(spec.hidden, scope.width, bias=spec.bias, **factory)

    @shaped
    def forward(self, x_BTD: Float[Tensor, "*rows D"], place: Place | None = None) -> Float[Tensor, "*rows D"]:
        """Act on each position: [..., D] to [..., D]."""
        del place
        return self.down(activate(self.up(x_BTD), self.activation))


@implements(SwiGLU, GeGLU)
class GatedModule(nn.Module):
    """down(activation(gate(x)) * up(x))."""

    def __init__(self, spec: Gated, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.activation = spec.activation
        self.gate = nn.Linear(scope.width, spec.hidden, bias=False, **factory)
        self.up = nn.Linear(scope.width, spec.hidden, bias=False, **factory)
        self.down = nn.Linear(spec.hidden, scope.width, bias=False, **factory)

    @shaped
    def forward(self, x_BTD: Float[Tensor, "*rows D"], place: Place | None = None) -> Float[Tensor, "*rows D"]:
        """Act on each position: [..., D] to [..., D]."""
        del place
        gate_BTF, up_BTF = project(x_BTD, (self.gate, self.up))
        return self.down(gated_activation(gate_BTF, up_BTF, activation=self.activation))
