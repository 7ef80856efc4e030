"""`train.engine`: which processes and devices share the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from vitruvius.errors import Finding
from vitruvius.training.settings.section import Section
from vitruvius.training.settings.zero import zero_findings
from vitruvius.training.splitting import undivided, undivided_experts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings(Section):
    """Which processes and devices share the work."""

    effect: ClassVar[Literal["bits", "none"]] = "none"
    """A checkpoint is whole whatever wrote it, so that another number of processes may go on from it."""

    kind: Literal["local", "ddp", "fsdp2", "deepspeed"] = "local"
    """`local`: one process. `ddp`: several, started by torchrun, each with the whole model and a share of every batch.
    `fsdp2`: the same, each with a part of the weights, gradients and optimizer. `deepspeed`: the same by DeepSpeed's
    ZeRO, a package of its own; see docs/distributed.md."""
    zero: Literal[2, 3] | None = None
    """Under `deepspeed`: 2 divides gradients and optimizer, 3 weights too; 2 where it is left out."""
    tensor_parallel: Annotated[int, Ge(1), Le(4096)] = 1
    """Under `fsdp2`: so many processes compute a share of the batch together, each with a part of every layer's heads
    and hidden channels."""
    expert_parallel: Annotated[int, Ge(1), Le(65_536)] = 1
    """Under `fsdp2` or `ddp`: so many processes divide the experts of every mixture, and send each other the rows for
    them."""
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
        if self.kind == "fsdp2" or self.expert_parallel > 1:
            yield from self._of_parts(config)
        if self.expert_parallel > 1:
            yield from self._of_experts(architecture)
        if self.kind == "fsdp2":
            if architecture is not None and self.tensor_parallel > 1:
                yield from undivided(architecture, self.tensor_parallel)
        elif self.tensor_parallel > 1:
            what = f"{self.tensor_parallel} processes are to share a layer, and kind: {self.kind} shares none"
            yield Finding(path="train.engine.tensor_parallel", what=what, fix="add kind: fsdp2, or leave it out")
        if self.kind == "deepspeed":
            yield from zero_findings(config, architecture)
        elif self.zero is not None:
            what = f"a stage of DeepSpeed's ZeRO, and kind: {self.kind} has none"
            yield Finding(path="train.engine.zero", what=what, fix="add kind: deepspeed, or leave it out")

    def _of_experts(self, architecture: Architecture | None) -> Iterator[Finding]:
        """Processes that divide no experts, and experts that cannot be divided."""
        if self.kind not in {"ddp", "fsdp2"}:
            what = f"{self.expert_parallel} processes are to divide the experts, and kind: {self.kind} divides none"
            fix = "add kind: fsdp2 or kind: ddp, or leave it out"
            yield Finding(path="train.engine.expert_parallel", what=what, fix=fix)
        elif architecture is not None:
            yield from undivided_experts(architecture, self.expert_parallel)

    def _of_parts(self, config: TrainConfig) -> Iterator[Finding]:
        """What needs the whole of a tensor in one process."""
        shared = "kind: fsdp2" if self.kind == "fsdp2" else f"expert_parallel: {self.expert_parallel}"
        other = "kind: ddp" if self.expert_parallel == 1 else "kind: ddp without expert_parallel"
        if config.optimizer.startswith("adamw-8bit"):
            what = f"blocks of 8-bit state reach over the parts of a tensor, and {shared} cuts them"
            yield Finding(path="train.optimizer", what=what, fix=f"use adamw: its state is cut too; or {other}")
        if config.compile != "none":
            what = f"the compiled loss does not pass the hooks that bring the parts together under {shared}"
            yield Finding(path="train.compile", what=what, fix=f"use compile: none, or {other}")
        if config.samples.every is not None:
            what = f"one process writes the samples, and under {shared} none has the whole model"
            fix = f"leave train.samples out and read checkpoints with vitruvius generate, or use {other}"
            yield Finding(path="train.samples.every", what=what, fix=fix)
