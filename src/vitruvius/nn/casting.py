"""Weights in another number format for a while: what autocast would make of them, once and everywhere alike.

A module reads its parameters as copies in the other format, made by a cast that gradients pass. They arrive at the
parameters in the parameters' own format: fp32 weights under an optimizer of anybody's are then the masters of bf16
weights, as in a run of ours (docs/adr/0006-low-precision-weights-with-masters.md), operation by operation.

The parameters stay where they are: `parameters()`, `state_dict()` and optimizers see nothing of the copies.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias, final

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    import torch
    from torch import Tensor, nn

_Copies: TypeAlias = "tuple[tuple[nn.Module, str, Tensor], ...]"
_IN_EFFECT: ContextVar[_Copies] = ContextVar("weights in another format", default=())


def cast(module: nn.Module, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Within it the module and its parts read their floating-point parameters as copies in `dtype`.

    A parameter that several parts share is cast once. Backward passes may come later, outside of it. Not for threads
    that use the module at the same time.
    """
    copies: dict[int, Tensor] = {}
    found: list[tuple[nn.Module, str, Tensor]] = []
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.is_floating_point():
                found.append((part, name, copies.setdefault(id(parameter), parameter.to(dtype))))
    return _Shown(tuple(found))


def recomputing() -> dict[str, Any]:
    """Arguments for torch's `checkpoint`: what is computed again must read the copies that the first pass read."""
    copies = _IN_EFFECT.get()
    return {"context_fn": lambda: (contextlib.nullcontext(), _Shown(copies))} if copies else {}


@final
class _Shown:
    """Copies, found before the parameters of the same names: attributes of an object come before `__getattr__`."""

    def __init__(self, copies: _Copies) -> None:
        self._copies = copies

    def __enter__(self) -> None:
        self._before = _IN_EFFECT.set(self._copies)
        for part, name, copy in self._copies:
            part.__dict__[name] = copy

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        for part, name, _ in self._copies:
            part.__dict__.pop(name, None)
        _IN_EFFECT.reset(self._before)
        for part, name, copy in _IN_EFFECT.get():  # those of whoever this was inside of
            part.__dict__[name] = copy
