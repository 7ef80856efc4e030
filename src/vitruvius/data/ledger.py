"""The bookkeeping: documents in = documents out + dropped by reason, each drop with its place."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data.reading.reasons import DAMAGE, HARMLESS
from vitruvius.errors import DataError, TooMuchBadDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data.cleaning.step import Measure
    from vitruvius.data.document import Document
    from vitruvius.data.job.kept import Origin

COUNTS_SCHEMA = "vitruvius.counts/2"

DUPLICATES = {
    "exact_duplicate": "another document has the same text",
    "near_duplicate": "a document that stays has nearly the same text",
}
"""Why a document is dropped that is like another."""
HELD_IN_TRAINING = "source_in_training"
PAIRS = {HELD_IN_TRAINING: "the pair was to be held out, and its source stands in training"}
"""Why a pair is dropped that could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A record that no document could be made of: where it is and why."""

    file: str
    """Name of the file, as the inputs named it."""
    line: int | None
    """Line of the problem, from 1; None where lines make no sense."""
    byte_offset: int
    """Bytes before the record, or before the bad byte in it; in the unpacked stream for a compressed file."""
    reason: str
    """A key of `HARMLESS` or `DAMAGE`."""
    detail: str = ""
    """What exactly, where there is more to say."""

    def __post_init__(self) -> None:
        assert self.reason in HARMLESS or self.reason in DAMAGE, self.reason


def refusal_row(refusal: Refusal) -> dict[str, Any]:
    """The row of the quarantine for a record that could not be read."""
    return {
        "id": None,
        "file": refusal.file,
        "line": refusal.line,
        "byte_offset": refusal.byte_offset,
        "reason": refusal.reason,
        "detail": refusal.detail or meaning_of(refusal.reason),
    }


def rule_row(document: Document, measure: Measure, *, step: str) -> dict[str, Any]:
    """The row of the quarantine for a document that a step dropped."""
    return {
        "id": document.id,
        "file": document.file,
        "line": document.line,
        "byte_offset": document.byte_offset,
        "reason": measure.reason,
        "detail": meaning_of(measure.reason),
        "step": step,
        "value": measure.value,
        "relation": measure.relation,
        "limit": measure.limit,
    }


def duplicate_row(origin: Origin, *, kind: str, keeper: str, jaccard: float) -> dict[str, Any]:
    """The row of the quarantine for a document that is like another; `keeper` is the id of that."""
    reason = f"{kind}_duplicate"
    return {
        "id": origin.id,
        "file": origin.file,
        "line": origin.line,
        "byte_offset": origin.byte_offset,
        "reason": reason,
        "detail": DUPLICATES[reason],
        "keeper": keeper,
        "jaccard": jaccard,
    }


def meaning_of(reason: str) -> str:
    """What a reason means, in a line.

    Raises:
        KeyError: nobody gives this reason.
    """
    for table in (DAMAGE, HARMLESS, DUPLICATES, PAIRS):
        if reason in table:
            return table[reason]
    from vitruvius.data.cleaning.table import rule_reasons

    return rule_reasons()[reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many documents came in, and what became of them."""

    kept: int = 0
    """Documents that stay."""
    dropped: Mapping[str, int]
    """Reason -> documents."""
    changed: Mapping[str, int]
    """`STEP.CHANGE` -> how many were made in documents that passed every rule."""

    @classmethod
    def of(cls, summaries: list[Mapping[str, Any]]) -> Tally:
        """The sum of what tasks say."""
        dropped: Counter[str] = Counter()
        changed: Counter[str] = Counter()
        for summary in summaries:
            dropped.update(summary["dropped"])
            changed.update(summary.get("changed", {}))
        kept = sum(summary["documents"] for summary in summaries)
        return cls(kept=kept, dropped=dict(sorted(dropped.items())), changed=dict(sorted(changed.items())))

    def without(self, duplicates: Mapping[str, int]) -> Tally:
        """After so many of what was kept turned out to be duplicates: reason -> documents."""
        gone = {reason: count for reason, count in duplicates.items() if count}
        dropped = dict(sorted((Counter(self.dropped) + Counter(gone)).items()))
        return Tally(kept=self.kept - sum(gone.values()), dropped=dropped, changed=self.changed)

    @property
    def documents_in(self) -> int:
        """All of them."""
        return self.kept + sum(self.dropped.values())

    @property
    def bad(self) -> int:
        """Documents refused for a reason that is a sign of damage."""
        return sum(count for reason, count in self.dropped.items() if reason in DAMAGE)

    @property
    def bad_rate(self) -> float:
        """Bad documents over documents in; 0 when there are none."""
        return self.bad / self.documents_in if self.documents_in else 0.0

    def counts(self) -> dict[str, Any]:
        """The tally's part of `counts.json`."""
        return {
            "documents_in": self.documents_in,
            "documents_out": self.kept,
            "dropped": dict(self.dropped),
            "changed": dict(self.changed),
            "bad_documents": self.bad,
            "bad_rate": self.bad_rate,
        }

    def check(self, max_bad_rate: float, *, evidence: str) -> None:
        """Stop when too much is bad or nothing is left; `evidence` is the folder with counts and quarantine.

        Raises:
            TooMuchBadDataError: the rate of bad data is above `max_bad_rate`.
            DataError: no document is left.
        """
        if self.bad_rate > max_bad_rate:
            most = sorted(self.dropped.items(), key=lambda item: -item[1])
            worst = ", ".join(f"{reason} {count:,}" for reason, count in most if reason in DAMAGE)
            raise TooMuchBadDataError(
                f"{self.bad:,} of {self.documents_in:,} documents are bad ({self.bad_rate:.2%}: {worst}); "
                f"the limit is {max_bad_rate:.2%}",
                where=f"{evidence}/quarantine.jsonl",
                fix="mend or remove what the quarantine lists, or raise --max-bad-rate",
            )
        if self.kept == 0:
            by_rules = any(reason not in DAMAGE and reason not in HARMLESS for reason in self.dropped)
            raise DataError(
                f"no document is left of {self.documents_in:,}",
                where=evidence,
                fix="quarantine.jsonl says why each document was dropped; "
                + ("loosen the recipe, or use --recipe plain" if by_rules else "name files that hold text"),
            )
