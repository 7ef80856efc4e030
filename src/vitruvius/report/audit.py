"""An audit for reading: each claim with its mark, the true number, and the arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.report.bill import RIGHT, WRONG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.audit import Audit, Judgement

OPEN = "?"
_MARKS = {"true": RIGHT, "false": WRONG, "unverifiable": OPEN}


def audit_text(audit: Audit) -> str:
    """A paragraph for each claim, then how many came out which way."""
    parts = ["\n".join(_lines(each)) for each in audit.judgements]
    total = len(audit.judgements)
    counts = ", ".join(f"{audit.count(verdict)} {verdict}" for verdict in ("true", "false", "unverifiable"))
    return "\n\n".join([*parts, f"{total} claim{'' if total == 1 else 's'}: {counts}"])


def _lines(each: Judgement) -> Iterator[str]:
    claim = each.claim
    mark = _MARKS[each.verdict]
    topic = claim.about.replace("_", " ")
    said = f" says {claim.text}" if claim.text else ""
    truth = f", {'and' if each.verdict == 'true' else 'but'} the arithmetic: {each.shown}" if each.shown else ""
    yield f"{mark} {each.verdict}: {topic}{said}{truth}"
    if claim.source:
        yield f"    {claim.source}"
    yield from (f"    {step}" for step in each.steps)
    if each.why:
        yield f"    unverifiable: {each.why}"
    if claim.shown_by:
        yield f"    shown by {claim.shown_by}"
    if claim.note:
        yield f"    note: {claim.note}"
