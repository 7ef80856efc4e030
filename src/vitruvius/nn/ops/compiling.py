"""What a compiler should leave alone, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """Run a function as it is inside a compiled model: loops with little to fuse and much to unroll."""
    return cast("Function", torch.compiler.disable(function))


def compiled(function: Function) -> Function:
    """Through torch.compile: a slow first call, faster ones after.

    torch 2.13 keeps what it has traced on the disk, and with it, as they lay in memory, the sizes of views of varying
    lengths: the next process takes them for sizes and breaks off at its first step (see pytorch/pytorch#174299). This
    switches that cache off for the process; that of generated code, which saves most of the time, stays.
    """
    from torch._functorch import config

    config.enable_autograd_cache = False
    return cast("Function", torch.compile(function))
