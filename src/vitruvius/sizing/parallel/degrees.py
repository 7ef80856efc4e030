"""How ranks are arranged in a parallel run, and how a batch is cut into micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitruvius.sizing.parallel.ranks import Zero
    from vitruvius.sizing.parallel.stages import SequenceParallel
    from vitruvius.spec.recomputing import Checkpointing

UNTESTED_CONTEXT = "context parallelism is counted, and untested in this project"
_ZERO = {0: "DDP", 1: "ZeRO-1", 2: "ZeRO-2", 3: "FSDP"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """Ranks in each direction; their product is the number of devices."""

    data: int = 1
    """Groups of ranks that train on different sequences."""
    zero: Zero = 0
    """What they divide: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too."""
    tensor: int = 1
    """Ranks that divide heads and hidden channels."""
    pipeline: int = 1
    """Stages of layers."""
    expert: int = 1
    """Data ranks that divide experts; a divisor of `data`."""
    context: int = 1
    """Ranks that divide each sequence."""

    @property
    def devices(self) -> int:
        """All of them."""
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def kinds(self) -> int:
        """How many directions there are: what a person has to set up."""
        return sum(degree > 1 for degree in (self.data, self.tensor, self.pipeline, self.expert, self.context))

    def __str__(self) -> str:
        """`FSDP 8 x tensor 4 x pipeline 2`."""
        parts = [f"{_ZERO[self.zero]} {self.data}"] if self.data > 1 else []
        named = {"tensor": self.tensor, "pipeline": self.pipeline, "context": self.context}
        parts += [f"{name} {degree}" for name, degree in named.items() if degree > 1]
        if self.expert > 1:
            parts.append(f"experts {self.expert}")
        return " x ".join(parts) or "one device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How each step's batch is worked off."""

    tokens: int
    """Of a sequence."""
    micro_batch: int
    """Sequences of one data rank at a time."""
    micro_batches: int
    """Of one data rank in a step."""
    checkpointing: Checkpointing
    sequence_parallel: SequenceParallel

    def sequences(self, degrees: Degrees) -> int:
        """Of a whole step."""
        return self.micro_batch * self.micro_batches * degrees.data

    def bubble(self, stages: int) -> float:
        """Share of a step in which a stage waits for others under 1F1B: (p - 1) / (m + p - 1)."""
        return (stages - 1) / (self.micro_batches + stages - 1)
