"""Small helpers of the readers: show what was written, guess what was meant, gather findings."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING

from vitruvius.errors import Finding, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vitruvius.spec.tree import Mark

MAX_FINDINGS = 20
"""More findings than this are counted, not shown."""

_LONGEST_SHOWN = 60
_LONGEST_GUESSED = 60
_MOST_CANDIDATES = 1_000


def printable(text: str, limit: int = _LONGEST_SHOWN) -> str:
    """`text` on one line, escaped where a terminal would not print it and cut where it is long."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def quoted(text: str, limit: int = _LONGEST_SHOWN) -> str:
    """`text` as messages show it: printable, cut where it is long, in quotes."""
    return f"'{printable(text, limit)}'"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'local'?`, or the empty string when nothing known comes near."""
    if len(word) > _LONGEST_GUESSED:
        return ""
    candidates = [name for name in islice(known, _MOST_CANDIDATES) if len(name) <= _LONGEST_GUESSED]
    near = get_close_matches(word, candidates, n=1)
    return f"did you mean {quoted(near[0])}?" if near else ""


def listed(names: Iterable[str], limit: int = 8) -> str:
    """`a, b, c and 4 more`."""
    every = list(names)
    shown = ", ".join(printable(name) for name in every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


class Report:
    """Gathers findings, shows the first `MAX_FINDINGS` of them in the order of the file, and counts the rest."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._unshown = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was noted."""
        return not self._findings

    @property
    def is_full(self) -> bool:
        """Whether the next finding is only counted, so that guessing a fix for it is work lost."""
        return len(self._findings) >= MAX_FINDINGS

    def add(self, what: str, *, mark: Mark, fix: str = "", path: str = "") -> None:
        """Note one finding at `mark`."""
        self.add_finding(Finding(what=what, fix=fix, path=path, file=mark.file, line=mark.line, column=mark.column))

    def add_finding(self, finding: Finding) -> None:
        """Note a finding that was made elsewhere."""
        if self.is_full:
            self._unshown += 1
        else:
            self._findings.append(finding)

    def raise_if_any(self) -> None:
        """Raise SpecError with everything noted so far."""
        if self._findings:
            raise refusal(self._findings, unshown=self._unshown)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """By their places; what several blocks inherit from one line is said once."""
    distinct = {(f.file, f.line, f.column, f.what): f for f in reversed(list(findings))}
    as_noted = [*distinct.values()][::-1]
    return sorted(as_noted, key=lambda f: (f.file, f.line or 0, f.column or 0))


def refusal(findings: Iterable[Finding], *, unshown: int = 0) -> SpecError:
    """The error that shows the first `MAX_FINDINGS` of these in the order of the file, and counts the rest."""
    ordered = in_order(findings)
    shown = ordered[:MAX_FINDINGS]
    unshown += len(ordered) - len(shown)
    if unshown:
        shown.append(Finding(what=f"and {unshown:,} more findings", file=shown[0].file))
    return SpecError(shown)
