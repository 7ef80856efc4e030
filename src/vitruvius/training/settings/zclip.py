"""`train.zclip`: when the gradients' norm is an outlier, for `clipping: zclip`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from vitruvius.errors import Finding
from vitruvius.training.settings.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ZClipSettings(Section):
    """When the gradients' norm is an outlier. Defaults are those of Kumar et al. (2025)."""

    effect: ClassVar[Literal["bits", "none"]] = "bits"

    z: Annotated[float, Gt(0.0), Le(1e6)] = 2.5
    """Standard deviations above the running mean from which a norm is clipped."""
    decay: Annotated[float, Ge(0.0), Lt(1.0)] = 0.97
    """Decay of the running mean and variance per applied update."""
    warmup: Annotated[int, Ge(2), Le(1_000_000)] = 25
    """Applied updates whose norms make the first mean and variance; until then only `clip` clips."""

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """Limits that nobody asks for, or that are never reached."""
        del architecture
        if config.clipping != "zclip":
            if self != ZClipSettings():
                what = f"limits for zclip, and the clipping is {config.clipping}"
                yield Finding(path="train.zclip", what=what, fix="add clipping: zclip, or leave zclip out")
        elif self.warmup >= config.steps > 1:
            what = f"the first {self.warmup:,} norms are only gathered, and the run has {config.steps:,} steps"
            yield Finding(path="train.zclip.warmup", what=what, fix="use fewer, or clipping: norm")
