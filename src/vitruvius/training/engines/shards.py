"""Where each process's part of a tensor lies in the whole, and how parts become the whole.

A tensor is cut along one dimension for each axis of the grid of processes that shares it: into equal parts, of which
the last may be shorter or empty, as `torch.chunk` cuts.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist

from vitruvius.nn.weights import read_parts
from vitruvius.training.engines.wholes import Part, names_in
from vitruvius.training.master import local

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

Axis = Literal["data", "tensor", "expert", "copies"]
"""`data` are all rows, `expert` those that have other experts than each other, `copies` those that have the same."""
_CROSSING: Mapping[Axis, tuple[Axis, ...]] = {
    "data": ("tensor",),
    "tensor": ("data",),
    "expert": ("tensor", "copies"),
    "copies": ("tensor", "expert"),
}
"""Where processes of one group of an axis stand alike."""
Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A cut along one dimension, a part for each process of one axis."""

    axis: Axis
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The processes as a table: those of a row compute the same samples, those of a column have the same layers.

    Rows that follow each other stand in groups of `expert`, of which each has other experts of every mixture.
    """

    data: int
    """Rows: shares of a batch."""
    tensor: int
    """Columns: parts of each layer."""
    expert: int = 1
    """Rows that divide the experts of a mixture; a divisor of `data`."""

    @property
    def copies(self) -> int:
        """Rows that have the same experts."""
        return self.data // self.expert

    def at(self, rank: int) -> dict[Axis, int]:
        """Where a process stands; neighbours share layers, since they talk most, and then experts."""
        row = rank // self.tensor
        return {
            "data": row,
            "tensor": rank % self.tensor,
            "expert": row % self.expert,
            "copies": row // self.expert,
        }

    def rank(self, *, data: int, tensor: int) -> int:
        """Who stands there."""
        return data * self.tensor + tensor

    def size(self, axis: Axis) -> int:
        """How many processes an axis has."""
        return {"data": self.data, "tensor": self.tensor, "expert": self.expert, "copies": self.copies}[axis]

    def members(self, axis: Axis) -> list[list[int]]:
        """The groups of processes of an axis, each in the order of its parts."""
        found: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.data * self.tensor):
            at = self.at(rank)
            found.setdefault(tuple(at[other] for other in _CROSSING[axis]), []).append(rank)
        return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """How one tensor is shared."""

    shape: tuple[int, ...]
    """Of the whole."""
    splits: tuple[Split, ...]
    """In the order in which it was cut: a later one cuts the parts that an earlier one has left."""

    def box(self, grid: Grid, rank: int) -> Box:
        """The part of a process, as a slice of each dimension of the whole."""
        at, bounds = grid.at(rank), [(0, size) for size in self.shape]
        for split in self.splits:
            start, stop = bounds[split.dim]
            low, high = part_of(stop - start, parts=grid.size(split.axis), index=at[split.axis])
            bounds[split.dim] = (start + low, start + high)
        return tuple(slice(start, stop) for start, stop in bounds)

    def within(self, grid: Grid, rank: int, flat: Tensor) -> Tensor:
        """Of places in the whole, laid flat, those in the part of a process, as places in that part laid flat."""
        where: list[Tensor] = []
        for size in reversed(self.shape):
            where.append(flat % size)
            flat = flat // size
        inside, mine = torch.ones_like(flat, dtype=torch.bool), torch.zeros_like(flat)
        for place, part in zip(reversed(where), self.box(grid, rank), strict=True):
            inside &= (place >= part.start) & (place < part.stop)
            mine = mine * (part.stop - part.start) + (place - part.start)
        return mine[inside]

    def of_matrices(self, grid: Grid, rank: int) -> Shard:
        """How the matrices of a process's stack are shared: a cut through the stack leaves each of them whole."""
        first = len(self.shape) - 2
        mine, bounds = self.box(grid, rank)[: max(first, 0)], self.shape[max(first, 0) :]
        shape = (*(part.stop - part.start for part in mine), *bounds)
        return Shard(shape=shape, splits=tuple(split for split in self.splits if split.dim >= first))

    def local_shape(self, grid: Grid, rank: int) -> tuple[int, ...]:
        """The shape of a process's part."""
        return tuple(part.stop - part.start for part in self.box(grid, rank))

    def owners(self, grid: Grid) -> Iterator[int]:
        """Processes whose parts make up the whole; of those with the same part the first."""
        axes = {split.axis for split in self.splits}
        for copy, expert, tensor in itertools.product(
            range(grid.copies if axes & {"data", "copies"} else 1),
            range(grid.expert if axes & {"data", "expert"} else 1),
            range(grid.tensor if "tensor" in axes else 1),
        ):
            yield grid.rank(data=copy * grid.expert + expert, tensor=tensor)


def part_of(size: int, *, parts: int, index: int) -> tuple[int, int]:
    """Where part `index` of `parts` begins and ends."""
    step = -(-size // parts)
    return min(index * step, size), min((index + 1) * step, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """How the tensors of a model are shared, as one process sees it. Those that are not named are whole everywhere."""

    grid: Grid
    rank: int
    by_name: Mapping[str, Shard]
    """Parameter -> how it is cut."""

    def find(self, name: str) -> Shard | None:
        """That of a parameter, or of what an optimizer keeps for it: `exp_avg.NAME`."""
        found = self.by_name.get(name)
        return self.by_name.get(name.partition(".")[2]) if found is None else found

    def part(self, name: str, tensor: Tensor) -> Part[Shard]:
        """A tensor of a checkpoint as this process has it."""
        shard, mine = self.find(name), local(tensor)
        if shard is None or not shard.splits:
            return Part.of(mine, None)
        shape = shard.local_shape(self.grid, self.rank)
        assert tuple(mine.shape) == shape, f"{name} is {tuple(mine.shape)}, and the part of this process {shape}"
        return Part.of(mine, shard)

    def counted(self, name: str) -> bool:
        """Whether this process is the one that counts its part of a parameter in sums over all."""
        shard = self.by_name.get(name)
        if shard is None:
            return self.rank == 0
        return self.rank in set(shard.owners(self.grid))

    def send(self, part: Part[Shard]) -> None:
        """In every process but the first: give the first one this process's part, when it is one that it needs."""
        if part.cut is not None and self.rank in set(part.cut.owners(self.grid)) and part.local.numel():
            dist.send(part.local.detach().cpu().contiguous(), dst=0)

    def receive(self, part: Part[Shard]) -> Tensor:
        """In the first process: the whole tensor, on the CPU, while the others `send`."""
        if part.cut is None:
            return part.local.detach()
        whole = torch.empty(part.shape, dtype=part.dtype)
        for rank in part.cut.owners(self.grid):
            box = part.cut.box(self.grid, rank)
            if rank == self.rank:
                whole[box] = part.local.detach().cpu()
            elif math.prod(part.cut.local_shape(self.grid, rank)):
                buffer = torch.empty(part.cut.local_shape(self.grid, rank), dtype=part.dtype)
                dist.recv(buffer, src=rank)
                whole[box] = buffer
        return whole

    def read(self, path: Path) -> dict[str, Tensor]:
        """This process's parts of the tensors of a file.

        Raises RunError when the file is not whole, or a tensor of it has another shape than the one that is shared.
        """
        shards = {name: self.find(name) for name in names_in(path, self.find)}
        boxes = {name: shard and shard.box(self.grid, self.rank) for name, shard in shards.items()}
        return read_parts(path, boxes)
