"""A small writer of SVG: shapes and text with presentation attributes only, so that a drawing stands alone anywhere.

No style sheet, script, font or address is used: the same text works in a file, in a page and in a notebook, and
nothing of it leaks into what stands around it. Every text is escaped.
"""

from __future__ import annotations

from html import escape
from typing import Final

from vitruvius.spec.reporting import printable

SANS: Final = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
MONO: Final = "ui-monospace, 'SF Mono', Menlo, Consolas, 'Liberation Mono', 'DejaVu Sans Mono', monospace"

INK: Final = "#1f2933"
MUTED: Final = "#5f6b76"
LINE: Final = "#8a949e"
HAIR: Final = "#d5d9de"
PAPER: Final = "#ffffff"

# Thousandths of the font size, as in Helvetica; what is not named is as wide as a figure.
_NARROW: Final = {222: "ijl'|", 278: "ft ,.:;/!I()[]\\", 333: 'r-*`"', 389: "{}"}
_WIDE: Final = {667: "ABEKPSVXY&", 722: "CDHNRUw", 611: "FTZ", 778: "GOQ", 833: "mM", 944: "W%", 500: "cksvxyzJ"}
_WIDTHS: Final = {character: width for table in (_NARROW, _WIDE) for width, text in table.items() for character in text}
_SLACK: Final = 1.06
"""Fonts that stand in for the first choice may be wider."""


def text_width(text: str, size: float, *, mono: bool = False, bold: bool = False) -> float:
    """About how many units a text takes; other fonts than the first choice come within a few percent."""
    if mono:
        return len(text) * size * 0.6
    units = sum(_WIDTHS.get(character, 556) for character in text)
    return units * size * _SLACK * (1.06 if bold else 1.0) / 1000


def fitted(text: str, room: float, size: float, *, mono: bool = False, bold: bool = False) -> str:
    """The text, or as much of its start as fits into `room` units with an ellipsis."""
    if text_width(text, size, mono=mono, bold=bold) <= room:
        return text
    while text and text_width(text + "…", size, mono=mono, bold=bold) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, room: float, size: float, *, mono: bool = False, most: int = 3) -> list[str]:
    """The text in lines of at most `room` units, broken at spaces; what does not fit into `most` lines is cut."""
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size, mono=mono) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [fitted(line, room, size, mono=mono) for line in lines]


class Svg:
    """Shapes in the order in which they are painted."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "none",
        stroke: str = "none",
        weight: float = 1,
        radius: float = 0,
        dash: str = "",
    ) -> None:
        """A rectangle with its upper left corner at (x, y)."""
        extra = f' rx="{_number(radius)}"' if radius else ""
        extra += f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<rect x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}" '
            f'fill="{fill}"{_stroke(stroke, weight)}{extra}/>'
        )

    def path(self, data: str, *, fill: str = "none", stroke: str = LINE, weight: float = 1.2, dash: str = "") -> None:
        """A path in SVG's own notation."""
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(f'<path d="{data}" fill="{fill}"{_stroke(stroke, weight)}{extra}/>')

    def line(self, *points: tuple[float, float], stroke: str = LINE, weight: float = 1.2, bend: float = 0) -> None:
        """Straight lines through the points, with corners rounded by `bend` units."""
        self.path(_through(points, bend), stroke=stroke, weight=weight)

    def arrow(self, *points: tuple[float, float], stroke: str = LINE, weight: float = 1.2, bend: float = 0) -> None:
        """A line with an arrowhead at its last point, which it must reach from below, above, left or right."""
        (x0, y0), (x1, y1) = points[-2:]
        dx, dy = _sign(x1 - x0), _sign(y1 - y0)
        foot = (x1 - 5 * dx, y1 - 5 * dy)
        self.line(*points[:-1], foot, stroke=stroke, weight=weight, bend=bend)
        left, right = (foot[0] - 3.2 * dy, foot[1] - 3.2 * dx), (foot[0] + 3.2 * dy, foot[1] + 3.2 * dx)
        self.path(f"M{_point((x1, y1))}L{_point(left)}L{_point(right)}z", fill=stroke, stroke="none")

    def circle(self, x: float, y: float, radius: float, *, fill: str = PAPER, stroke: str = LINE) -> None:
        """A circle around (x, y)."""
        self._parts.append(
            f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}" fill="{fill}"{_stroke(stroke, 1.2)}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 11,
        fill: str = INK,
        anchor: str = "start",
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """A line of text with its baseline at y; `anchor` says whether x is its start, middle or end."""
        extra = ' font-weight="600"' if bold else ""
        extra += f' font-family="{MONO}"' if mono else ""
        extra += f' text-anchor="{anchor}"' if anchor != "start" else ""
        words = escape(printable(text, 1000))
        self._parts.append(
            f'<text x="{_number(x)}" y="{_number(y)}" font-size="{_number(size)}" fill="{fill}"{extra}>{words}</text>'
        )

    def nest(self, x: float, y: float, svg: str) -> None:
        """Another SVG, complete in itself, at (x, y)."""
        self._parts.append(f'<g transform="translate({_number(x)} {_number(y)})">{svg}</g>')

    def inline(self, width: float, height: float, *, title: str) -> str:
        """The drawing without a ground, for a page that gives it one; colours may be the page's (`currentColor`)."""
        box = f'viewBox="0 0 {_number(width)} {_number(height)}"'
        name = escape(printable(title, 1000))
        body = "\n".join(self._parts)
        return f'<svg {box} font-family="{SANS}" role="img" aria-label="{name}">\n<title>{name}</title>\n{body}\n</svg>'

    def document(self, width: float, height: float, *, title: str, description: str) -> str:
        """The whole drawing on a ground of its own, with a title and a description for those who cannot see it."""
        size = f'width="{_number(width)}" height="{_number(height)}" viewBox="0 0 {_number(width)} {_number(height)}"'
        ground = f'<rect width="{_number(width)}" height="{_number(height)}" rx="8" fill="{PAPER}"/>'
        body = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{SANS}" role="img" '
            f'aria-label="{escape(printable(title, 1000))}">\n'
            f"<title>{escape(printable(title, 1000))}</title>\n<desc>{escape(printable(description, 4000))}</desc>\n"
            f"{ground}\n{body}\n</svg>\n"
        )


# ----------------------------------------------------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{round(value, 2):g}"


def _point(point: tuple[float, float]) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _stroke(color: str, weight: float) -> str:
    return "" if color == "none" else f' stroke="{color}" stroke-width="{_number(weight)}"'


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _through(points: tuple[tuple[float, float], ...], bend: float) -> str:
    data = f"M{_point(points[0])}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start = (corner[0] - bend * _sign(corner[0] - before[0]), corner[1] - bend * _sign(corner[1] - before[1]))
        end = (corner[0] + bend * _sign(after[0] - corner[0]), corner[1] + bend * _sign(after[1] - corner[1]))
        data += f"L{_point(start)}Q{_point(corner)} {_point(end)}" if bend else f"L{_point(corner)}"
    return data + f"L{_point(points[-1])}"
