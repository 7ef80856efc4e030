"""`train.watch`: what is measured while a run goes, and where it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vitruvius.training.settings.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch(Section):
    """What is measured while a run goes, and where it is told."""

    effect: ClassVar[Literal["bits", "none"]] = "none"
