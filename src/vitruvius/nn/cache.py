"""Decode state: what each mixer keeps so that a token costs one step.

A `Cache` holds one state per layer, allocated at once for a number of sequences and a capacity, never grown. Rows may
have different lengths; lengths are bookkeeping on the host and take no tensor memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor


class LayerCache(Protocol):
    """What a mixer keeps between steps."""

    step: Step

    def tensors(self) -> Iterable[Tensor]:
        """Everything that takes memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerState:
    """What one layer keeps between steps; None where a sublayer keeps nothing."""

    mixer: LayerCache | None = None
    cross: LayerCache | None = None

    def parts(self) -> Iterator[LayerCache]:
        """What there is."""
        for part in (self.mixer, self.cross):
            if part is not None:
                yield part


@dataclass(slots=True)
class Step:
    """The append under way, shared by all layers: how long each row was, and how many tokens come."""

    starts: list[int]
    """Tokens that each row held before."""
    counts: list[int]
    """Real tokens that each row gains."""
    length: int
    """Tokens per row in this call, padding included."""
    memo: dict[object, object] = field(default_factory=dict)
    """Masks and positions that layers with equal plans share."""

    @property
    def aligned(self) -> bool:
        """Whether every row stands at the same position and gains as much."""
        return len(set(self.starts)) == 1 and all(count == self.length for count in self.counts)


class Cache:
    """Decode state of a whole model for `batch` sequences of up to `capacity` tokens."""

    def __init__(self, layers: list[LayerState], *, batch: int, capacity: int, device: torch.device) -> None:
        self.layers = layers
        self.capacity = capacity
        self.lengths = [0] * batch
        self.device = device
        self._step: Step | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors: what `vitruvius size` prints as kv_cache_bytes and state_bytes."""
        return sum(t.numel() * t.element_size() for part in self.parts() for t in part.tensors())

    def parts(self) -> Iterator[LayerCache]:
        """The states of all sublayers that keep any."""
        for layer in self.layers:
            yield from layer.parts()

    @property
    def starts_a_row(self) -> bool:
        """Whether the append under way starts a sequence in some row."""
        return self._step is not None and 0 in self._step.starts

    def positions(self, length: int) -> Tensor:
        """Positions of the next `length` tokens: [T] when all rows agree, else [B, T]."""
        ahead = torch.arange(length, device=self.device)
        if len(set(self.lengths)) == 1:
            return ahead + self.lengths[0]
        return torch.tensor(self.lengths, device=self.device).unsqueeze(1) + ahead

    def begin(self, batch: int, length: int, counts: Sequence[int] | None) -> None:
        """Announce an append of `length` tokens per row, of which `counts` are real.

        Raises UsageError when rows do not match or the capacity does not suffice.
        """
        if batch != len(self.lengths):
            raise UsageError(f"the cache holds {len(self.lengths)} sequences and {batch} came")
        real = [length] * batch if counts is None else list(counts)
        if len(real) != batch or any(not 0 <= count <= length for count in real):
            raise UsageError(f"counts {real[:8]} do not fit {batch} rows of {length} tokens")
        longest = max(start + count for start, count in zip(self.lengths, real, strict=True))
        if longest > self.capacity:
            raise UsageError(
                f"the cache holds {self.capacity:,} tokens and a sequence of {longest:,} came",
                fix=f"allocate it with capacity={longest} or stop earlier",
            )
        self._step = Step(starts=list(self.lengths), counts=real, length=length)
        for part in self.parts():
            part.step = self._step

    def commit(self) -> None:
        """The append is done in every layer."""
        assert self._step is not None
        self.lengths = [s + c for s, c in zip(self._step.starts, self._step.counts, strict=True)]
        self._step = None

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Forget the sequences in some rows (all when None); their slots are free for new ones."""
        for row in range(len(self.lengths)) if rows is None else rows:
            self.lengths[row] = 0
