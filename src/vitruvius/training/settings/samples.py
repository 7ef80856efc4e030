"""`train.samples`: text that the model writes while it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vitruvius.training.settings.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples(Section):
    """Text that the model writes while it learns."""

    effect: ClassVar[Literal["bits", "none"]] = "none"
