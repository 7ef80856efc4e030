"""A part of the settings that one concern of training owns: `train.guard`, `train.watch` and so on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.errors import Finding
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Base of sections: frozen, keyword-only, slotted dataclasses with a docstring under every field."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    effect: ClassVar[Literal["bits", "none"]] = "bits"
    """Whether it decides what a run computes; a checkpoint belongs to the settings that do."""

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """What does not go together with the other settings; paths start with `train.`."""
        del config, architecture
        yield from ()
