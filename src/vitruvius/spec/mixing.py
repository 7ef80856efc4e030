"""What an architecture asks of its mixers, with the answers that fit most of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from fractions import Fraction

    from vitruvius.errors import Finding
    from vitruvius.patterns import Pattern
    from vitruvius.spec.costs import StateSpec
    from vitruvius.spec.scope import Heads, Scope


class Mixing:
    """Base of mixers: who attends to whom, what is kept while decoding, and what is read from other layers."""

    __slots__ = ()

    @property
    def keys_of(self) -> str | None:
        """Block whose nearest earlier layer's keys and values are read in place of its own."""
        return None

    @property
    def values_of(self) -> str | None:
        """Block whose nearest earlier layer's values are mixed into its own."""
        return None

    def lends(self, scope: Scope, what: Literal["keys", "values"]) -> Heads | None:  # noqa: ARG002 (mixers without keys)
        """The heads of the keys or values that later layers may read, or None where there are none to be had."""
        return None

    def findings_of_loan(self, what: Literal["keys", "values"], lender: Mixing, scope: Scope) -> Iterable[Finding]:
        """What does not fit reading the keys or values of a layer with that mixer; paths start at its own fields."""
        del what, lender, scope
        return ()

    @property
    def opens_prefix(self) -> bool:
        """Whether the run-time prefix of a text is read in both directions."""
        return False

    def pattern(self) -> Pattern | None:
        """Who attends to whom, or None when the mixer has no query-key pairs."""
        return None

    @property
    def row_sums(self) -> Literal["one", "below-one"]:
        """What the attention weights of a query add up to: `below-one` where a sink takes a share."""
        return "one"

    @property
    def rounding(self) -> Literal["even", "at-zeros"]:
        """Where rounding shows: at every token alike, or most where what a norm divides happens to vanish."""
        return "even"

    def pair_flops(self, scope: Scope) -> int:  # noqa: ARG002 (mixers without pairs)
        """Floating-point operations of each query-key pair of the pattern."""
        return 0

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:  # noqa: ARG002 (mixers that keep nothing)
        """What is kept while decoding one sequence of up to `capacity` tokens, by name."""
        return {}

    def heads_and_groups(self) -> tuple[int, int] | None:
        """Query heads and key heads, for drawings; None without heads."""
        return None

    def stream_per_channel(self, scope: Scope, most: int) -> Fraction | None:  # noqa: ARG002 (most fit any width)
        """Width of the twin's stream for each channel of one of the twin's heads, where the two are bound."""
        return None
