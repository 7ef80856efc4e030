"""`train.recovery`: how checkpoints are written, which of them stay, and what happens when memory runs out."""

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

Count = Annotated[int, Ge(1), Le(2**31 - 1)]
CountOrNone = Annotated[int, Ge(0), Le(2**31 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery(Section):
    """How checkpoints are written, which of them stay beside the `keep` newest, and what a lack of memory does."""

    effect: ClassVar[Literal["bits", "none"]] = "none"

    save: Literal["wait", "behind"] = "wait"
    """`wait`: training stands still until a checkpoint is on the disk and verified. `behind`: it is copied in memory
    and written while the next updates run; the same bytes, for the memory of one copy."""
    keep_every: Count | None = None
    """Checkpoints whose step this divides stay for good."""
    keep_best: CountOrNone = 0
    """So many checkpoints with the lowest `val_loss` stay too; only those count at whose step a validation was due."""
    out_of_memory: Literal["halve", "stop"] = "halve"
    """What happens when an update or a validation runs out of memory. `halve`: it is thrown away and computed again in
    smaller pieces, and so is all that follows; see [memory](training/memory.md). `stop`: the run ends."""

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """A rule that no checkpoint can ever meet is a mistake."""
        del architecture
        every = config.checkpoint_every or steps_between_checkpoints(config.steps)
        if self.keep_best and config.eval_every == 0:
            what = "the best checkpoints are to stay, and nothing is validated before the last step"
            yield Finding(path="train.recovery.keep_best", what=what, fix="set eval_every, or leave keep_best out")
        if self.keep_every is not None and every < config.steps and self.keep_every % every:
            what = f"checkpoints are written every {every:,} steps, and not at each multiple of {self.keep_every:,}"
            fix = f"use a multiple of checkpoint_every: {every * max(1, round(self.keep_every / every)):,}"
            yield Finding(path="train.recovery.keep_every", what=what, fix=fix)


def steps_between_checkpoints(steps: int) -> int:
    """`checkpoint_every` where it is not given."""
    return min(1000, max(10, steps // 10))
