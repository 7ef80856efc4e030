"""Short samples first: a stage of a run cuts each sample into equal pieces, so tokens and samples stay the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a run that reads shorter samples."""

    until: int
    """The first step that is no longer in it, counted from 0."""
    context: int
    """Tokens per sample; divides the context of the run."""


def context_at(stages: Sequence[Stage], step: int, longest: int) -> int:
    """Tokens per sample at a step counted from 0: those of its stage, or `longest` after the last one."""
    return next((stage.context for stage in stages if step < stage.until), longest)
