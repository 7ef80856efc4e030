"""The one error tree. Every message says where, what, and the way out.

VitruviusError
|-- UsageError            a command or call was used wrongly               exit 2
|-- SpecError             an architecture spec has findings                exit 2
|-- PatternError          a pattern text or value is wrong                 exit 2
|-- PositionOverflowError a sequence is longer than a learned table        exit 2
|-- MissingExtraError     a command needs an extra that is not installed   exit 2
|-- DataError             documents, shards or tokenizer files are wrong   exit 2
|   `-- TooMuchBadDataError  more records quarantined than allowed         exit 3
|-- RunError              a run folder or checkpoint is wrong              exit 2
|   |-- CorruptCheckpointError
|   `-- RunLockedError
`-- ExaminedFailedError   the thing examined failed                        exit 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing, and the way out of it.

    `path` is the dotted field (`blocks.local.mixer.kv_heads`); `line` and `column` count from 1
    and are None when the spec was built in Python.
    """

    what: str
    fix: str = ""
    path: str = ""
    file: str = ""
    line: int | None = None
    column: int | None = None
    severity: Severity = "error"

    @property
    def where(self) -> str:
        """`file:line:column  path`, as much of it as is known."""
        place = self.file
        if self.line is not None:
            place += f":{self.line}" if place else f"line {self.line}"
            if self.column is not None:
                place += f":{self.column}"
        return "  ".join(part for part in (place, self.path) if part)

    def __str__(self) -> str:
        """Three lines: where, what, the way out."""
        head = self.where or "spec"
        mark = "" if self.severity == "error" else f"{self.severity}: "
        lines = [head, f"  {mark}{self.what}"]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class VitruviusError(Exception):
    """Base of everything this package raises on purpose: where, what, and the way out."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        """The message as the command line prints it."""
        lines = [self.where, f"  {self.what}"] if self.where else [self.what]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class UsageError(VitruviusError):
    """A command or a public call was used wrongly."""


class SpecError(VitruviusError):
    """An architecture spec has findings; all of them are reported at once."""

    def __init__(self, findings: list[Finding] | tuple[Finding, ...]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n\n".join(str(finding) for finding in self.findings))


class PatternError(VitruviusError):
    """A pattern text cannot be read, or a pattern value makes no sense.

    `position` is the 0-based character in `text` where it went wrong, or None.
    """

    def __init__(self, what: str, *, text: str = "", position: int | None = None, fix: str = "") -> None:
        self.text = text
        self.position = position
        where = "" if position is None else f"{text!r}, character {position + 1}"
        super().__init__(what, where=where, fix=fix)


class PositionOverflowError(VitruviusError):
    """A sequence reaches past the last position that a learned table holds."""


class MissingExtraError(VitruviusError):
    """A command needs an optional dependency that is not installed."""

    def __init__(self, extra: str, module: str) -> None:
        self.extra = extra
        self.module = module
        super().__init__(
            f"this needs the {extra!r} extra ({module} is not installed)",
            fix=f"pip install 'vitruvius[{extra}]'",
        )


class DataError(VitruviusError):
    """Documents, token shards or tokenizer files are wrong."""


class TooMuchBadDataError(DataError):
    """More records were quarantined than the allowed rate."""

    exit_code = 3


class RunError(VitruviusError):
    """A run folder or a checkpoint in it is missing, wrong or in use."""


class CorruptCheckpointError(RunError):
    """A checkpoint file does not match its manifest."""


class RunLockedError(RunError):
    """Another process is writing to this run folder."""


class ExaminedFailedError(VitruviusError):
    """The thing examined (a check, a claim) failed; the command itself worked."""

    exit_code = 1
