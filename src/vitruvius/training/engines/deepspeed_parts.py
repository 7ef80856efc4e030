"""What each process keeps of a tensor under ZeRO: a run of its numbers, as they lie in memory; and the whole of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from vitruvius.nn.weights import read_parts
from vitruvius.training.engines.wholes import Part, names_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """How one tensor is shared: process after process has the next run of its numbers, some of them none."""

    shape: tuple[int, ...]
    """Of the whole."""
    runs: tuple[tuple[int, int], ...]
    """For each process, where its run starts and ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragments:
    """How the tensors of a run are shared, as one process sees it."""

    rank: int
    by_name: Mapping[str, Fragment]
    """Parameter -> how what the optimizer keeps of it is shared."""
    weights: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict[str, "Callable[[], Tensor]"])
    """Parameter -> this process's run of the weight itself, under ZeRO-3; a weight that is not named is whole."""

    def find(self, name: str) -> Fragment | None:
        """That of a weight, or of what the optimizer keeps for it: `exp_avg.NAME`."""
        if name in self.by_name:
            return self.by_name[name] if name in self.weights else None
        return self.by_name.get(name.partition(".")[2])

    def run(self, name: str) -> slice:
        """Where this process's run of a parameter lies in it."""
        return slice(*self.by_name[name].runs[self.rank])

    def part(self, name: str, tensor: Tensor) -> Part[Fragment]:
        """A tensor of a checkpoint as this process has it."""
        fragment = self.find(name)
        return Part.of(self.weights[name]() if fragment and name in self.weights else tensor, fragment)

    def send(self, part: Part[Fragment]) -> None:
        """In every process but the first: give the first one this process's run."""
        if part.cut is not None and part.local.numel():
            dist.send(part.local.detach().cpu().contiguous(), dst=0)

    def receive(self, part: Part[Fragment]) -> Tensor:
        """In the first process: the whole tensor, on the CPU, while the others `send`."""
        if part.cut is None:
            return part.local.detach()
        whole = torch.empty(part.shape.numel(), dtype=part.dtype)
        for rank, (start, stop) in enumerate(part.cut.runs):
            if rank == self.rank:
                whole[start:stop] = part.local.detach().cpu()
            elif start < stop:
                dist.recv(whole[start:stop], src=rank)
        return whole.view(part.shape)

    def read(self, path: Path) -> dict[str, Tensor]:
        """This process's runs of the tensors of a file, and all of those that are not shared; one whole at a time.

        Raises RunError when the file is not whole, or a tensor of it has another shape than the one that is shared.
        """
        found: dict[str, Tensor] = {}
        for name in names_in(path, self.find):
            tensor, fragment = read_parts(path, {name: None})[name], self.find(name)
            if fragment is not None:
                start, stop = fragment.runs[self.rank]
                tensor = tensor.reshape(-1)[start:stop].clone()
            found[name] = tensor
        return found
