"""Which module computes which kind.

    mixer, cross, ffn, head       (spec, scope, factory)
    position on the embedding     (spec, scope, factory)
    position inside attention     (spec, heads, scope, factory)
    norm                          (spec, width, factory)
    router                        (spec, moe, width, factory)

`spec` is the component's own spec, `scope` what it may know about the architecture around it, `width` that of the
vectors it acts on, `moe` the mixture that a router chooses for, and `factory` the device and dtype of parameters.
Parameters have the names and shapes that the spec's `tensors` states (`tensors_of_width` of a norm, `tensors_for` of a
router).

A router's forward takes `(x_BTD, place)` and gives a `Routing` (`vitruvius.nn.routers.base`): ids and weights of each
token's experts, both [N, top_k] for N = B * T. When the place has signals, it takes the ids from `signals.replay` and
appends them to `signals.routing`, where those are given.

What a component's `buffers` names is a persistent buffer of its module. A module with a method `after_step` is told
when an update is done (`vitruvius.nn.updates`).

Installed packages name their modules under the entry points `vitruvius.modules`, next to `vitruvius.components` for the
kinds, so that reading and sizing a spec never imports torch.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from torch import nn

from vitruvius.spec.node import load_installed

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from vitruvius.spec import Component, Scope
    from vitruvius.spec.ffn.moe import Moe
    from vitruvius.spec.node import Heads, Position

Built = TypeVar("Built", bound=type[nn.Module])

_modules: dict[type[Component], type[nn.Module]] = {}

_BUILTIN = (
    "vitruvius.nn.norms",
    "vitruvius.nn.heads",
    "vitruvius.nn.cross",
    "vitruvius.nn.positions.tables",
    "vitruvius.nn.positions.rope",
    "vitruvius.nn.positions.alibi",
    "vitruvius.nn.positions.t5",
    "vitruvius.nn.positions.gated",
    "vitruvius.nn.positions.fox",
    "vitruvius.nn.positions.cumulative_rope",
    "vitruvius.nn.positions.cope",
    "vitruvius.nn.positions.path",
    "vitruvius.nn.mixers.attention",
    "vitruvius.nn.mixers.differential",
    "vitruvius.nn.mixers.mla",
    "vitruvius.nn.mixers.mamba",
    "vitruvius.nn.mixers.mamba2",
    "vitruvius.nn.mixers.deltanet",
    "vitruvius.nn.mixers.kda",
    "vitruvius.nn.mixers.gla",
    "vitruvius.nn.mixers.retnet",
    "vitruvius.nn.mixers.rwkv7",
    "vitruvius.nn.mixers.short_conv",
    "vitruvius.nn.ffn.mlp",
    "vitruvius.nn.ffn.moe",
    "vitruvius.nn.routers.expert_choice",
    "vitruvius.nn.routers.hashed",
    "vitruvius.nn.routers.sigmoid",
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
    """Import the modules of the built-in kinds, then those that installed packages name under `vitruvius.modules`.

    Raises UsageError when an installed package cannot be loaded.
    """
    for name in _BUILTIN:
        import_module(name)
    load_installed("vitruvius.modules")


def module_class(spec: type[Component]) -> type[nn.Module] | None:
    """The module that computes a kind, or None for kinds that only describe (initialisations, scalings)."""
    load_modules()
    return _modules.get(spec)


def make(spec: Component, scope: Scope | int, factory: Factory) -> Any:
    """The module of a component in a scope, or of a norm over vectors of a width.

    Raises NotImplementedError when a registered kind has no module: half a component is a bug of its author.
    """
    return _needed(spec)(spec, scope, factory)


def make_position(spec: Position, heads: Heads, scope: Scope, factory: Factory) -> Any:
    """The module of a position inside attention with these heads; raises as `make` does."""
    return _needed(spec)(spec, heads, scope, factory)


def make_router(moe: Moe, width: int, factory: Factory) -> Any:
    """The module of a mixture's router, for tokens of `width`; raises as `make` does."""
    return _needed(moe.router)(moe.router, moe, width, factory)


def _needed(spec: Component) -> type[nn.Module]:
    module = module_class(type(spec))
    if module is None:
        message = f"{type(spec).__qualname__} (kind {spec.kind!r}) has no module: decorate one with nn.implements"
        raise NotImplementedError(message)
    return module
