"""Whole tensors of which processes have parts: asked for one at a time by the first process, written as any other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import torch
import torch.distributed as dist

from vitruvius.errors import RunError
from vitruvius.runs.tensorfile import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from vitruvius.training.engines.base import Files
    from vitruvius.training.engines.processes import ProcessEngine

_DONE = -1
"""What the first process says when it wants no more tensors."""


class Cut(Protocol):
    """How a tensor is shared."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        ...


CutT = TypeVar("CutT", bound=Cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Generic[CutT]):
    """A tensor of which processes have parts, with the shape of the whole; `vitruvius.nn.weights` can write it."""

    local: Tensor
    """What this process has."""
    shape: torch.Size
    dtype: torch.dtype
    cut: CutT | None = None
    """None where every process has all of it."""
    asked: Callable[[], Tensor] | None = None
    """Called where somebody wants the whole."""

    @classmethod
    def of(cls, local: Tensor, cut: CutT | None) -> Part[CutT]:
        """A tensor as a process has it."""
        shape = local.shape if cut is None else torch.Size(cut.shape)
        return cls(local=local, shape=shape, dtype=local.dtype, cut=cut)

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


class Sharing(Protocol[CutT]):
    """How the tensors of a run are shared, as one process sees it."""

    def part(self, name: str, tensor: Tensor) -> Part[CutT]:
        """A tensor of a checkpoint as this process has it."""
        ...

    def send(self, part: Part[CutT]) -> None:
        """In every process but the first: give the first one this process's part, where it needs that."""
        ...

    def receive(self, part: Part[CutT]) -> Tensor:
        """In the first process: the whole tensor, on the CPU, while the others `send`."""
        ...


def with_whole(engine: ProcessEngine, sharing: Sharing[Any], files: Files, work: Callable[[Files], Any]) -> Any:
    """Work of the first process, which asks for one tensor after another, while the others answer until it is done."""
    parts = {file: {name: sharing.part(name, tensor) for name, tensor in files[file].items()} for file in files}
    ordered = [part for file in sorted(parts) for _, part in sorted(parts[file].items())]
    number = {id(part): index for index, part in enumerate(ordered)}

    def askable(part: Part[Any]) -> Any:
        if part.cut is None:
            return part.local

        def whole() -> Tensor:
            _say(number[id(part)])
            return sharing.receive(part)

        return replace(part, asked=whole)

    wholes = cast("Files", {file: {name: askable(part) for name, part in parts[file].items()} for file in parts})

    def asking() -> Any:
        try:
            return work(wholes)
        finally:
            _say(_DONE)

    if not engine.is_main:
        while (index := _say(_DONE)) != _DONE:
            sharing.send(ordered[index])
    return engine.from_main(asking)


def names_in(path: Path, cut: Callable[[str], Cut | None]) -> Iterable[str]:
    """The names of the tensors in a file.

    Raises RunError when the file is not whole, or a tensor of it has another shape than the one that is shared.
    """
    header: Mapping[str, Any] = read_header(path)
    wrong = [
        f"{name} is {list(entry.shape)}, expected {list(shared.shape)}"
        for name, entry in header.items()
        if (shared := cut(name)) is not None and entry.shape != shared.shape
    ]
    if wrong:
        raise RunError(
            "the tensors do not fit the architecture: " + "; ".join(sorted(wrong)[:8]),
            where=str(path),
            fix="load them into the architecture they were trained with",
        )
    return header


def _say(index: int) -> int:
    """What the first process says, in all."""
    said = torch.tensor([index])
    dist.broadcast(said, src=0)
    return int(said)
