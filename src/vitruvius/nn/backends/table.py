"""Which backend computes an attention: a table of rows, read from the top; the first that fits is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.patterns import Pattern, causal, everything

if TYPE_CHECKING:
    from vitruvius.nn.backends.request import Request

Work = Literal["train", "infer"]
"""Whether gradients are wanted."""

ANY: frozenset[str] = frozenset({"any"})
"""Stands for whatever there is, in a column of the table."""
TERMS = frozenset({"softcap", "bias", "table", "decay", "sink", "prefix", "documents"})
"""What a request may ask for besides its pattern; see `Request`."""
PLAIN = {causal: "causal", everything: "everything"}
"""Patterns that torch's own attention knows by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the choice depends on."""

    pattern: Pattern
    terms: frozenset[str]
    device: str
    """Type of the device, as torch names it."""
    dtype: str
    """Number format of queries, keys and values, as torch names it."""
    work: Work
    widths: tuple[int, int]
    """Of queries and keys, and of values."""

    @property
    def pattern_class(self) -> str:
        """The name of a pattern that torch's attention knows, `own` of all others."""
        return PLAIN.get(self.pattern, "own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a backend, where it is taken, and why."""

    backend: str
    why: str
    patterns: frozenset[str] = ANY
    """Classes of patterns that it serves."""
    terms: frozenset[str] = frozenset()
    """Terms that it knows."""
    devices: frozenset[str] = ANY
    dtypes: frozenset[str] = ANY
    work: frozenset[str] = ANY
    widths: Literal["equal", "any"] = "any"
    """Whether values must be as wide as keys."""

    def fits(self, s: Situation) -> bool:
        """Whether the row answers a situation."""
        columns = (
            (self.patterns, s.pattern_class),
            (self.devices, s.device),
            (self.dtypes, s.dtype),
            (self.work, s.work),
        )
        return (
            all(column is ANY or value in column for column, value in columns)
            and s.terms <= self.terms
            and (self.widths == "any" or s.widths[0] == s.widths[1])
        )


CHUNKED = Row(
    backend="chunked",
    terms=TERMS,
    why="blocks of queries over just the keys they may see: exact, memory linear in the length, trains anywhere",
)
TABLE = (
    Row(
        backend="sdpa",
        patterns=frozenset({"causal", "everything"}),
        devices=frozenset({"cpu"}),
        work=frozenset({"infer"}),
        widths="equal",
        why="torch's flash kernel has the fastest forward pass where the pattern is plain",
    ),
    Row(
        backend="sdpa",
        patterns=frozenset({"causal", "everything"}),
        devices=frozenset({"cuda"}),
        dtypes=frozenset({"bfloat16", "float16", "float32"}),
        widths="equal",
        why="torch's flash kernel, forward and backward, for a plain pattern over unpacked rows",
    ),
    Row(
        backend="flex",
        terms=TERMS,
        devices=frozenset({"cuda"}),
        dtypes=frozenset({"bfloat16", "float16", "float32"}),
        why="one fused kernel that skips the tiles its pattern leaves empty, forward and backward",
    ),
    CHUNKED,
)
"""On a CPU FlexAttention has no backward pass; forward it beats the chunked backend on some windows in bf16 alone, by
less than its half minute of compiling costs (bench/attention_patterns.py), so it is never taken there by itself."""

STORED = (
    Row(
        backend="sdpa",
        terms=frozenset({"bias", "table", "decay", "prefix"}),
        widths="equal",
        why="torch's kernel over keys that a cache or another stack holds: read once, never copied",
    ),
    Row(
        backend="sdpa",
        terms=frozenset({"bias", "table", "decay", "prefix", "sink"}),
        devices=frozenset({"cpu"}),
        work=frozenset({"infer"}),
        widths="equal",
        why="torch's flash kernel for CPUs, whose log-sum-exp says what a sink takes",
    ),
    Row(
        backend="matmul",
        terms=TERMS,
        why="two matrix products over keys in the cache: torch's kernel knows no caps and sinks, and one width only",
    ),
)
"""The same for one query per row against the keys of a cache."""


def lookup(table: tuple[Row, ...], situation: Situation) -> Row:
    """The first row that fits; the last one always does."""
    return next((row for row in table if row.fits(situation)), table[-1])


def situation_of(request: Request, *, device: str, dtype: str, work: Work, widths: tuple[int, int]) -> Situation:
    """The situation of a request."""
    return Situation(pattern=request.pattern, terms=request.terms, device=device, dtype=dtype, work=work, widths=widths)
