"""Optimizers for low-precision weights: fp32 master copies and state, clipping and rounding in one sweep."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch

from vitruvius.errors import RunError, UsageError
from vitruvius.training.grouping import DECAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from vitruvius.training.grouping import DecayRule

CHUNK = 1 << 18
"""Elements updated at a time: master, moments and gradient of a chunk (4 MiB) stay in a core's cache."""

DEVICE_CHUNK = 1 << 24
"""The same on a GPU, where a kernel's start costs more than 2^18 elements do; 64 MiB of scratch."""


@dataclass(slots=True)
class Slot:
    """One parameter with its fp32 state; `master` is the parameter's own memory when that is fp32 already."""

    parameter: nn.Parameter
    master: Tensor
    state: dict[str, Tensor]
    """What the update rule keeps from step to step, by name."""
    group: ParameterGroup
    accumulated: Tensor | None = None
    shared: SharedMatrix | None = None
    """Set where processes share the tensor: how a rule that needs whole matrices gets them."""

    @property
    def weight(self) -> Tensor:
        """The memory of the parameter: all of it, or this process's part where processes share its state."""
        return local(self.parameter.detach())

    def gradient(self) -> Tensor | None:
        """Of this step: the sum over micro-batches, or what the last backward pass left; None without any."""
        if self.accumulated is not None:
            return self.accumulated
        return None if self.parameter.grad is None else local(self.parameter.grad)

    @property
    def is_own_master(self) -> bool:
        """Whether there is no copy besides the weight itself."""
        return self.master.dtype == self.parameter.dtype


class SharedMatrix(Protocol):
    """A tensor of which every process has a part; its methods are called by all processes."""

    def whole(self, part: Tensor) -> Tensor:
        """The whole of what this process has `part` of, in every process."""
        ...

    def mine(self, whole: Tensor) -> Tensor:
        """This process's part of a whole."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one update is told besides the gradients."""

    number: int
    """Counted from 1."""
    lr: float
    """The learning rate of the slot: the step's, times the factor of its group."""
    clip: float
    """What gradients are multiplied by: that clips them, and takes the scale of the loss off again."""


class UpdateRule(Protocol):
    """How a weight follows its gradient."""

    def new_state(self, master: Tensor) -> dict[str, Tensor]:
        """What it keeps of a parameter before the first update, by name, in whatever shapes and dtypes."""
        ...

    def update(self, slot: Slot, grad: Tensor, step: Step) -> None:
        """Change the master and its state, and round the master into the weight."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWRule:
    """Decoupled weight decay and Adam's moments (Loshchilov and Hutter, 2019), a chunk at a time while in cache."""

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment per step."""
    eps: float = 1e-8
    """Added to the root of the second moment."""

    def new_state(self, master: Tensor) -> dict[str, Tensor]:
        """Two moments of zeros."""
        return zeros_for(self.state_names, master)

    def update(self, slot: Slot, grad: Tensor, step: Step) -> None:
        """One step of torch's fused AdamW on master and moments."""
        master, weight, grad = slot.master.view(-1), slot.weight.view(-1), grad.reshape(-1)
        exp_avg, exp_avg_sq = slot.state["exp_avg"].view(-1), slot.state["exp_avg_sq"].view(-1)
        # Filled there: a number that is copied to a GPU makes the host wait for it, for each parameter of each step.
        number = torch.full((), float(step.number), device=master.device)
        chunk = chunk_on(master.device)
        scratch = torch.empty(min(chunk, grad.numel()), device=master.device)
        for start in range(0, grad.numel(), chunk):
            part = slice(start, min(start + chunk, grad.numel()))
            wide = scratch[: part.stop - start].copy_(grad[part])
            if step.clip != 1.0:
                wide.mul_(step.clip)
            # The kernel behind torch.optim.AdamW(fused=True).
            torch.ops.aten._fused_adamw_(
                [master[part]],
                [wide],
                [exp_avg[part]],
                [exp_avg_sq[part]],
                [],
                [number],
                lr=step.lr,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=slot.group.weight_decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )
            if not slot.is_own_master:
                weight[part].copy_(master[part])


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters that share an update rule, a weight decay and a learning-rate factor."""

    name: str
    """What the group is called in messages and metrics."""

    parameters: Mapping[str, nn.Parameter]
    """By the name they have in the model; a tied weight appears once."""

    weight_decay: float
    """Decoupled: each step multiplies the weight by 1 - lr * weight_decay."""

    lr_factor: float = 1.0
    """Multiplies the step's learning rate."""

    rule: UpdateRule = AdamWRule()
    """How they follow their gradients."""


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    decay: DecayRule = "matrices",
    embeddings: frozenset[str] = frozenset(),
) -> tuple[ParameterGroup, ...]:
    """Split trainable parameters into those that decay and those that do not.

    `matrices` decays everything with two or more dimensions (so no norm gain and no bias), embeddings included;
    `matrices-not-embeddings` leaves out the names in `embeddings`. Empty groups are dropped.
    """
    if decay not in DECAYS:
        raise UsageError(f"there is no decay rule {decay!r}", fix=f"use one of {', '.join(DECAYS)}")
    with_decay: dict[str, nn.Parameter] = {}
    without: dict[str, nn.Parameter] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decays = DECAYS[decay](parameter.dim(), name in embeddings)
            (with_decay if decays else without)[name] = parameter
    groups = (
        ParameterGroup(name="decayed", parameters=with_decay, weight_decay=weight_decay),
        ParameterGroup(name="undecayed", parameters=without, weight_decay=0.0),
    )
    return tuple(group for group in groups if group.parameters)


