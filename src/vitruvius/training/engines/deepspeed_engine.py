"""Training with DeepSpeed's ZeRO: processes share gradients and optimizer state (2), or weights too (3).

DeepSpeed divides, sums and steps. Samples, losses, schedules, clipping, guards and checkpoints are those of every other
engine. Forward passes are passes of all processes, as with `fsdp2`.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, Self, TypeVar, final

import torch
import torch.distributed as dist

from vitruvius.errors import UsageError
from vitruvius.nn.weights import ensure_fits, weights_of
from vitruvius.runs.checkpoints import MODEL_FILE
from vitruvius.training.engines.base import Picked
from vitruvius.training.engines.deepspeed_optimizer import ZeroOptimizer
from vitruvius.training.engines.deepspeed_parts import Fragment, Fragments
from vitruvius.training.engines.deepspeed_zero import Zero, forget, started
from vitruvius.training.engines.processes import ProcessEngine
from vitruvius.training.engines.wholes import with_whole
from vitruvius.training.optim import groups_of
from vitruvius.training.settings.zero import require_deepspeed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from vitruvius.nn import Model
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines.base import Files, Gathers
    from vitruvius.training.launch import Launch
    from vitruvius.training.master import MasterOptimizer
    from vitruvius.training.settings import EngineSettings


_Given = TypeVar("_Given")


@final
class DeepSpeedEngine(ProcessEngine):
    """One of several processes whose model DeepSpeed divides."""

    def __init__(self, launch: Launch, settings: EngineSettings) -> None:
        """Raise UsageError when DeepSpeed is not installed."""
        require_deepspeed()
        super().__init__(launch, settings)
        self.stage = settings.zero or 2
        self.fragments = Fragments(rank=launch.rank, by_name={})
        self._package: Any = None
        self._zero: Zero | None = None

    @classmethod
    @contextlib.contextmanager
    def joined(cls, launch: Launch, settings: EngineSettings, device: str) -> Generator[Self]:
        """As for every engine; DeepSpeed forgets the run when it ends, so that another may begin in this process."""
        try:
            with super().joined(launch, settings, device) as engine:
                yield engine
        finally:
            forget()

    @property
    def has_whole_model(self) -> bool:
        """Never: gradients at least are shared, and the model is entered by all processes together."""
        return False

    @property
    def gathers(self) -> Gathers:
        """Under ZeRO-2 the weights stay."""
        return "by-module" if self.stage == 3 else "always"

    @property
    def sharing(self) -> int:
        """Processes that share the weights."""
        return self.ranks if self.stage == 3 else 1

    def notes(self, config: TrainConfig, architecture: Architecture) -> Iterator[str]:
        """What is not measured."""
        del architecture
        watch = config.watch
        if self.gathers == "always":
            return
        if watch.every is not None and watch.every <= config.steps and "components" in watch.measures:
            yield "ZeRO-3 gathers the weights of every map by itself, so train.watch leaves out components"

    def met(self, device: str) -> None:
        """DeepSpeed talks through the group that stands."""
        self._package = started(device)

    def place(self, model: Model, device: torch.device) -> Model:
        """On the device; it is divided when the optimizer is made. Raises UsageError where formats are mixed."""
        formats = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
        if len(formats) > 1:
            raise UsageError(
                f"this architecture keeps weights in {' and '.join(sorted(formats))}, and DeepSpeed wants one format",
                where="train.dtype",
                fix="use dtype: fp32, or kind: fsdp2",
            )
        return model.to(device)

    def optimizer(self, model: Model, config: TrainConfig) -> MasterOptimizer:
        """Divide the model, and take DeepSpeed's step for that of an optimizer."""
        zero = Zero(self._package, model, groups_of(model, config), stage=self.stage, ranks=self.ranks)
        self._zero = zero
        runs = self.gather({name: zero.run(name) for name in zero.names})
        self.fragments = Fragments(
            rank=self.rank,
            by_name={
                name: Fragment(shape=zero.shape(name), runs=tuple((each[name][0], each[name][1]) for each in runs))
                for name in zero.names
            },
            weights={name: _weight(zero, name) for name in zero.names} if self.stage == 3 else {},
        )
        return ZeroOptimizer(zero, lr=config.lr, total=lambda value: self.summed([value])[0])

    def entered(self, work: Callable[[], _Given]) -> _Given:
        """Inside a forward pass of DeepSpeed's, which gathers the weights that are asked for; without gradients."""
        assert self._zero is not None
        given: list[_Given] = []
        # DeepSpeed would look for tensors in it.
        self._zero.entered(lambda: given.append(work()))
        return given[0]

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """DeepSpeed's, which sums and scatters too."""
        assert self._zero is not None
        self._zero.backward(loss, last=last)

    def reduce(self, optimizer: MasterOptimizer) -> None:
        """Done in the backward pass."""
        del optimizer

    def part_of(self, name: str, weight: Tensor) -> Tensor:
        """Under ZeRO-3 a run of it, laid flat."""
        mine = self.fragments.weights.get(name)
        return super().part_of(name, weight) if mine is None else mine()

    def picked(self, name: str, part: Tensor, most: int) -> Picked:
        """Those in this process's run."""
        fragment = self.fragments.by_name[name]
        of, (start, stop) = math.prod(fragment.shape), fragment.runs[self.rank]
        wanted = torch.arange(0, of, max(1, -(-of // most)))
        mine = wanted[(wanted >= start) & (wanted < stop)] - start
        return Picked(index=mine.to(part.device), count=wanted.numel(), of=of)

    def row_norms(self, name: str, table_VD: Tensor) -> Tensor:
        """Under ZeRO-3 sums of squares over the runs: one may begin and end inside a row."""
        if name not in self.fragments.weights:
            return super().row_norms(name, table_VD)
        fragment, run = self.fragments.by_name[name], self.part_of(name, table_VD)
        (rows, width), (start, stop) = fragment.shape, fragment.runs[self.rank]
        first, last = start // width, -(-stop // width)
        padded = torch.zeros((last - first) * width, device=run.device)
        padded[start - first * width : stop - first * width] = run
        squares_V = torch.zeros(rows, dtype=torch.float64, device=run.device)
        squares_V[first:last] = padded.view(-1, width).double().square().sum(dim=1)
        dist.all_reduce(squares_V)
        return squares_V.sqrt().float()

    def replicated(self, model: Model) -> Mapping[str, Tensor]:
        """Under ZeRO-2 all weights, under ZeRO-3 buffers alone."""
        return {name: tensor for name, tensor in weights_of(model).items() if self.fragments.find(name) is None}

    def with_whole(self, files: Files, work: Callable[[Files], Any]) -> Any:
        """What is shared is gathered, one tensor at a time, when the first process asks."""
        return with_whole(self, self.fragments, files, work)

    def load(self, model: Model, folder: Path) -> None:
        """Every process reads its runs."""
        path = folder / MODEL_FILE
        parts = {name: self.fragments.part(name, tensor) for name, tensor in weights_of(model).items()}
        ensure_fits({n: torch.empty(part.shape, dtype=part.dtype, device="meta") for n, part in parts.items()}, path)
        with torch.no_grad():
            for name, tensor in self.read(path).items():
                parts[name].local.copy_(tensor)

    def read(self, path: Path) -> dict[str, Tensor]:
        """This process's runs of the tensors of a file."""
        return self.fragments.read(path)


def _weight(zero: Zero, name: str) -> Callable[[], Tensor]:
    return lambda: zero.weight(name)
