"""A number that is exact, or lies between two bounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Count:
    """A number between `low` and `high`."""

    low: int
    """Certainly no less."""
    value: int
    """The best that is known."""
    high: int
    """Certainly no more."""

    @staticmethod
    def exactly(number: int) -> Count:
        """A number that is known."""
        return Count(number, number, number)

    @property
    def is_exact(self) -> bool:
        """Whether the bounds leave one number."""
        return self.low == self.high

    @property
    def error(self) -> int:
        """How far `value` may be off."""
        return max(self.value - self.low, self.high - self.value)

    def __add__(self, other: Count) -> Count:
        """The sum."""
        return Count(self.low + other.low, self.value + other.value, self.high + other.high)

    def times(self, factor: int) -> Count:
        """A multiple; a negative one turns the bounds round."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Count(low, self.value * factor, high)

    def clipped(self, most: int) -> Count:
        """The same number, known to lie between 0 and `most`."""
        low, high = max(0, min(self.low, most)), max(0, min(self.high, most))
        return Count(low, min(max(self.value, low), high), high)
