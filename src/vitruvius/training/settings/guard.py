"""`train.guard`: what is looked for in every update, and what happens when it is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vitruvius.training.settings.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard(Section):
    """What is looked for in every update, and what happens when it is found."""

    effect: ClassVar[Literal["bits", "none"]] = "bits"
