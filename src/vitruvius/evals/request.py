"""What is to be benched: who takes part, at which lengths, in which phases, and how much it may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vitruvius.evals.machine import BRIEF

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.evals.machine import Effort
    from vitruvius.nn import Model
    from vitruvius.nn.place import BackendName
    from vitruvius.spec import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """An architecture that takes part, and how its model comes about."""

    name: str
    architecture: Architecture
    model: Callable[[], Model]
    """The built model; the same one for contenders that share it."""
    backend: BackendName = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be benched."""

    lengths: tuple[int, ...]
    phases: tuple[str, ...]
    batch: int
    dtype: str
    warmups: int
    runs: int
    seconds: float
    """Time for all of it, about."""
    seed: int
    threads: int | None = None
    effort: Effort = BRIEF
    """Of measuring the machine."""


class Listener(Protocol):
    """Told what a bench is doing."""

    def __call__(self, text: str, /) -> None:
        """One line of talk."""
        ...