class MasterOptimizer:
    """Reads gradients in the weights' dtype and keeps master weights and state in fp32; each group has its own rule.

    Clipping is folded into the read of the gradient, rounding to the weights' dtype into the write. fp32 parameters are
    their own masters. A step depends on nothing but the state, the gradients and its arguments, so a run restored with
    `load_tensors` continues bit for bit. Source: Micikevicius et al., Mixed Precision Training, 2018.
    """

    def __init__(self, groups: Sequence[ParameterGroup], *, lr: float) -> None:
        """Raise UsageError for a parameter named twice or with a dtype that has no fp32 master."""
        self.groups = tuple(groups)
        self.lr = lr
        self.steps = 0
        self.elsewhere: frozenset[str] = frozenset()
        """Parameters whose gradients another process counts in the norm."""
        self.combined: Callable[[float], float] | None = None
        """The norm over all processes from that of one, where they share the gradients."""
        self._slots: dict[str, Slot] = {}
        for group in self.groups:
            for name, parameter in group.parameters.items():
                if name in self._slots:
                    raise UsageError(f"parameter {name} is in two groups", fix="put it in one")
                self._slots[name] = _slot(name, parameter, group)

    def slots(self) -> Iterable[Slot]:
        """The parameters with their state, in an order that is the same in every process."""
        return self._slots.values()

    @torch.no_grad()
    def accumulate(self) -> None:
        """Add the gradients at hand to fp32 sums and clear them: call after the backward pass of each micro-batch.

        The caller divides the loss by the number of micro-batches. With a single micro-batch this is not needed.
        """
        for slot in self._slots.values():
            if slot.parameter.grad is None:
                continue
            grad = local(slot.parameter.grad)
            if slot.accumulated is None:
                slot.accumulated = grad.to(torch.float32, copy=True)
            else:
                slot.accumulated.add_(grad)
            slot.parameter.grad = None

    @torch.no_grad()
    def grad_norm(self) -> float:
        """L2 norm over all gradients, summed in fp32."""
        grads = [grad for name, grad in self.gradients().items() if name not in self.elsewhere]
        norm = 0.0
        if grads:
            # What torch.nn.utils.clip_grad_norm_ itself calls, but with fp32 sums.
            norms = torch.ops.aten._foreach_norm(grads, 2, torch.float32)  # noqa: SLF001
            norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        return norm if self.combined is None else self.combined(norm)

    @torch.no_grad()
    def step(self, *, lr: float | None = None, clip: float | None = None) -> float:
        """Update all parameters that have a gradient and return the gradients' norm before clipping.

        With `clip`, gradients are scaled so that their norm is at most that. Gradients are left as they are: call
        `zero_grad`. When the norm is not finite nothing is changed, and the step does not count.
        """
        norm = self.grad_norm()
        if math.isfinite(norm):
            self.apply(norm, lr=lr, clip=clip)
        return norm

    @torch.no_grad()
    def apply(
        self, norm: float, *, lr: float | None = None, clip: float | None = None, loss_scale: float = 1.0
    ) -> None:
        """As `step`, for gradients whose norm is known and finite.

        loss_scale: what the loss was multiplied by; the gradients at hand are larger by as much than `norm` says.
        """
        if lr is not None:
            self.lr = lr
        factor = (1.0 if clip is None else min(1.0, clip / (norm + 1e-6))) / loss_scale
        self.steps += 1
        for slot in self._slots.values():
            grad = slot.gradient()
            if grad is not None:
                group = slot.group
                group.rule.update(slot, grad, Step(number=self.steps, lr=self.lr * group.lr_factor, clip=factor))

    def named_slots(self) -> Iterable[tuple[str, Slot]]:
        """As `slots`, each with its parameter's name."""
        return self._slots.items()

    def gradients(self) -> dict[str, Tensor]:
        """The gradients of this step that there are, by name, as large as the loss was; the optimizer's own tensors."""
        return {name: grad for name, slot in self._slots.items() if (grad := slot.gradient()) is not None}

    def zero_grad(self) -> None:
        """Drop the gradients and the sums over micro-batches."""
        for slot in self._slots.values():
            slot.parameter.grad = None
            slot.accumulated = None

    def tensors(self) -> dict[str, Tensor]:
        """The whole state by name, as a checkpoint stores it: `step`, `master.NAME`, and what its rule keeps of each.

        AdamW keeps `exp_avg.NAME` and `exp_avg_sq.NAME`, Muon `momentum.NAME`. A parameter that is its own master has
        no `master` entry: the model's file holds it. The tensors are the optimizer's own memory; copy them before the
        next step if they are written later.
        """
        state = {"step": torch.tensor(self.steps, dtype=torch.int64)}
        for name, slot in self._slots.items():
            for kind, tensor in _kinds(slot).items():
                state[f"{kind}.{name}"] = tensor
        return state

    @torch.no_grad()
    def load_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave, and round the masters into the weights.

        Raises RunError, before anything is changed, when names, shapes or dtypes differ from this model's.
        """
        mine = self.tensors()
        findings = [f"{name} is missing" for name in mine.keys() - state.keys()]
        findings += [f"{name} is not in this model" for name in state.keys() - mine.keys()]
        for name in mine.keys() & state.keys():
            here, there = mine[name], state[name]
            if here.shape != there.shape or here.dtype != there.dtype:
                findings.append(
                    f"{name} is {list(there.shape)} {there.dtype}, expected {list(here.shape)} {here.dtype}"
                )
        if findings:
            raise RunError(
                "optimiser state does not fit the model: " + "; ".join(sorted(findings)[:8]),
                fix="resume with the spec, the optimizer and the dtype that the checkpoint was written with",
            )
        self.steps = int(state["step"])
        for name, slot in self._slots.items():
            for kind, tensor in _kinds(slot).items():
                tensor.copy_(state[f"{kind}.{name}"])
            if not slot.is_own_master:
                slot.weight.copy_(slot.master)


class MasterAdamW(MasterOptimizer):
    """AdamW over every group, with one pair of betas and one eps."""

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        """Raise UsageError as MasterOptimizer does."""
        rule = AdamWRule(betas=betas, eps=eps)
        super().__init__([replace(group, rule=rule) for group in groups], lr=lr)


def chunk_on(device: torch.device) -> int:
    """How many elements a step updates at a time."""
    return CHUNK if device.type == "cpu" else DEVICE_CHUNK


def zeros_for(names: Iterable[str], master: Tensor) -> dict[str, Tensor]:
    """fp32 zeros in the shape of a parameter, under each of some names."""
    return {name: torch.zeros_like(master, memory_format=torch.contiguous_format) for name in names}


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that processes share, as a view; another tensor as it is."""
    # Asked for by name: torch.distributed is not imported for a run of one process.
    part: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def _slot(name: str, parameter: nn.Parameter, group: ParameterGroup) -> Slot:
    if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UsageError(
            f"parameter {name} is {parameter.dtype}, which has no fp32 master", fix="train in float32 or bfloat16"
        )
    weight = local(parameter.detach())
    master = weight if weight.dtype == torch.float32 else weight.to(torch.float32)
    return Slot(parameter=parameter, master=master, state=group.rule.new_state(master), group=group)


def _kinds(slot: Slot) -> dict[str, Tensor]:
    return slot.state if slot.is_own_master else {"master": slot.master, **slot.state}
