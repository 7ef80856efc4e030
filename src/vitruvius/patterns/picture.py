"""A pattern as a little matrix: queries go down, keys go across, the diagonal is the query's own position."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from vitruvius.errors import PatternError
from vitruvius.patterns.algebra import Pattern
from vitruvius.patterns.names import whole
from vitruvius.patterns.scaling import fit_text
from vitruvius.patterns.text import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LARGEST_PICTURE: Final = 256
"""Pictures have at most this many positions a side."""

_PAPER, _FUTURE, _SEEN, _ITSELF = "#f4f2ec", "#fbfaf7", "#3b6ea8", "#1d3557"


def to_text(pattern: Pattern, n: int = 16, style: str = "blocks") -> str:
    """The first n x n positions as text, without a trailing newline.

    Style `blocks` packs two queries into one line of half blocks; `ascii` spends a line on each. Dots are keys in the
    past that are not read; keys in the future are left blank. Raises `PatternError`.
    """
    _check_size(n)
    return _choice(_TEXT_STYLES, style)(_cells(pattern, n))


def to_svg(pattern: Pattern, n: int = 32, size: float = 160) -> str:
    """The first n x n positions as an SVG element of size x size pixels, complete in itself and fit for nesting.

    Attended pairs are one path and the diagonal another; keys in the future stand on a lighter ground. Elements carry
    the classes `paper`, `future`, `seen` and `itself`. Raises `PatternError`.
    """
    _check_size(n)
    cells = _cells(pattern, n)
    off_diagonal = [[seen and q != k for k, seen in enumerate(row)] for q, row in enumerate(cells)]
    on_diagonal = [[seen and q == k for k, seen in enumerate(row)] for q, row in enumerate(cells)]
    future = "".join(f"M{q + 1} {q}h{n - q - 1}v1h{q + 1 - n}z" for q in range(n - 1))
    paths = [
        f'<rect class="paper" width="{n}" height="{n}" fill="{_PAPER}"/>',
        f'<path class="future" d="{future}" fill="{_FUTURE}"/>',
        f'<path class="seen" d="{_runs(off_diagonal)}" fill="{_SEEN}"/>',
        f'<path class="itself" d="{_runs(on_diagonal)}" fill="{_ITSELF}"/>',
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size:g}" height="{size:g}" viewBox="0 0 {n} {n}" '
        f'shape-rendering="crispEdges" role="img"><title>{escape(str(pattern))}</title>{"".join(paths)}</svg>'
    )


def picture_of(sees: str | Pattern, n: int = 32, style: str = "blocks") -> str:
    """The picture of a pattern in style `blocks`, `ascii` or `svg`.

    The terms of a text are shrunk until each shows within n positions (`fit_text` gives the text that is drawn); a
    `Pattern` is drawn as it is. Raises `PatternError`.
    """
    _check_size(n)
    pattern = sees if isinstance(sees, Pattern) else parse(fit_text(sees, n))
    return _choice(_STYLES, style)(pattern, n)


def _check_size(n: int) -> None:
    whole("n", n)
    if n > LARGEST_PICTURE:
        raise PatternError(f"a picture has at most {LARGEST_PICTURE} positions a side, got {n}", fix="use n=32")


def _choice(table: Mapping[str, Callable[..., str]], style: str) -> Callable[..., str]:
    if style not in table:
        raise PatternError(f"there is no style {style!r}", fix=f"use one of {', '.join(table)}")
    return table[style]


def _cells(pattern: Pattern, n: int) -> list[list[bool]]:
    return [[pattern.allows(q, k) for k in range(n)] for q in range(n)]


def _ascii(cells: list[list[bool]]) -> str:
    lines = (
        " ".join("#" if seen else "." if k <= q else " " for k, seen in enumerate(row)) for q, row in enumerate(cells)
    )
    return "\n".join(line.rstrip() for line in lines)


def _blocks(cells: list[list[bool]]) -> str:
    blank = [False] * len(cells)
    lines: list[str] = []
    for q in range(0, len(cells), 2):
        lower = cells[q + 1] if q + 1 < len(cells) else blank
        past = min(q + 1, len(cells) - 1)
        lines.append("".join(_half_block(*pair, k <= past) for k, pair in enumerate(zip(cells[q], lower, strict=True))))
    return "\n".join(line.rstrip() for line in lines)


def _half_block(upper: bool, lower: bool, in_past: bool) -> str:  # noqa: FBT001
    if upper or lower:
        return "\u2588" if upper and lower else "\u2580" if upper else "\u2584"
    return "\u00b7" if in_past else " "


def _runs(cells: list[list[bool]]) -> str:
    """The path data of the marked cells, one rectangle for each unbroken run in a row."""
    data: list[str] = []
    for q, row in enumerate(cells):
        k = 0
        while k < len(row):
            start = k
            while k < len(row) and row[k]:
                k += 1
            if k > start:
                data.append(f"M{start} {q}h{k - start}v1h{start - k}z")
            k += 1
    return "".join(data)


_TEXT_STYLES: Final[Mapping[str, Callable[[list[list[bool]]], str]]] = {"blocks": _blocks, "ascii": _ascii}
_STYLES: Final[Mapping[str, Callable[[Pattern, int], str]]] = {
    "blocks": lambda pattern, n: to_text(pattern, n, "blocks"),
    "ascii": lambda pattern, n: to_text(pattern, n, "ascii"),
    "svg": to_svg,
}
