"""Modules that change between updates by something else than a gradient.

A training loop calls `after_step(model)` once before its first update and after every optimizer step. From then on
routers gather the load of their experts over all forward passes of an update, however many pieces it is computed in.
Whoever never calls it trains too: losses then read the load of one pass, and a balancing bias stays where it is.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class Updating(Protocol):
    """A module that wants to know when an update is done."""

    def after_step(self) -> None:
        """Settle the update that is done, if there was one, and begin the next."""
        ...


@runtime_checkable
class Gathering(Protocol):
    """A module that gathers something over the passes of an update, in a tensor that it replaces and never changes.

    A layer whose backward pass computes it again (`vitruvius.nn.checkpointing`) must find what the first run found.
    """

    def gathered(self) -> Any:
        """What it has gathered."""
        ...

    def gather(self, known: Any) -> None:
        """Go on from what `gathered` gave."""
        ...


@runtime_checkable
class Drawing(Protocol):
    """A module that draws other numbers in each update."""

    def begin_update(self, key: int) -> None:
        """An update begins whose draws have this key."""
        ...


def begin_update(model: nn.Module, *, seed: int, step: int) -> None:
    """Tell every module that draws noise which update is computed next; without it, all updates draw the same.

    The noise is a function of seed, step and the tokens, so nothing of it has to be kept in a checkpoint.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:4], "little")
    for module in model.modules():
        if isinstance(module, Drawing):
            module.begin_update(key)


@torch.no_grad()
def after_step(model: nn.Module) -> None:
    """Tell every module that asks for it that an update is done, or that the first one begins."""
    for module in model.modules():
        if isinstance(module, Updating):
            module.after_step()


def gathered_by(model: nn.Module) -> list[tuple[Gathering, Any]]:
    """What every module has gathered so far, to be put back by `put_back`."""
    return [(module, module.gathered()) for module in model.modules() if isinstance(module, Gathering)]


def put_back(before: list[tuple[Gathering, Any]]) -> None:
    """Let modules forget the passes since `gathered_by`: those of an update that is not applied."""
    for module, known in before:
        module.gather(known)
