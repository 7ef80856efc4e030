"""Synthetic tasks: each draws as many sequences as asked for, and says which predictions count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vitruvius.lab.reproductions import Drawn

IGNORED = -100
"""A target that does not count."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sequences:
    """Inputs and what to predict at each of them."""

    inputs: Tensor
    """int64 [B, T]."""
    targets: Tensor
    """int64 [B, T]; IGNORED where nothing is asked."""


WRITE, READ, IGNORE, ZERO = 0, 1, 2, 3
"""Tokens of the flip-flop language: three instructions, then the bits 0 and 1."""


def flip_flop(batch: int, generator: Generator, *, length: int, ignore: float) -> Sequences:
    """The flip-flop language FFL(ignore) of Liu et al., "Exposing Attention Glitches", 2023.

    A sequence is length / 2 pairs of an instruction and a bit. The first instruction is a write, the last a read; a
    share `ignore` of the others are ignores, and writes and reads have half of the rest each. Bits after writes and
    ignores are drawn evenly; after a read stands the bit written last, and that bit is all that is asked for.
    """
    pairs = length // 2
    chance = torch.rand(batch, pairs, generator=generator)
    instructions = torch.where(chance < ignore, IGNORE, torch.where(chance < (1 + ignore) / 2, WRITE, READ))
    instructions[:, 0], instructions[:, -1] = WRITE, READ
    bits = torch.randint(0, 2, (batch, pairs), generator=generator)
    last_write = torch.where(instructions == WRITE, torch.arange(pairs), 0).cummax(dim=1).values
    reads = instructions == READ
    bits = torch.where(reads, bits.gather(1, last_write), bits) + ZERO
    tokens = torch.stack([instructions, bits], dim=-1).flatten(1)
    targets = torch.full_like(tokens, IGNORED)
    targets[:, 0::2] = torch.where(reads, bits, IGNORED)
    return Sequences(inputs=tokens[:, :-1], targets=targets[:, :-1])


def parity(batch: int, generator: Generator, *, length: int) -> Sequences:
    """Bits drawn evenly; asked for at each of them is the parity of all bits so far."""
    bits = torch.randint(0, 2, (batch, length), generator=generator)
    return Sequences(inputs=bits, targets=bits.cumsum(1) % 2)


TASKS = {"flip-flop": flip_flop, "parity": parity}
"""Name of a task -> how to draw from it."""


def draw(drawn: Drawn, batch: int, generator: Generator) -> Sequences:
    """Sequences from one distribution of a task."""
    return TASKS[drawn.task](batch, generator, **drawn.settings)
