"""Which of the hooks of the Position contract a module has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Hook = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The hooks that attention calls; None where a module has none. `vitruvius.nn.positions` says what each does."""

    rotate: Hook | None = None
    turn: Hook | None = None
    bias: Hook | None = None
    table_bias: Hook | None = None
    decay: Hook | None = None
    prune: Hook | None = None
    attend: Hook | None = None


_NAMES = tuple(field.name for field in fields(Hooks))


def hooks_of(position: nn.Module | None) -> Hooks:
    """The hooks of a position module."""
    return Hooks(**{name: getattr(position, name, None) for name in _NAMES})


def ensure_hooks(position: nn.Module | None) -> None:
    """Raise UsageError when attention would pass over what a position module does."""
    if position is None or any(hasattr(position, name) for name in _NAMES):
        return
    what = f"{type(position).__qualname__} has none of the hooks that attention calls: it would change nothing"
    fix = f"define one of {', '.join(_NAMES)} (see vitruvius.nn.positions), or choose rope or alibi"
    raise UsageError(what, where="mixer.position", fix=fix)
