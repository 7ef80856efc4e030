"""Gradient checkpointing policies: which layers of a stack are computed again in the backward pass."""

from __future__ import annotations

from typing import Literal, get_args

Checkpointing = Literal["none", "layers", "layers/2", "layers/3", "layers/4"]
"""`layers`: of each layer only the stream that it reads is kept, and what its backward pass needs is computed again.
`layers/N`: that for the first of every N layers of a stack (as selective checkpointing by layer in torchtitan)."""

POLICIES: tuple[Checkpointing, ...] = get_args(Checkpointing)
_EVERY: dict[Checkpointing, int] = {"layers": 1, "layers/2": 2, "layers/3": 3, "layers/4": 4}


def is_again(policy: Checkpointing, index: int) -> bool:
    """Whether layer `index` of its stack, counted from 0, is computed again."""
    return policy != "none" and index % _EVERY[policy] == 0


def share_again(policy: Checkpointing, *stacks: int) -> float:
    """Share of all layers that are computed again, of stacks with so many layers."""
    return sum(is_again(policy, index) for layers in stacks for index in range(layers)) / max(1, sum(stacks))
