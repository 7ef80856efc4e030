"""The optimizer of a run under DeepSpeed: its step is DeepSpeed's, its state stands in checkpoints as everyone's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch

from vitruvius.errors import RunError
from vitruvius.training.engines.deepspeed_zero import STATES
from vitruvius.training.master import MasterOptimizer, Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from vitruvius.training.engines.deepspeed_zero import Zero


@final
class ZeroOptimizer(MasterOptimizer):
    """AdamW, of which each process keeps runs of every master and moment; tensors are flat runs of the whole ones."""

    def __init__(self, zero: Zero, *, lr: float, total: Callable[[float], float]) -> None:
        """total: the sum of a number over all processes."""
        super().__init__((), lr=lr)
        self.groups = tuple(zero.groups)
        self.zero = zero
        self._total = total
        for group in self.groups:
            for name, parameter in group.parameters.items():
                state = {key: zero.master(name, key) for key in STATES}
                self._slots[name] = Slot(parameter=parameter, master=zero.master(name), state=state, group=group)

    def accumulate(self) -> None:
        """Nothing: DeepSpeed adds the gradients of a piece to those before in its backward pass."""

    def grad_norm(self) -> float:
        """L2 norm over the gradients of all processes' runs."""
        return math.sqrt(self._total(self.zero.squares()))

    def gradients(self) -> dict[str, Tensor]:
        """This process's runs of them, in DeepSpeed's memory."""
        return self.zero.gradients()

    def apply(
        self, norm: float, *, lr: float | None = None, clip: float | None = None, loss_scale: float = 1.0
    ) -> None:
        """DeepSpeed's step. It takes the norm once more itself, where it clips."""
        assert math.isfinite(norm)
        assert loss_scale == 1.0
        if lr is not None:
            self.lr = lr
        self.zero.step(lr=self.lr, clip=clip)
        self.steps += 1

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.zero.discard()

    def tensors(self) -> dict[str, Tensor]:
        """As `MasterOptimizer.tensors`, each a run of the whole: an fp32 weight is its own master in a checkpoint."""
        state = {"step": torch.tensor(self.steps, dtype=torch.int64)}
        for name, slot in self._slots.items():
            kinds = slot.state if slot.is_own_master else {"master": slot.master, **slot.state}
            state |= {f"{kind}.{name}": tensor for kind, tensor in kinds.items()}
        return state

    @torch.no_grad()
    def load_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave, after the weights. Raises RunError, before anything is changed, on a misfit."""
        mine = self.tensors()
        findings = [f"{name} is missing" for name in mine.keys() - state.keys()]
        findings += [f"{name} is not in this model" for name in state.keys() - mine.keys()]
        for name in mine.keys() & state.keys():
            here, there = mine[name], state[name]
            if here.shape != there.shape or here.dtype != there.dtype:
                findings.append(f"{name} is {there.dtype}, expected {here.dtype}")
        if findings:
            raise RunError(
                "optimiser state does not fit the model: " + "; ".join(sorted(findings)[:8]),
                fix="resume with the spec, the optimizer and the dtype that the checkpoint was written with",
            )
        self.steps = int(state["step"])
        self.zero.begin_at(self.steps)
        for name, slot in self._slots.items():
            for kind, tensor in slot.state.items():
                tensor.copy_(state[f"{kind}.{name}"])
            weight = self.zero.weight(name)
            if slot.is_own_master:
                # DeepSpeed has masters of fp32 weights beside them.
                slot.master.copy_(weight)
            else:
                slot.master.copy_(state[f"master.{name}"])
