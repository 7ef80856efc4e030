"""`train.engine`: which processes and devices share the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from vitruvius.errors import Finding
from vitruvius.training.settings.section import Section
from vitruvius.training.splitting import undivided

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings(Section):
    """Which processes and devices share the work."""

    effect: ClassVar[Literal["bits", "none"]] = "none"
    """A checkpoint is whole whatever wrote it, so that another number of processes may go on from it."""

    kind: Literal["local", "ddp", "fsdp2"] = "local"
    """`local`: one process. `ddp`: several, started by torchrun, each with the whole model and a share of every batch.
    `fsdp2`: the same, each with a part of the weights, gradients and optimizer; see docs/distributed.md."""
    tensor_parallel: Annotated[int, Ge(1), Le(4096)] = 1
    """Under `fsdp2`: so many processes compute a share of the batch together, each with a part of every layer's heads
    and hidden channels."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """How processes talk under `ddp`: `gloo` between CPUs, `nccl` between CUDA devices; `auto` is what fits the
    device."""
    timeout: Annotated[int, Ge(1), Le(86_400)] = 600
    """Seconds that a process waits for the others under `ddp` before it ends with an error; a checkpoint has to be
    written and a validation done within them."""

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """A way of talking that the device does not have, and what parts of a model cannot do."""
        if self.backend == "nccl" and config.device == "cpu":
            what = "nccl connects CUDA devices, and the device is cpu"
            yield Finding(path="train.engine.backend", what=what, fix="use backend: gloo, or leave it out")
        if self.backend == "gloo" and config.device == "cuda":
            what = "gloo connects CPUs, and the device is cuda"
            yield Finding(path="train.engine.backend", what=what, fix="use backend: nccl, or leave it out")
        if self.kind == "fsdp2":
            yield from self._of_parts(config)
            if architecture is not None and self.tensor_parallel > 1:
                yield from undivided(architecture, self.tensor_parallel)
        elif self.tensor_parallel > 1:
            what = f"{self.tensor_parallel} processes are to share a layer, and kind: {self.kind} shares none"
            yield Finding(path="train.engine.tensor_parallel", what=what, fix="add kind: fsdp2, or leave it out")

    def _of_parts(self, config: TrainConfig) -> Iterator[Finding]:
        """What needs the whole of a tensor in one process."""
        if config.optimizer.startswith("adamw-8bit"):
            what = "blocks of 8-bit state reach over the parts of a tensor, and kind: fsdp2 cuts them"
            yield Finding(path="train.optimizer", what=what, fix="use adamw: its state is cut too; or kind: ddp")
        if config.compile != "none":
            what = "the compiled loss does not pass the hooks that gather the weights under kind: fsdp2"
            yield Finding(path="train.compile", what=what, fix="use compile: none, or kind: ddp")
        if config.samples.every is not None:
            what = "one process writes the samples, and under kind: fsdp2 none has the whole model"
            fix = "leave train.samples out and read checkpoints with vitruvius generate, or use kind: ddp"
            yield Finding(path="train.samples.every", what=what, fix=fix)
