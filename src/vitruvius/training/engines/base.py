"""What the loop asks of an engine: who computes which rows, and how what was computed comes together."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch

from vitruvius.nn.weights import load_weights, read_tensors, weights_of
from vitruvius.training.master import local
from vitruvius.training.optim import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from vitruvius.data import Batch
    from vitruvius.nn import Model
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.launch import Launch
    from vitruvius.training.master import MasterOptimizer
    from vitruvius.training.stopping import StopRequest

    Files = Mapping[str, Mapping[str, Tensor]]

Gathers = Literal["always", "by-layer", "by-module"]
"""`always`: they stay. `by-layer`: while their layer computes. `by-module`: while the maps in it do."""


_Given = TypeVar("_Given")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picked:
    """Some numbers of a parameter, evenly spaced over all of it, as far as this process has them and counts them."""

    index: Tensor | slice
    """Where they lie in this process's part, laid flat."""
    count: int
    """How many all processes have picked together."""
    of: int
    """How many numbers the parameter has."""


class Engine(ABC):
    """The processes that train together, as one of them sees it.

    Every method but `share` and the properties is called by all processes, in the same order: a process that leaves
    one out keeps the others waiting until their timeout.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self.launch.rank

    @property
    def ranks(self) -> int:
        """How many processes there are."""
        return self.launch.ranks

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder and speaks."""
        return self.launch.is_main

    @property
    def shares(self) -> int:
        """In how many shares a batch is computed: as many as there are processes, unless some compute one together."""
        return self.ranks

    @property
    def share_rank(self) -> int:
        """The number of this process's share, from 0."""
        return self.rank

    @property
    def has_whole_model(self) -> bool:
        """Whether a process can compute by itself; where not, every forward pass is one of all processes."""
        return True

    @property
    def gathers(self) -> Gathers:
        """When the weights are whole that a process computes with."""
        return "always"

    @property
    def computes_alone(self) -> bool:
        """Whether forward and backward pass of this process wait for no other one (routers aside)."""
        return self.ranks == 1

    @property
    def sharing(self) -> int:
        """How many processes share weights, gradients and the optimizer's state, each with an equal part at least."""
        return 1 if self.has_whole_model else self.ranks

    def notes(self, config: TrainConfig, architecture: Architecture) -> Iterator[str]:
        """What is worth knowing about a run under this engine."""
        del config, architecture
        yield from ()

    def share(self, batch: Batch, pieces: int) -> Batch:
        """The samples of a batch that this process computes, in `pieces` slices.

        Slice k of all processes together is slice k of the batch, so that what is gathered over a piece (the load of
        experts) is what a single process gathers. `pieces` times the shares divides the samples.
        """
        if self.shares == 1:
            return batch
        return batch.take(self.places(len(batch.sample_ids), pieces))

    def places(self, samples: int, pieces: int) -> np.ndarray:
        """Which of so many samples this process computes, by their places in the batch, in `pieces` slices."""
        return np.arange(samples).reshape(pieces, self.shares, -1)[:, self.share_rank].ravel()

    @abstractmethod
    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all shares, in fp64; the same in each process. All give equally many values."""

    def summed(self, values: Sequence[float]) -> list[float]:
        """As `total`, of every process, whatever the processes share."""
        return self.total(values)

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """What every process gave, in their order; JSON data."""

    @abstractmethod
    def from_main(self, make: Callable[[], Any]) -> Any:
        """What `make` gives in the main process, as JSON data; it is called nowhere else.

        Raises RunError in the other processes when it raises in the main one.
        """

    def on_main(self, work: Callable[[], object]) -> None:
        """Do something in the main process alone, while the others wait. Raises as `from_main`."""

        def done() -> None:
            work()

        self.from_main(done)

    @abstractmethod
    def anywhere(self, *, here: bool) -> bool:
        """Whether it is so in any process."""

    def entered(self, work: Callable[[], _Given]) -> _Given:
        """What `work` gives, which computes with parts of a placed model by itself, and not by `loss` or `hidden`."""
        return work()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """The gradients of a piece. last: whether it is the last one of its update."""
        del last
        loss.backward()

    @abstractmethod
    def reduce(self, optimizer: MasterOptimizer) -> None:
        """Put the sum over all processes, in fp32, in the place of the gradients that the optimizer reads."""

    def place(self, model: Model, device: torch.device) -> Model:
        """The model where this process computes it; called once, before an optimizer takes hold of its parameters."""
        return model.to(device)

    def optimizer(self, model: Model, config: TrainConfig) -> MasterOptimizer:
        """The optimizer of a model that was placed; called once. Raises UsageError as `make_optimizer`."""
        return make_optimizer(model, config)

    def own(self, optimizer: MasterOptimizer) -> None:
        """Told of the optimizer, whose state lies where `place` has put the parameters."""
        del optimizer

    def part_of(self, name: str, weight: Tensor) -> Tensor:
        """This process's part of a parameter, in the model's format: the memory itself."""
        del name
        return local(weight.detach())

    def picked(self, name: str, part: Tensor, most: int) -> Picked:
        """At most `most` numbers of a parameter, evenly spaced over the whole, of which `part` is here."""
        del name
        step = max(1, -(-part.numel() // most))
        return Picked(index=slice(None, None, step), count=-(-part.numel() // step), of=part.numel())

    def row_norms(self, name: str, table_VD: Tensor) -> Tensor:
        """L2 norm of each row of a parameter, [V], in fp32; the same in each process, which all call this."""
        return torch.linalg.vector_norm(self.part_of(name, table_VD).float(), dim=1)

    def replicated(self, model: Model) -> Mapping[str, Tensor]:
        """The weights that every process has, by name; they are the same in each."""
        return weights_of(model)

    def with_whole(self, files: Files, work: Callable[[Files], Any]) -> Any:
        """As `from_main`, of work that reads whole tensors: what is shared is gathered, one at a time, when it asks.

        files: the tensors as this process has them; all processes have the same names.
        """
        return self.from_main(lambda: work(files))

    def load(self, model: Model, folder: Path) -> None:
        """Fill the model from the weights of a checkpoint, of which each process reads what it needs.

        Raises RunError, before anything is changed, when a name, shape or dtype does not fit.
        """
        load_weights(model, folder)

    def read(self, path: Path) -> dict[str, Tensor]:
        """The tensors of a checkpoint's file, or this process's parts of them. Raises RunError as `read_tensors`."""
        return read_tensors(path)

    @abstractmethod
    def barrier(self) -> None:
        """Wait for all."""

    @abstractmethod
    def agreed(self, stop: StopRequest) -> StopRequest:
        """A request that is filled in only by `agree_to_stop`, so that it is the same everywhere at any time."""

    @abstractmethod
    def agree_to_stop(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; then all of them are. stop: what `agreed` gave."""

    @abstractmethod
    def draw(self, seed: int, number: int) -> None:
        """Set torch's random state for batch `number` where processes must not draw the same numbers."""

    @abstractmethod
    def ensure_alike(self, value: Callable[[], str], *, what: str, fix: str) -> None:
        """Raise RunError, in all processes, when `value` gives not the same in every one."""

    @contextlib.contextmanager
    def contact(self) -> Generator[None]:
        """Raise RunError in the place of what torch raises when another process is gone or silent."""
        yield
