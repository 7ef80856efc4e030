"""Training in shards: every process keeps a part of the weights, of their gradients and of the optimizer's state.

The weights of a layer are gathered when it computes, by FSDP2 (`torch.distributed.fsdp.fully_shard`; Zhao et al.,
"PyTorch FSDP", 2023; Rajbhandari et al., "ZeRO", 2020), and its gradients are summed and scattered behind it. Sums are
those of the ddp engine: fp32, over targets, without a mean over processes. With `tensor_parallel` some processes
compute a share of the batch together, each with a part of the heads and hidden channels (`engines/tensors.py`). With
`expert_parallel` some divide the experts of every mixture, and send each other rows in the place of weights
(`engines/experts.py`); under `kind: ddp` nothing else is in parts then.

All forward passes are passes of all processes. Masters and moments are parts too: the optimizer sees local tensors.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, final

import torch
import torch.distributed as dist

from vitruvius.errors import UsageError
from vitruvius.nn.weights import ensure_fits, weights_of
from vitruvius.runs.checkpoints import MODEL_FILE
from vitruvius.training.determinism import digest_of
from vitruvius.training.engines.base import Picked
from vitruvius.training.engines.experts import mixtures_of, spread_experts
from vitruvius.training.engines.processes import ProcessEngine
from vitruvius.training.engines.shards import Grid, Shard, Shards, Split, part_of
from vitruvius.training.engines.sums import sum_gradients
from vitruvius.training.engines.tensors import split_layers
from vitruvius.training.engines.wholes import with_whole
from vitruvius.training.engines.wrapping import shard_model
from vitruvius.training.master import local
from vitruvius.training.splitting import experts_of, whole_kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from vitruvius.nn import Model
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines.base import Files, Gathers
    from vitruvius.training.engines.shards import Axis
    from vitruvius.training.launch import Launch
    from vitruvius.training.master import MasterOptimizer, Slot
    from vitruvius.training.settings import EngineSettings

EXPERT_AXES: tuple[Axis, ...] = ("expert", "copies")


@final
class ShardedEngine(ProcessEngine):
    """One of several processes with parts of one model."""

    def __init__(self, launch: Launch, settings: EngineSettings) -> None:
        """Raise UsageError when the processes cannot be divided into groups as the settings say."""
        super().__init__(launch, settings)
        self.grid = _grid(launch.ranks, settings)
        self.cuts_all = settings.kind == "fsdp2"
        """Whether weights that every row has are cut too."""
        self.shards = Shards(grid=self.grid, rank=launch.rank, by_name={})
        self.groups: dict[Axis, dist.ProcessGroup] = {}
        self._summed_over_tensor: frozenset[str] = frozenset()
        self._slots: Mapping[str, Slot] = {}

    @property
    def shares(self) -> int:
        """As many as the grid has rows."""
        return self.grid.data

    @property
    def share_rank(self) -> int:
        """The row of this process."""
        return self.grid.at(self.rank)["data"]

    @property
    def has_whole_model(self) -> bool:
        """Only where there is one process."""
        return self.ranks == 1

    @property
    def gathers(self) -> Gathers:
        """By layer, where all weights are cut."""
        return "by-layer" if self.cuts_all and self.grid.data > 1 else "always"

    @property
    def sharing(self) -> int:
        """Where only experts are in parts, as many as divide them: weights that all have are not divided at all."""
        return self.ranks if self.cuts_all else self.grid.expert

    def notes(self, config: TrainConfig, architecture: Architecture) -> Iterator[str]:
        """What is not cut."""
        del config
        if self.grid.expert > 1:
            counts = ", ".join(
                f"{number // self.grid.expert:,} of {number:,} ({place})"
                for place, number in experts_of(architecture).items()
            )
            yield f"expert_parallel: each process has {counts}"
        if self.grid.tensor > 1:
            whole = whole_kinds(architecture)
            if architecture.vocab_size % self.grid.tensor:
                whole.append(f"embedding and head ({architecture.vocab_size:,} tokens)")
            if whole:
                yield f"tensor_parallel leaves whole in every process: {', '.join(whole)}"

    def met(self, device: str) -> None:
        """Make the groups of rows and columns, with a timeout of their own: torch's default is half an hour."""
        del device
        axes: list[Axis] = ["tensor", "data", *(() if self.grid.expert == 1 else EXPERT_AXES)]
        for axis in axes:
            for ranks in self.grid.members(axis):
                made = dist.new_group(ranks, timeout=timedelta(seconds=self.settings.timeout))
                if self.rank in ranks:
                    assert isinstance(made, dist.ProcessGroup)
                    self.groups[axis] = made

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the shares: of the processes that compute one together, the first counts."""
        first = self.grid.at(self.rank)["tensor"] == 0
        return self.summed([value if first else 0.0 for value in values])

    def place(self, model: Model, device: torch.device) -> Model:
        """Cut the layers among the processes of a row, experts and then all tensors among those of a column."""
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        cuts: Mapping[str, int] = {}
        spread: frozenset[str] = frozenset()
        apart: dict[nn.Module, dist.ProcessGroup] = {}
        if self.grid.tensor > 1:
            cuts, self._summed_over_tensor = split_layers(model, self.groups["tensor"])
        if self.grid.expert > 1:
            spread = spread_experts(model, self.groups["expert"])
            apart = {experts: self.groups["copies"] for _, experts in mixtures_of(model)}
        if self.cuts_all and self.grid.data > 1:
            shard_model(model, self.groups["data"], device, apart=apart)
        else:
            model.to(device)
        by_name = {
            name: Shard(shape=shape, splits=tuple(self._splits(name, shape, cuts, spread)))
            for name, shape in shapes.items()
        }
        self.shards = replace(self.shards, by_name=by_name)
        return model

    def _splits(
        self, name: str, shape: tuple[int, ...], cuts: Mapping[str, int], spread: frozenset[str]
    ) -> Iterator[Split]:
        """How a parameter is cut, in the order of the cuts."""
        if name in cuts:
            yield Split(axis="tensor", dim=cuts[name])
        if name in spread:
            yield Split(axis="expert", dim=0)
        among: Axis = "copies" if name in spread else "data"
        if self.cuts_all and shape and self.grid.size(among) > 1:
            yield Split(axis=among, dim=0)

    def own(self, optimizer: MasterOptimizer) -> None:
        """The norm of its gradients is one over all processes, and its matrices are gathered where a rule asks."""
        optimizer.elsewhere = frozenset(name for name in self.shards.by_name if not self.shards.counted(name))
        optimizer.combined = self._norm
        self._slots = dict(optimizer.named_slots())
        for name, slot in optimizer.named_slots():
            shard = self.shards.by_name[name].of_matrices(self.grid, self.rank)
            if shard.splits:
                slot.shared = _SharedMatrix(self, shard)

    def _norm(self, norm: float) -> float:
        return math.sqrt(self.summed([norm * norm])[0])

    @torch.no_grad()
    def reduce(self, optimizer: MasterOptimizer) -> None:
        """The sums that FSDP does not take: of weights that act on every process's own heads, and of scalars."""
        if not self.cuts_all:
            self._sum_all(optimizer)
            return
        for name, slot in optimizer.named_slots():
            axes: list[Axis] = ["tensor"] if name in self._summed_over_tensor else []
            if self.grid.data > 1 and not self.shards.by_name[name].splits:
                axes.append("data")
            gradient = slot.gradient()
            if not axes or gradient is None:
                continue
            total = gradient.to(torch.float32, copy=True)
            for axis in axes:
                dist.all_reduce(total, group=self.groups[axis])
            slot.accumulated, slot.parameter.grad = total, None

    def _sum_all(self, optimizer: MasterOptimizer) -> None:
        """Where only experts are in parts: theirs over the processes that have the same ones, all others' over all."""
        named = list(optimizer.named_slots())
        present = self.summed([float(slot.gradient() is not None) for _, slot in named])
        among: dict[Axis, list[Slot]] = {"data": [], "copies": []}
        for (name, slot), count in zip(named, present, strict=True):
            if count:
                among["copies" if self.shards.by_name[name].splits else "data"].append(slot)
        for axis, slots in among.items():
            if self.grid.size(axis) > 1:
                sum_gradients(slots, self.groups[axis])

    def part_of(self, name: str, weight: Tensor) -> Tensor:
        """That of the optimizer: after a pass without a backward pass the model's own is whole for a while."""
        return self._slots[name].weight if name in self._slots else super().part_of(name, weight)

    def picked(self, name: str, part: Tensor, most: int) -> Picked:
        """The same numbers for any number of processes; each finds those of its part, once among its copies."""
        shard = self.shards.by_name[name]
        of = math.prod(shard.shape)
        wanted = torch.arange(0, of, max(1, -(-of // most)))
        mine = shard.within(self.grid, self.rank, wanted) if self.shards.counted(name) else wanted[:0]
        return Picked(index=mine.to(part.device), count=wanted.numel(), of=of)

    def row_norms(self, name: str, table_VD: Tensor) -> Tensor:
        """Sums of squares over the parts of each row."""
        shard = self.shards.by_name[name]
        if not shard.splits:
            return super().row_norms(name, table_VD)
        part = self.part_of(name, table_VD)
        squares_V = torch.zeros(shard.shape[0], dtype=torch.float64, device=part.device)
        if self.shards.counted(name):
            rows = shard.box(self.grid, self.rank)[0]
            squares_V[rows] = torch.linalg.vector_norm(part.float(), dim=1).double().square()
        dist.all_reduce(squares_V)
        return squares_V.sqrt().float()

    def replicated(self, model: Model) -> Mapping[str, Tensor]:
        """Buffers, and weights that are not cut; of experts that several have, what all of them come to."""
        mine, by_name = {name: local(tensor) for name, tensor in weights_of(model).items()}, self.shards.by_name
        cut = {name for name in mine if name in by_name and by_name[name].splits}
        whole = {name: tensor for name, tensor in mine.items() if name not in cut}
        if cut and not self.cuts_all:
            # A process has a digest of each one's experts: the same everywhere where copies are.
            digest = digest_of({name: mine[name] for name in cut})
            said = torch.frombuffer(bytearray(digest.encode()), dtype=torch.uint8)
            heard = [torch.empty_like(said) for _ in range(self.grid.expert)]
            dist.all_gather(heard, said, group=self.groups["expert"])
            whole["experts"] = torch.cat(heard)
        return whole

    def with_whole(self, files: Files, work: Callable[[Files], Any]) -> Any:
        """What is shared is gathered, one tensor at a time, when the first process asks."""
        return with_whole(self, self.shards, files, work)

    def load(self, model: Model, folder: Path) -> None:
        """Every process reads its parts."""
        path = folder / MODEL_FILE
        parts = {name: self.shards.part(name, tensor) for name, tensor in weights_of(model).items()}
        ensure_fits({n: torch.empty(part.shape, dtype=part.dtype, device="meta") for n, part in parts.items()}, path)
        with torch.no_grad():
            for name, tensor in self.read(path).items():
                parts[name].local.copy_(tensor)

    def read(self, path: Path) -> dict[str, Tensor]:
        """This process's parts of a file."""
        return self.shards.read(path)

    def everywhere(self, part: Tensor, shard: Shard) -> Tensor:
        """The whole of a tensor, in every process; what was cut last is joined first."""
        shapes: list[tuple[Axis, int, int]] = []
        sizes = list(shard.shape)
        for split in shard.splits:
            shapes.append((split.axis, split.dim, sizes[split.dim]))
            start, stop = part_of(
                sizes[split.dim], parts=self.grid.size(split.axis), index=self.grid.at(self.rank)[split.axis]
            )
            sizes[split.dim] = stop - start
        for axis, dim, size in reversed(shapes):
            part = _joined(part, dim, size, self.grid.size(axis), self.groups[axis])
        return part


def _grid(ranks: int, settings: EngineSettings) -> Grid:
    """Raise UsageError when the processes cannot be divided into groups as the settings say."""
    tensor, expert = settings.tensor_parallel, settings.expert_parallel
    for name, degree, rows in (("tensor_parallel", tensor, ranks), ("expert_parallel", expert, ranks // tensor)):
        if rows % degree:
            of = "" if rows == ranks else f" ({ranks} in rows of {tensor})"
            raise UsageError(
                f"{rows} processes{of} cannot stand in groups of {degree}",
                where=f"train.engine.{name}",
                fix=f"launch a multiple of {tensor * (expert if name == 'expert_parallel' else 1)} processes, "
                "or use another degree",
            )
    return Grid(data=ranks // tensor, tensor=tensor, expert=expert)


def _joined(part: Tensor, dim: int, size: int, parts: int, group: dist.ProcessGroup) -> Tensor:
    """The parts of a group side by side; those that are shorter travel with padding."""
    step = -(-size // parts)
    shape = list(part.shape)
    shape[dim] = step
    padded = part.new_zeros(shape)
    padded.narrow(dim, 0, part.shape[dim]).copy_(part)
    found = [torch.empty_like(padded) for _ in range(parts)]
    dist.all_gather(found, padded, group=group)
    return torch.cat(found, dim).narrow(dim, 0, size)


class _SharedMatrix:
    """What a rule asks that needs whole matrices."""

    __slots__ = ("box", "engine", "shard")

    def __init__(self, engine: ShardedEngine, shard: Shard) -> None:
        self.engine, self.shard = engine, shard
        self.box = shard.box(engine.grid, engine.rank)

    def whole(self, part: Tensor) -> Tensor:
        """The whole tensor, in every process."""
        return self.engine.everywhere(part, self.shard)

    def mine(self, whole: Tensor) -> Tensor:
        """This process's part of it."""
        return whole[self.box]
