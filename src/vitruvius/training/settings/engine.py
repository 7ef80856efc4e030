"""`train.engine`: which processes and devices share the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from vitruvius.errors import Finding
from vitruvius.training.settings.section import Section

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
        """A way of talking that the device does not have."""
        del architecture
        if self.backend == "nccl" and config.device == "cpu":
            what = "nccl connects CUDA devices, and the device is cpu"
            yield Finding(path="train.engine.backend", what=what, fix="use backend: gloo, or leave it out")
        if self.backend == "gloo" and config.device == "cuda":
            what = "gloo connects CPUs, and the device is cuda"
            yield Finding(path="train.engine.backend", what=what, fix="use backend: nccl, or leave it out")
