"""Which module computes which kind.

A module class takes `(spec, scope, factory)`: the component's spec, the scope it stands in, and the `device` and
`dtype` of its parameters. Norms take the width they act on in place of the scope.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from vitruvius.spec import Component, Scope

Built = TypeVar("Built", bound=type[nn.Module])

_modules: dict[type[Component], type[nn.Module]] = {}

_BUILTIN = (
    "vitruvius.nn.norms",
    "vitruvius.nn.heads",
    "vitruvius.nn.positions.tables",
    "vitruvius.nn.positions.rope",
    "vitruvius.nn.positions.alibi",
    "vitruvius.nn.mixers.attention",
    "vitruvius.nn.ffn.mlp",
    "vitruvius.nn.ffn.moe",
    "vitruvius.nn.routers.softmax",
)


class Factory(TypedDict):
    """Where and in which format parameters are made."""

    device: torch.device
    dtype: torch.dtype


def implements(*specs: type[Component]) -> Callable[[Built], Built]:
    """Decorator: this module computes these kinds."""

    def register(module: Built) -> Built:
        for spec in specs:
            _modules[spec] = module
        return module

    return register


@cache
def load_modules() -> None:
    """Import the modules of the built-in kinds; an installed package registers its own when its kinds load."""
    for name in _BUILTIN:
        import_module(name)


def module_class(spec: type[Component]) -> type[nn.Module] | None:
    """The module that computes a kind, or None for kinds that only describe (initialisations, scalings)."""
    load_modules()
    return _modules.get(spec)


def make(spec: Component, scope: Scope | int, factory: Factory) -> Any:
    """The module of a component.

    Raises NotImplementedError when a registered kind has no module: half a component is a bug of its author.
    """
    module = module_class(type(spec))
    if module is None:
        message = f"{type(spec).__qualname__} (kind {spec.kind!r}) has no module: decorate one with nn.implements"
        raise NotImplementedError(message)
    return module(spec, scope, factory)
