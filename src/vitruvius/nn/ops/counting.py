"""How often each number occurs, without making the host wait for a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def occurrences(ids_P: Tensor, kinds: int) -> Tensor:
    """How often each of 0 ... kinds - 1 stands in `ids_P`, int64 [kinds].

    On a GPU `bincount` waits for the largest number, to know how long its answer is; here that is known.
    """
    if ids_P.device.type == "cpu":
        return torch.bincount(ids_P, minlength=kinds)
    return added(ids_P, kinds)


def added(ids_P: Tensor, kinds: int) -> Tensor:
    """The same by adding ones, which waits for nothing; whole numbers add up alike in any order."""
    return ids_P.new_zeros(kinds).index_add_(0, ids_P, torch.ones_like(ids_P))
