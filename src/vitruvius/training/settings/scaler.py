"""`train.scaler`: what the loss is multiplied by in fp16, so that small gradients do not vanish."""

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

_WHY = {
    "bf16": "bf16 has the exponent range of fp32: no gradient under- or overflows in it that would not in fp32",
    "fp32": "nothing is gained by scaling fp32",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler(Section):
    """What the loss is multiplied by in fp16."""

    effect: ClassVar[Literal["bits", "none"]] = "bits"

    kind: Literal["auto", "dynamic", "none"] = "auto"
    """`dynamic`: the loss is scaled, and the scale falls when gradients overflow and rises while they do not. `auto`
    is that for `dtype: fp16`, and `none` for others, where it would do nothing."""
    initial: Annotated[float, Gt(0.0), Le(2.0**40)] = 2.0**16
    """The scale at the start."""
    growth: Annotated[float, Ge(1.0), Le(1024.0)] = 2.0
    """What the scale is multiplied by after `growth_every` applied updates in a row."""
    growth_every: Annotated[int, Ge(1), Le(2**31 - 1)] = 2000
    """Applied updates in a row after which the scale grows."""
    backoff: Annotated[float, Gt(0.0), Lt(1.0)] = 0.5
    """What the scale is multiplied by after an overflow; that update is not applied."""
    overflows: Annotated[int, Ge(1), Le(1000)] = 20
    """Overflows in a row that are borne; one more ends the run, since no scale helps then."""

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """A scale where there is nothing to scale."""
        del architecture
        if config.dtype == "fp16" or self == Scaler():
            return
        if self.kind == "none":
            if self != Scaler(kind="none"):
                what = "the loss is not scaled, and how to scale it is set"
                yield Finding(path="train.scaler", what=what, fix="leave train.scaler out")
            return
        what = f"a loss scale does nothing for dtype: {config.dtype}: {_WHY[config.dtype]}"
        yield Finding(path="train.scaler", what=what, fix="leave train.scaler out; it is for dtype: fp16")
