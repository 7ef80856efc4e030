"""`train.recovery`: how checkpoints are written and kept, and what happens when memory runs out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vitruvius.training.settings.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery(Section):
    """How checkpoints are written and kept, and what happens when memory runs out."""

    effect: ClassVar[Literal["bits", "none"]] = "bits"
