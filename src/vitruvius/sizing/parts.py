"""A number and the numbers it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some bytes, the formula they come from, and what they are made of."""

    name: str
    size: int
    """Bytes."""
    formula: str = ""
    parts: tuple[Part, ...] = ()
    """Where they are given, they add up to `size`."""

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Part]]:
        """Itself and everything inside, each with its depth."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        parts = [part.to_dict() for part in self.parts]
        return {"name": self.name, "bytes": self.size, "formula": self.formula, "parts": parts}
