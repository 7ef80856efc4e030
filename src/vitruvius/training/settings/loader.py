"""`train.loader`: how batches are read ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vitruvius.training.settings.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader(Section):
    """How batches are read ahead."""

    effect: ClassVar[Literal["bits", "none"]] = "none"
