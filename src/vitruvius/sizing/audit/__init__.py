"""Claims held against the arithmetic: each true, false, or not to be decided by it, with the numbers.

A claim is true where the true number rounds to what was said. It is false where it does not, and where it is beyond
what hardware allows at best. Otherwise (a speed below its bound, a memory estimate that may be off by more than the
gap, code, quality) it is unverifiable, with what would decide it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from vitruvius.errors import SpecError, UsageError
from vitruvius.sizing.audit.reading import ClaimFile, read_claims, read_claims_text
from vitruvius.sizing.audit.topics import TOPICS

if TYPE_CHECKING:
    import os

    from vitruvius.sizing.audit.claims import Claim
    from vitruvius.sizing.audit.outcome import Outcome

__all__ = ["SHIPPED", "Audit", "Judgement", "audit", "audit_text", "judge"]

SCHEMA = "vitruvius.audit/1"
SHIPPED = {"documents": "documents.yaml"}
"""Claim files that come with vitruvius, by name."""

Verdict = Literal["true", "false", "unverifiable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A claim and what the arithmetic says of it."""

    claim: Claim
    verdict: Verdict
    actual: float | None
    """None where no arithmetic decides."""
    shown: str
    steps: tuple[str, ...]
    why: str
    """Of what is unverifiable: why, and what would decide it."""

    def to_dict(self) -> dict[str, Any]:
        """One entry of `vitruvius.audit/1`."""
        claim = self.claim
        place = claim.place
        return {
            "about": claim.about,
            "says": claim.text,
            "source": claim.source,
            "verdict": self.verdict,
            "actual": self.actual,
            "shown": self.shown,
            "arithmetic": list(self.steps),
            "why": self.why or None,
            "shown_by": claim.shown_by or None,
            "note": claim.note or None,
            "line": None if place is None else place.line,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All judgements of a file."""

    file: str
    judgements: tuple[Judgement, ...]

    def count(self, verdict: Verdict) -> int:
        """How many came out so."""
        return sum(each.verdict == verdict for each in self.judgements)

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable contract `vitruvius.audit/1`."""
        return {
            "schema": SCHEMA,
            "file": self.file,
            "true": self.count("true"),
            "false": self.count("false"),
            "unverifiable": self.count("unverifiable"),
            "claims": [each.to_dict() for each in self.judgements],
        }


def audit(file: str | os.PathLike[str]) -> Audit:
    """The judgements of a file of claims, or of a shipped one by its name (`documents`).

    Raises SpecError with every finding at file:line:column.
    """
    if isinstance(file, str) and file in SHIPPED:
        text = (resources.files("vitruvius.sizing.claim_files") / SHIPPED[file]).read_text(encoding="utf-8")
        return _judged(read_claims_text(text, file=SHIPPED[file]))
    return _judged(read_claims(file))


def audit_text(text: str, *, file: str = "claims.yaml") -> Audit:
    """As `audit`, from the text of a file."""
    return _judged(read_claims_text(text, file=file))


def _judged(claims: ClaimFile) -> Audit:
    return Audit(file=claims.name, judgements=tuple(judge(claim) for claim in claims.claims))


def judge(claim: Claim) -> Judgement:
    """Hold one claim against the arithmetic. Raises SpecError, at its line, where it makes no sense for its spec."""
    topic = TOPICS[claim.about]
    if topic.judge is None or claim.said is None:
        return Judgement(claim=claim, verdict="unverifiable", actual=None, shown="", steps=(), why=claim.why)
    try:
        outcome = topic.judge(claim)
    except UsageError as error:
        assert claim.place is not None
        raise SpecError([replace(claim.place, what=error.what, fix=error.fix)]) from None
    verdict, why = _verdict(claim, outcome)
    return Judgement(
        claim=claim, verdict=verdict, actual=outcome.actual, shown=outcome.shown, steps=outcome.steps, why=why
    )


def _verdict(claim: Claim, outcome: Outcome) -> tuple[Verdict, str]:
    said, actual = claim.said, outcome.actual
    assert said is not None
    if outcome.sure == "best":
        if said.low > actual:
            return "false", ""
        said_is = (said.low + said.high) / 2 if said.low > -inf and said.high < inf else 0.0
        share = f", and this is {said_is / actual:.0%} of it" if 0 < said_is <= actual else ""
        return "unverifiable", f"the arithmetic gives the most there can be{share}. To decide it: {outcome.measure}"
    if outcome.sure == "cheapest":
        if said.high <= actual:
            return "false", ""
        return "unverifiable", f"the arithmetic gives the least there can be. To decide it: {outcome.measure}"
    holds = actual in said
    if outcome.sure == "estimate" and outcome.off_by:
        sides = {value in said for value in (actual - outcome.off_by, actual, actual + outcome.off_by)}
        if len(sides) > 1:
            return "unverifiable", f"the number may be off by more than the gap. To decide it: {outcome.measure}"
    return ("true" if holds else "false"), ""
