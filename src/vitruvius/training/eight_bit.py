"""AdamW whose moments take 8 bits, in bitsandbytes' format and by its kernels; masters stay in fp32.

Each block of 256 numbers of a moment has its largest absolute value in fp32, and each number a byte: the nearest of 256
values between -1 and 1 (0 and 1 for the second moment), which lie closer together towards 0. Parameters of fewer than
4,096 numbers keep fp32 moments. A step unpacks, moves and packs again, so rounding is part of the rule.
Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch

from vitruvius.errors import UsageError
from vitruvius.training.master import AdamWRule, chunk_on

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.training.master import Slot, Step

BLOCK = 256
"""Numbers of a moment that share a scale."""
LEAST = 4096
"""Numbers from which a parameter's moments take 8 bits; bitsandbytes' `min_8bit_size`."""
LEAST_PAGED = 100_000
"""Numbers from which they are paged, on a GPU; as bitsandbytes has it."""
Memory = Literal["device", "paged"]


def require_bitsandbytes() -> None:
    """Raise UsageError where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "8-bit moments need a package that is not installed: bitsandbytes",
            where="train.optimizer",
            fix='pip install "vitruvius[optim]", or use optimizer: adamw',
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EightBitAdamWRule:
    """AdamW over fp32 masters with moments of a byte for each number, and 1/32 for the scales of both."""

    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment per step."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    memory: Memory = "device"
    """`paged`: moments lie in memory that CUDA moves to the host when the GPU is full. On a CPU it is `device`."""

    def new_state(self, master: Tensor) -> dict[str, Tensor]:
        """Moments of zeros: bytes and the scales of their blocks, or fp32 where the parameter is small."""
        if master.numel() < LEAST:
            return self._wide.new_state(master)
        blocks = -(-master.numel() // BLOCK)
        state: dict[str, Tensor] = {}
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment] = self._zeros(master)
            state[f"{moment}_absmax"] = torch.zeros(blocks, dtype=torch.float32, device=master.device)
        return state

    def update(self, slot: Slot, grad: Tensor, step: Step) -> None:
        """One step of bitsandbytes' blockwise AdamW on master and moments, some thousand blocks at a time."""
        if "exp_avg_absmax" not in slot.state:
            self._wide.update(slot, grad, step)
            return
        master, weight, grad = slot.master.view(-1), slot.weight.view(-1), grad.reshape(-1)
        signed, unsigned = _codes(master.device)
        paged = slot.state["exp_avg"].device != master.device
        chunk = chunk_on(master.device)  # whole blocks: what a step takes besides does not grow with the parameter
        scratch = torch.empty(min(chunk, grad.numel()), device=master.device)
        for start in range(0, grad.numel(), chunk):
            part = slice(start, min(start + chunk, grad.numel()))
            blocks = slice(start // BLOCK, -(-part.stop // BLOCK))
            wide = scratch[: part.stop - start].copy_(grad[part])
            if step.clip != 1.0:
                wide.mul_(step.clip)
            moments = [_paged_part(slot.state[name], part, paged=paged) for name in ("exp_avg", "exp_avg_sq")]
            torch.ops.bitsandbytes.optimizer_update_8bit_blockwise(
                "adam",
                wide,
                master[part],
                *moments,
                self.betas[0],
                self.betas[1],
                0.0,
                0.0,
                self.eps,
                step.number,
                step.lr,
                signed,
                unsigned,
                slot.state["exp_avg_absmax"][blocks],
                slot.state["exp_avg_sq_absmax"][blocks],
                slot.group.weight_decay,
                1.0,
                False,
            )
            if not slot.is_own_master:
                weight[part].copy_(master[part])
        if paged:
            # Kernels on paged memory run on their own; the host may read it next, for a checkpoint.
            torch.cuda.synchronize(master.device)

    @property
    def _wide(self) -> AdamWRule:
        return AdamWRule(betas=self.betas, eps=self.eps)

    def _zeros(self, master: Tensor) -> Tensor:
        if self.memory == "device" or master.device.type != "cuda" or master.numel() < LEAST_PAGED:
            return torch.zeros_like(master, dtype=torch.uint8, memory_format=torch.contiguous_format)
        functional = _bitsandbytes()
        paged: Tensor = functional.get_paged(*master.shape, dtype=torch.uint8, device=master.device)
        functional.fill(paged, 0)
        torch.cuda.synchronize(master.device)
        return paged


def _paged_part(state: Tensor, part: slice, *, paged: bool) -> Tensor:
    """Some numbers of a moment; bitsandbytes knows paged memory by an attribute, which views do not have."""
    view: Any = state.view(-1)[part]
    if paged:
        view.is_paged = True
        view.page_deviceid = getattr(state, "page_deviceid", 0)
    return view


@cache
def _bitsandbytes() -> Any:
    """Its functions; the import registers its operators with torch."""
    require_bitsandbytes()
    # It warns of a kernel for 4-bit products that it cannot fetch, which nothing here asks for.
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from bitsandbytes import functional
    finally:
        log.setLevel(level)
    return functional


@cache
def _codes(device: torch.device) -> tuple[Tensor, Tensor]:
    """The 256 values of a byte, for numbers with a sign and for those without."""
    functional = _bitsandbytes()
    return tuple(functional.create_dynamic_map(signed=signed).to(device) for signed in (True, False))
