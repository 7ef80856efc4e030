"""Shapes on signatures, checked when asked for.

    @shaped
    def forward(self, x: Float[Tensor, "B T D"], place: Place) -> Float[Tensor, "B T D"]: ...

The annotations are jaxtyping's. One letter means one size within a call, so that a [B, T, D] in and a [B, T, D] out
must agree. Checking costs time and reads sizes, so it is off unless `VITRUVIUS_SHAPES=check`; the tests turn it on.
"""

from __future__ import annotations

import functools
import inspect
import os
from typing import TYPE_CHECKING, Any, TypeVar

from jaxtyping import AbstractArray, Float, Int, jaxtyped

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Float", "Int", "shaped"]

Function = TypeVar("Function", bound="Callable[..., Any]")

CHECKED = os.environ.get("VITRUVIUS_SHAPES") == "check"


def shaped(function: Function) -> Function:
    """Check the jaxtyping annotations of a function on each call, when checking is on; else return it as it is.

    A wrong shape or dtype raises TypeError with the argument, its shape and what was due: a bug of ours, not bad input.
    """
    if not CHECKED:
        return function
    signature = inspect.signature(function)
    names = [name for name, text in function.__annotations__.items() if "Float[" in text or "Int[" in text]

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        with jaxtyped("context"):
            for name in names:
                if name != "return" and bound.arguments.get(name) is not None:
                    _expect(function, name, bound.arguments[name])
            result = function(*args, **kwargs)
            if "return" in names:
                _expect(function, "return", result)
            return result

    return checked  # pyright: ignore[reportReturnType]


def _expect(function: Callable[..., Any], name: str, value: Any) -> None:
    kind = _kind(function, name)
    if not isinstance(value, kind):
        shape = getattr(value, "shape", None)
        found = f"{tuple(shape)} of {value.dtype}" if shape is not None else type(value).__name__
        raise TypeError(f"{function.__qualname__}: {name} is {found}, and {function.__annotations__[name]} is due")


@functools.cache
def _kind(function: Callable[..., Any], name: str) -> type[AbstractArray]:
    text = function.__annotations__[name].removesuffix(" | None")
    return eval(text, function.__globals__)  # noqa: S307 (our own annotations)
