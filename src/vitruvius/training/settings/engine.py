"""`train.engine`: which processes and devices share the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vitruvius.training.settings.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings(Section):
    """Which processes and devices share the work."""

    effect: ClassVar[Literal["bits", "none"]] = "bits"
