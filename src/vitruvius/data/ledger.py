"""The bookkeeping: documents in = documents out + dropped by reason, each drop with its place."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from vitruvius.errors import DataError, TooMuchBadDataError

if TYPE_CHECKING:
    from typing import BinaryIO

COUNTS_SCHEMA = "vitruvius.counts/1"

HARMLESS_REASONS = {
    "blank_line": "the line holds nothing but white space",
    "empty": "the document holds nothing but white space",
}
"""Dropped and listed like the others, but no sign of damage: they do not count towards the rate of bad data."""

BAD_REASONS = {
    "binary": "a NUL character: this is not text",
    "corrupt_gzip": "the compressed file is damaged or cut short; what follows this place is lost",
    "gzip_bomb": "the compressed file unpacks to more than 200 times its size; what follows this place is not read",
    "invalid_json": "the line is not JSON",
    "invalid_utf8": "a byte that is not UTF-8",
    "lone_surrogate": "half of a surrogate pair, which is no character and has no UTF-8",
    "missing_field": "the JSON object has no text field",
    "nan_or_infinity": "NaN or Infinity, which JSON does not have",
    "not_an_object": "the JSON value is not an object",
    "too_long": "the line or file is longer than the limit; it was never in memory as a whole",
    "truncated_last_line": "the file ends in the middle of a JSON value",
    "wrong_type": "the text field is not a string",
}
"""Why a document is refused. The share of these among all documents is the rate of bad data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A document that was dropped: where it is and why."""

    file: str
    """Name of the file, as the inputs named it."""
    line: int | None
    """Line of the problem, from 1; None where lines make no sense."""
    byte_offset: int
    """Bytes before the record, or before the bad byte in it; in the unpacked stream for a compressed file."""
    reason: str
    """A key of `HARMLESS_REASONS` or `BAD_REASONS`."""
    detail: str = ""
    """What exactly, where there is more to say."""

    def __post_init__(self) -> None:
        assert self.reason in HARMLESS_REASONS or self.reason in BAD_REASONS


@final
class Ledger:
    """Counts documents and writes the quarantine file as they go by."""

    __slots__ = ("_quarantine", "documents_in", "documents_out", "dropped")

    def __init__(self, quarantine: BinaryIO) -> None:
        self._quarantine = quarantine
        self.documents_in = 0
        self.documents_out = 0
        self.dropped: Counter[str] = Counter()

    def accept(self) -> None:
        """Count a document that will be in the output."""
        self.documents_in += 1
        self.documents_out += 1

    def refuse(self, refusal: Refusal) -> None:
        """Count a document that will not, and write where and why."""
        self.documents_in += 1
        self.dropped[refusal.reason] += 1
        row = {
            "file": refusal.file,
            "line": refusal.line,
            "byte_offset": refusal.byte_offset,
            "reason": refusal.reason,
            "detail": refusal.detail or BAD_REASONS.get(refusal.reason) or HARMLESS_REASONS[refusal.reason],
        }
        self._quarantine.write((json.dumps(row) + "\n").encode())

    @property
    def bad(self) -> int:
        """Documents refused for a reason that is a sign of damage."""
        return sum(count for reason, count in self.dropped.items() if reason in BAD_REASONS)

    @property
    def bad_rate(self) -> float:
        """Bad documents over documents in; 0 when there are none."""
        return self.bad / self.documents_in if self.documents_in else 0.0

    def counts(self) -> dict[str, Any]:
        """The content of `counts.json`; asserts that every document is accounted for."""
        assert self.documents_in == self.documents_out + sum(self.dropped.values())
        return {
            "schema": COUNTS_SCHEMA,
            "documents_in": self.documents_in,
            "documents_out": self.documents_out,
            "dropped": dict(sorted(self.dropped.items())),
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
            worst = ", ".join(
                f"{reason} {count:,}" for reason, count in self.dropped.most_common() if reason in BAD_REASONS
            )
            raise TooMuchBadDataError(
                f"{self.bad:,} of {self.documents_in:,} documents are bad ({self.bad_rate:.2%}: {worst}); "
                f"the limit is {max_bad_rate:.2%}",
                where=f"{evidence}/quarantine.jsonl",
                fix="mend or remove what the quarantine lists, or raise --max-bad-rate",
            )
        if self.documents_out == 0:
            raise DataError(
                f"no document is left of {self.documents_in:,}",
                where=evidence,
                fix="name files that hold text; quarantine.jsonl says why each document was dropped",
            )
