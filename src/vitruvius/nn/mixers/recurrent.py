"""Decode state of one size: what a recurrent mixer keeps of everything before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from vitruvius.nn.cache import Step
    from vitruvius.spec.node import StateSpec


class RecurrentState:
    """Named tensors [B, ...] that a mixer reads and replaces at each step; zero where a sequence starts."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.named = dict(tensors)
        self.step: Step

    def tensors(self) -> Iterator[Tensor]:
        """Everything that takes memory."""
        yield from self.named.values()

    def begin(self) -> None:
        """Forget the state of rows that start a sequence; call first in each step."""
        fresh = [row for row, start in enumerate(self.step.starts) if start == 0]
        if fresh:
            for tensor in self.named.values():
                tensor[fresh] = 0

    def __getitem__(self, name: str) -> Tensor:
        """One of the tensors."""
        return self.named[name]

    def replace(self, name: str, value: Tensor) -> None:
        """Write the state after the step, in place: [B, ...]."""
        self.named[name].copy_(value)

    def real(self) -> Tensor | None:
        """Which tokens of the step are real, bool [B, T]; None where all are. Padding must leave the state alone."""
        return real_tokens(self.step, next(iter(self.named.values())).device)


def real_tokens(step: Step, device: torch.device) -> Tensor | None:
    """Which tokens of a step are no padding, bool [B, T]; None where all are."""
    if all(count == step.length for count in step.counts):
        return None
    counts_B1 = torch.tensor(step.counts, device=device).unsqueeze(1)
    return torch.arange(step.length, device=device) < counts_B1


def empty_state(
    specs: Mapping[str, StateSpec], batch: int, *, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Zeros for `batch` sequences, in the formats that the specs ask for when the model computes in `dtype`."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        name: torch.zeros(batch, *spec.shape, device=device, dtype=wide if spec.dtype == "fp32" else dtype)
        for name, spec in specs.items()
    }
