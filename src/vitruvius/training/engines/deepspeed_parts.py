"""What each process keeps of a tensor under ZeRO: a run of its numbers, as they lie in memory; and the whole of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist

from vitruvius.errors import RunError
from vitruvius.nn.weights import read_parts
from vitruvius.runs.tensorfile import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from vitruvius.training.engines.base import Files
    from vitruvius.training.engines.processes import ProcessEngine

_DONE = -1
"""What the first process says when it wants no more tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """How one tensor is shared: process after process has the next run of its numbers, some of them none."""

    shape: tuple[int, ...]
    """Of the whole."""
    runs: tuple[tuple[int, int], ...]
    """For each process, where its run starts and ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatPart:
    """A tensor of which processes have runs, with the shape of the whole; `vitruvius.nn.weights` can write it."""

    local: Tensor
    shape: torch.Size
    dtype: torch.dtype
    fragment: Fragment | None = None
    """None where every process has all of it."""
    asked: Callable[[], Tensor] | None = None
    """Called where somebody wants the whole."""

    @property
    def is_cuda(self) -> bool:
        """False: wholes are made on the CPU."""
        return False

    def numel(self) -> int:
        """Elements of the whole."""
        return self.shape.numel()

    def element_size(self) -> int:
        """Bytes of one."""
        return self.local.element_size()

    def detach(self) -> Tensor:
        """The whole tensor: the other processes are asked for it."""
        assert self.asked is not None
        return self.asked()


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

    def part(self, name: str, tensor: Tensor) -> FlatPart:
        """A tensor of a checkpoint as this process has it."""
        fragment = self.find(name)
        if fragment is None:
            return FlatPart(local=tensor, shape=tensor.shape, dtype=tensor.dtype)
        local = self.weights[name]() if name in self.weights else tensor
        return FlatPart(local=local, shape=torch.Size(fragment.shape), dtype=local.dtype, fragment=fragment)

    def send(self, part: FlatPart) -> None:
        """In every process but the first: give the first one this process's run."""
        if part.fragment is not None and part.local.numel():
            dist.send(part.local.detach().cpu().contiguous(), dst=0)

    def receive(self, part: FlatPart) -> Tensor:
        """In the first process: the whole tensor, on the CPU, while the others `send`."""
        if part.fragment is None:
            return part.local.detach()
        whole = torch.empty(part.shape.numel(), dtype=part.dtype)
        for rank, (start, stop) in enumerate(part.fragment.runs):
            if rank == self.rank:
                whole[start:stop] = part.local.detach().cpu()
            elif start < stop:
                dist.recv(whole[start:stop], src=rank)
        return whole.view(part.shape)

    def read(self, path: Path) -> dict[str, Tensor]:
        """This process's runs of the tensors of a file, and all of those that are not shared; one whole at a time.

        Raises RunError when the file is not whole, or a tensor of it has another shape than the one that is shared.
        """
        header = read_header(path)
        wrong = [
            f"{name} is {list(entry.shape)}, expected {list(fragment.shape)}"
            for name, entry in header.items()
            if (fragment := self.find(name)) is not None and entry.shape != fragment.shape
        ]
        if wrong:
            raise RunError(
                "the tensors do not fit the architecture: " + "; ".join(sorted(wrong)[:8]),
                where=str(path),
                fix="load them into the architecture they were trained with",
            )
        found: dict[str, Tensor] = {}
        for name in header:
            tensor, fragment = read_parts(path, {name: None})[name], self.find(name)
            if fragment is not None:
                start, stop = fragment.runs[self.rank]
                tensor = tensor.reshape(-1)[start:stop].clone()
            found[name] = tensor
        return found


def with_whole(engine: ProcessEngine, fragments: Fragments, files: Files, work: Callable[[Files], Any]) -> Any:
    """Work of the first process, which asks for one tensor after another, while the others answer until it is done."""
    parts = {file: {name: fragments.part(name, tensor) for name, tensor in files[file].items()} for file in files}
    ordered = [part for file in sorted(parts) for _, part in sorted(parts[file].items())]
    number = {id(part): index for index, part in enumerate(ordered)}

    def asked(part: FlatPart) -> Any:
        if part.fragment is None:
            return part.local

        def whole() -> Tensor:
            _say(number[id(part)])
            return fragments.receive(part)

        return FlatPart(local=part.local, shape=part.shape, dtype=part.dtype, fragment=part.fragment, asked=whole)

    wholes = cast("Files", {file: {name: asked(part) for name, part in parts[file].items()} for file in parts})

    def asking() -> Any:
        try:
            return work(wholes)
        finally:
            _say(_DONE)

    if not engine.is_main:
        while (index := _say(_DONE)) != _DONE:
            fragments.send(ordered[index])
    return engine.from_main(asking)


def _say(index: int) -> int:
    """What the first process says, in all."""
    said = torch.tensor([index])
    dist.broadcast(said, src=0)
    return int(said)
