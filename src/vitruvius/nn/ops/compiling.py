"""What a compiler should leave alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """Run a function as it is inside a compiled model: loops with little to fuse and much to unroll."""
    return cast("Function", torch.compiler.disable(function))
