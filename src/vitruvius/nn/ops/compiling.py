"""What a compiler should leave alone, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """Run a function as it is inside a compiled model: loops with little to fuse and much to unroll."""
    return cast("Function", torch.compiler.disable(function))


MOST_VERSIONS = 64
"""Versions of one function that compiled code is kept of: layers of different kinds, lengths and modes have their own.

torch keeps 8, and past them runs that function uncompiled: a dense layer and a mixture that are trained and validated
have more.
"""


def compiled(function: Function, **options: Any) -> Function:
    """Through torch.compile, with its options: a slow first call, faster ones after."""
    prepare_to_compile()
    return cast("Function", torch.compile(function, **options))


def prepare_to_compile() -> None:
    """Set what torch.compile needs in this process to compute our models as they are, whoever calls it."""
    keep_no_traces()
    from torch import _dynamo

    limits = _dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MOST_VERSIONS)


def keep_no_traces() -> None:
    """Switch torch's cache of traces off for this process; that of generated code, which saves most time, stays.

    torch 2.13 keeps what it has traced on the disk, and with it, as they lay in memory, the sizes of views of varying
    lengths: the next process takes them for sizes and breaks off at its first step (see pytorch/pytorch#174299).
    """
    from torch._functorch import config

    config.enable_autograd_cache = False
