"""`train.loader`: how batches are read ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from vitruvius.errors import Finding
from vitruvius.training.settings.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig

MOST_WORKERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader(Section):
    """How batches are read ahead."""

    effect: ClassVar[Literal["bits", "none"]] = "none"

    workers: Annotated[int, Ge(0), Le(MOST_WORKERS)] = 0
    """How many read batches ahead while a step is computed; 0: each batch is read when its step begins. See
    [loader](training/loader.md)."""
    by: Literal["auto", "threads", "processes"] = "auto"
    """What workers are: `threads` of the run or `processes` of their own; `auto` is processes where `preprocess` names
    a hook, and threads elsewhere."""
    ahead: Annotated[int, Ge(1), Le(1024)] = 4
    """Batches that are ready or being read at most while a step is computed; each takes 25 bytes per token."""
    timeout: Annotated[float, Gt(0.0), Le(86_400.0)] = 60.0
    """Seconds that the run waits for a worker without a further sample before it ends with an error; ten times as many
    while the worker opens the data."""

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """Workers that would have nothing to do."""
        del config, architecture
        if self.workers > self.ahead:
            what = f"{self.workers} workers, and only {self.ahead} batches are read ahead"
            yield Finding(path="train.loader.ahead", what=what, fix=f"use at least ahead: {self.workers}")
