"""How much memory a training step takes, measured: what torch's allocator handed out, and the process.

    measured = measure_step(vt.preset("tiny-llama"), batch=4, tokens=256)
    measured.peak, measured.phases["backward"]

The update is that of `vitruvius.training.loop`: model, masters and all. `vitruvius.sizing.training` predicts it.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal

import torch

from vitruvius.checks.memory import at_least_one, in_fresh_process, measured_on, report_process
from vitruvius.nn import Signals, build
from vitruvius.spec import from_plain, to_data
from vitruvius.training.config import TrainConfig
from vitruvius.training.optim import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitruvius.checks.memory import Device, Measured, ProcessMemory
    from vitruvius.nn import Model
    from vitruvius.spec import Architecture
    from vitruvius.spec.recomputing import Checkpointing


def measure_step(
    architecture: Architecture,
    *,
    batch: int = 1,
    tokens: int | None = None,
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16",
    optimizer: Literal["adamw", "adamw-8bit", "muon"] = "adamw",
    checkpointing: Checkpointing = "none",
    accumulate: int = 1,
    documents: Literal["joined", "separate"] = "joined",
    z_loss: float = 0.0,
    device: Device = "cpu",
) -> Measured:
    """The memory of one update: `accumulate` micro-batches of `batch` sequences, then the optimizer's step.

    tokens: of each sequence, and of each source of an encoder-decoder; the architecture's context when not given.
    documents: `separate` packs a few texts into each row. Raises UsageError for numbers below 1.
    """
    length = architecture.context if tokens is None else tokens
    at_least_one(batch=batch, tokens=length, accumulate=accumulate)
    config = TrainConfig(dtype=dtype, optimizer=optimizer, checkpointing=checkpointing, z_loss=z_loss)

    def step() -> Steps:
        return Steps(
            architecture,
            config,
            batch=batch,
            tokens=length,
            accumulate=accumulate,
            documents=documents,
            device=device,
        )

    return measured_on(device, step)


class Steps:
    """Some updates, as `vitruvius.training.loop` does them."""

    def __init__(
        self,
        architecture: Architecture,
        config: TrainConfig,
        *,
        batch: int,
        tokens: int,
        accumulate: int = 1,
        documents: Literal["joined", "separate"] = "joined",
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(0)
        self.model: Model = build(architecture, dtype=config.dtype).to(torch.device(device))
        self.model.checkpointing = config.checkpointing
        self.model.train()
        self.optimizer = make_optimizer(self.model, config)
        self.accumulate, self.z_loss = accumulate, config.z_loss
        self.ids = torch.randint(0, architecture.vocab_size, (batch, tokens), device=device)
        self.targets = self.ids.roll(-1, 1)
        self.source = self.ids.clone() if architecture.encoder is not None else None
        self.documents = _documents(batch, tokens, device) if documents == "separate" else None

    def run(self, done: Callable[[str], None]) -> None:
        """One update; `done` is told the name of each phase when it ends."""
        for _ in range(self.accumulate):
            signals = Signals(z_loss=self.z_loss)
            objective = self.model.loss(
                self.ids, self.targets, source=self.source, documents=self.documents, signals=signals
            )
            if signals.losses:
                extra = torch.stack([loss.float() for loss in signals.losses]).sum()
                objective = objective + extra.to(objective.dtype)
            done("forward")
            (objective / self.accumulate).backward()
            if self.accumulate > 1:
                self.optimizer.accumulate()
            done("backward")
        self.optimizer.step(clip=1.0)
        self.optimizer.zero_grad()
        done("update")


def _documents(batch: int, tokens: int, device: str) -> Tensor:
    """Some texts in each row, that end elsewhere in each."""
    rows = torch.arange(batch, device=device).unsqueeze(1)
    return (torch.arange(tokens, device=device) + 37 * rows) // max(1, tokens // 3)


def measure_process(architecture: Architecture, **numbers: Any) -> ProcessMemory:
    """Train in a fresh process and read its peak from the kernel; `numbers` as for `measure_step`, without a device.

    Linux only, elsewhere UsageError.
    """
    return in_fresh_process("vitruvius.training.measuring", {"spec": to_data(architecture), "numbers": numbers})


def _asked_for() -> Steps:
    """What the fresh process is asked to do."""
    asked = json.loads(sys.stdin.read())
    architecture, numbers = from_plain(asked["spec"]), dict(asked["numbers"])
    own: dict[str, Any] = {
        name: numbers.pop(name) for name in ("batch", "tokens", "accumulate", "documents") if name in numbers
    }
    own = {"batch": 1, "tokens": architecture.context} | own
    return Steps(architecture, TrainConfig(**numbers), **own)


if __name__ == "__main__":
    report_process(_asked_for)
