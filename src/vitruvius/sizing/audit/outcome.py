"""What the arithmetic of a claim comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vitruvius.sizing.audit.claims import Case, Claim

Sure = Literal["exact", "estimate", "best", "cheapest"]
"""`best` is the most that hardware allows (a speed), `cheapest` the least (a price): a claim beyond it is false, and
one short of it is not decided by arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the arithmetic of a topic comes to."""

    actual: float
    shown: str
    """The number for reading, exact digits beside it where there are any."""
    steps: tuple[str, ...]
    """How it comes about."""
    sure: Sure = "exact"
    off_by: float = 0.0
    """Of an estimate: how far it may be off."""
    measure: str = ""
    """What would decide a claim that this does not."""


def case_of(claim: Claim) -> Case:
    """The case of a claim whose topic has one."""
    assert claim.case is not None
    return claim.case
