"""A claim and the case that it is about, as plain values; and the words that a file may use for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from vitruvius.sizing.workload import Adapters, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.errors import Finding
    from vitruvius.sizing.audit.saying import Said
    from vitruvius.sizing.hardware import Device
    from vitruvius.spec.graph import Graph

Quantised = Literal["maps", "everything"]
"""`maps`: what a format quantises in practice, the linear maps inside layers; `everything`: each number alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One situation: an architecture, what it is to do, and on what."""

    graph: Graph
    spec: str
    """As it was named, with its overrides."""
    context: int
    batch: int = 1
    mode: Literal["inference", "train", "lora", "qlora"] = "inference"
    weights: str = "bf16"
    quantised: Quantised = "maps"
    cache: str | None = None
    optimizer: str = "adamw"
    checkpointing: str = "none"
    loss: str = "chunked"
    attention: str = "auto"
    rank: int = 16
    device: Device | None = None
    count: int = 1

    @property
    def workload(self) -> Workload:
        """As sizing takes it."""
        return Workload(
            context=self.context,
            batch=self.batch,
            mode=self.mode,
            weights=self.weights,
            cache=self.cache,
            optimizer=self.optimizer,  # pyright: ignore[reportArgumentType]
            checkpointing=self.checkpointing,  # pyright: ignore[reportArgumentType]
            loss=self.loss,  # pyright: ignore[reportArgumentType]
            attention=self.attention,  # pyright: ignore[reportArgumentType]
            adapters=Adapters(rank=self.rank),
        )

    @property
    def title(self) -> str:
        """In a line: `llama-moe, qlora, batch 1, 4,096 tokens, nf4, on rtx-4090`."""
        parts = [self.spec, *([] if self.mode == "inference" else [self.mode])]
        parts += [f"batch {self.batch}"] if self.batch > 1 else []
        parts += [f"{self.context:,} tokens", self.weights]
        parts += [] if self.device is None else [f"on {self.count} x {self.device.name}"]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Something that someone says, with everything that is needed to judge it."""

    about: str
    """A topic of `vitruvius.sizing.audit.topics`."""
    said: Said | None
    """None where the topic has no number."""
    text: str
    """What was said, as it was written."""
    source: str
    note: str
    case: Case | None
    """None where the topic needs no architecture."""
    a: Case | None = None
    b: Case | None = None
    of: str = ""
    measured: Literal["times", "saving", "increase"] = "times"
    to_context: int | None = None
    tokens: int | None = None
    expression: str = ""
    where: Mapping[str, float] = field(default_factory=dict[str, float])
    why: str = ""
    """Of a claim that no arithmetic decides: what would decide it."""
    shown_by: str = ""
    """A test or a command that shows it."""
    place: Finding | None = None
    """Where it stands in its file."""
