"""Draws that are functions of what they are for, so that pieces, processes and a second run draw the same."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
STEP = 0x9E3779B9
"""2^32 over the golden ratio: multiples of it lie far apart."""
_BITS = 24


def mixed(word: Tensor) -> Tensor:
    """The last 32 bits, mixed so that each depends on all: the finaliser of MurmurHash3 (Appleby, 2011)."""
    word = word & WORD
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & WORD
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & WORD
    return word ^ (word >> 16)


def keys_of_places(tokens_BT: Tensor, key: Tensor | int) -> Tensor:
    """A key for each place, int64 [N]: a function of all ids of its row, of where in it that is, and of `key`.

    It does not depend on the rows beside it: a batch has the same keys however it is cut into pieces.
    """
    place_T = mixed((torch.arange(tokens_BT.shape[1], device=tokens_BT.device) + 1) * STEP)
    row_B1 = mixed(tokens_BT.to(torch.int64) * STEP + place_T).sum(dim=1, keepdim=True)
    return mixed(mixed(row_B1 + key * STEP) + place_T).flatten()


def normal(key_N: Tensor, count: int) -> Tensor:
    """`count` draws of a standard normal distribution for each key, fp32 [N, count]; none is beyond 5.5."""
    number_C = (torch.arange(count, device=key_N.device) + 1) * STEP
    bits_NC = mixed(key_N.unsqueeze(1) + number_C) >> (32 - _BITS)
    # In the middle of each of 2^24 intervals, in fp64: in fp32 the last of them would be one.
    return torch.special.ndtri((bits_NC.double() + 0.5) * 2.0**-_BITS).float()
