"""`train.watch`: what is measured while a run goes, and where it is told."""

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

Measure = Literal["attention", "stream", "output", "gates", "gradients", "updates", "components"]
MEASURES: dict[Measure, str] = {
    "attention": "entropy, distance and sink mass of each attention",
    "stream": "size of the residual stream after each layer",
    "output": "log-sum-exp of the logits",
    "gates": "gates of positions that depend on the text",
    "gradients": "norm of the gradients of each block",
    "updates": "size of the update over size of the weights, of each block",
    "components": "time of each kind of component, and what it keeps for the backward pass",
}
"""What can be measured in a sampled update."""

Sink = Literal["tensorboard", "wandb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch(Section):
    """What is measured while a run goes, and where it is told."""

    effect: ClassVar[Literal["bits", "none"]] = "none"

    every: Annotated[int, Ge(1), Le(2**31 - 1)] | None = 100
    """Steps between the updates in which `measures` are taken; null: none are."""
    measures: tuple[Measure, ...] = tuple(MEASURES)
    """What is measured in them; see [monitoring](monitoring.md)."""
    rows: Annotated[int, Ge(1), Le(1024)] = 1
    """Samples of the batch that attention, stream, output and gates are read from, in a pass without gradients."""
    tokens: Annotated[int, Ge(1), Le(2**20)] = 512
    """The same pass reads at most so many tokens of each; attention maps grow with their square."""
    sinks: tuple[Sink, ...] = ()
    """Where rows go besides `metrics.jsonl`: `tensorboard` (event files in the run folder), `wandb` (offline, there
    too)."""

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """Names that stand twice."""
        del config, architecture
        for field, names in (("measures", self.measures), ("sinks", self.sinks)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                yield Finding(path=f"train.watch.{field}", what=f"{twice[0]} stands there twice", fix="name it once")
