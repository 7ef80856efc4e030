"""The inside of one component as SVG: heads, experts, maps, and the pattern as a little matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vitruvius.patterns import picture_of
from vitruvius.report.diagram import Experts, Heads, Maps
from vitruvius.report.svg import HAIR, INK, LINE, MUTED, PAPER, Svg, fitted, text_width, wrapped
from vitruvius.units import format_count

if TYPE_CHECKING:
    from vitruvius.report.diagram import Box

WIDTH: Final = 268.0
_PAD: Final = 12.0
_TITLE: Final = 24.0
_LEADING: Final = 14.5
_MATRIX: Final = 84.0
_SMALL: Final = 10.5
_CODE: Final = 9.5
_MOST_HEADS: Final = 128
_MOST_EXPERTS: Final = 256
_EXPERTS_IN_ONE_ROW: Final = 16

BLUE: Final = ("#eef4fa", "#3b6ea8")
GREEN: Final = ("#eff6ee", "#5b8f57")
PLUM: Final = ("#f6f0f7", "#86608e")
SAND: Final = ("#fbf5e6", "#b6913f")
STONE: Final = ("#f4f2ee", "#857b6d")
"""Ground and edge of mixers, feed-forward networks, mixtures, norms, and the ends of the stack."""


def box_height(box: Box) -> float:
    """Units that the box takes, edge to edge."""
    return _TITLE + max(_text_height(box), _MATRIX if box.sees else 0) + _caption_height(box) + _art_height(box) + _PAD


def draw_box(svg: Svg, box: Box, x: float, y: float, height: float) -> None:
    """Paint the box with its upper left corner at (x, y), at least `box_height` high."""
    ground, edge = colors(box)
    svg.rect(x, y, WIDTH, height, fill=ground, stroke=edge, radius=5, weight=1.2)
    svg.text(x + _PAD, y + 17, fitted(box.title, 160, 12.5, bold=True), size=12.5, bold=True)
    if box.parameters:
        count = format_count(box.parameters)
        svg.text(x + WIDTH - _PAD, y + 17, count, size=_SMALL, fill=MUTED, anchor="end")
    top = y + _TITLE
    room = WIDTH - 2 * _PAD - (_MATRIX + 10 if box.sees else 0)
    at = top + (_heads_height(box) if isinstance(box.art, Heads) else 0)
    for i, line in enumerate(box.details):
        svg.text(x + _PAD, at + 11 + i * _LEADING, fitted(line, room, _SMALL), size=_SMALL, fill=MUTED)
    if isinstance(box.art, Heads):
        _heads(svg, box.art, x + _PAD, top + 2, room, edge)
    if box.sees:
        svg.nest(x + WIDTH - _PAD - _MATRIX, top, matrix(box.sees, _MATRIX))
        svg.rect(x + WIDTH - _PAD - _MATRIX, top, _MATRIX, _MATRIX, stroke=HAIR, weight=0.8)
    top += max(_text_height(box), _MATRIX if box.sees else 0)
    if box.sees:
        for i, line in enumerate(_caption(box.sees)):
            svg.text(x + WIDTH - _PAD, top + 13 + i * 12, line, size=_CODE, mono=True, anchor="end")
        top += _caption_height(box)
    top += (height - box_height(box)) / 2  # in the middle of what is left
    if isinstance(box.art, Experts):
        _experts(svg, box.art, x + _PAD, top + 4, edge)
    elif isinstance(box.art, Maps):
        _maps(svg, box.art, x + _PAD, top + 4, edge)


def colors(box: Box) -> tuple[str, str]:
    """Ground and edge: by what the box is, so that the eye finds like with like."""
    if isinstance(box.art, Experts):
        return PLUM
    return GREEN if isinstance(box.art, Maps) else BLUE


def matrix(sees: str, size: float, positions: int = 32) -> str:
    """The pattern as an SVG element, its windows shrunk until they show."""
    picture = picture_of(sees, positions, "svg").replace(
        'width="160" height="160"', f'width="{size:g}" height="{size:g}"'
    )
    return picture.replace(' role="img"', "", 1)


# ----------------------------------------------------------------------------------------------------------------------


def _text_height(box: Box) -> float:
    return len(box.details) * _LEADING + (_heads_height(box) if isinstance(box.art, Heads) else 0)


def _caption(sees: str) -> list[str]:
    return wrapped(sees, WIDTH - 2 * _PAD, _CODE, mono=True)


def _caption_height(box: Box) -> float:
    return len(_caption(box.sees)) * 12 + 4 if box.sees else 0


def _art_height(box: Box) -> float:
    match box.art:
        case Experts():
            return 4 + _rows_of(box.art) * _cell(box.art)[1] + (34 if box.art.experts <= _EXPERTS_IN_ONE_ROW else 28)
        case Maps():
            return 4 + 2 * 20 + 18
        case _:
            return 0


def _heads_height(box: Box) -> float:
    return 26.0 if isinstance(box.art, Heads) and box.art.queries <= _MOST_HEADS else 0.0


def _heads(svg: Svg, art: Heads, x: float, y: float, room: float, edge: str) -> None:
    """A cell for each query head, and under each group of them the key and value head that they share."""
    if art.queries > _MOST_HEADS:
        return
    step = min(room / art.queries, 11.0)
    gap = 1.0 if step > 3 else 0.4
    for i in range(art.queries):
        svg.rect(x + i * step, y, step - gap, 8, fill=edge)
    span = step * art.queries / art.groups
    for i in range(art.groups):
        svg.rect(x + i * span, y + 10, span - gap, 5, fill="#c9876a")


def _rows_of(art: Experts) -> int:
    if art.experts <= _EXPERTS_IN_ONE_ROW:
        return 1
    return -(-min(art.experts, _MOST_EXPERTS) // 32)


def _cell(art: Experts) -> tuple[float, float]:
    """Width and height that one expert takes, the space around it included."""
    room = WIDTH - 2 * _PAD - (34 if art.shared else 0)
    if art.experts <= _EXPERTS_IN_ONE_ROW:
        return min(room / art.experts, 44.0), 26.0
    return room / 32, room / 32


def _experts(svg: Svg, art: Experts, x: float, y: float, edge: str) -> None:
    width, height = _cell(art)
    columns = art.experts if art.experts <= _EXPERTS_IN_ONE_ROW else 32
    used = width * min(columns, art.experts)
    left = x + (WIDTH - 2 * _PAD - used - (34 if art.shared else 0)) / 2
    lit = art.lit(min(art.experts, _MOST_EXPERTS))
    bottom = y + _rows_of(art) * height
    in_a_row = art.experts <= _EXPERTS_IN_ONE_ROW
    router_y = bottom + (14 if in_a_row else 8)
    if in_a_row:
        middle = left + used / 2
        for i in range(art.experts):
            end = (left + (i + 0.5) * width, bottom - 2)
            color, weight = (edge, 1.4) if i in lit else (HAIR, 0.8)
            svg.line((middle, router_y), end, stroke=color, weight=weight)
    gap = 4.0 if in_a_row else 1.4
    for i in range(min(art.experts, _MOST_EXPERTS)):
        cell_x, cell_y = left + i % columns * width, y + i // columns * height
        fill, stroke = (edge, edge) if i in lit else (PAPER, "#c4b3c8")
        svg.rect(
            cell_x + gap / 2, cell_y, width - gap, height - gap, fill=fill, stroke=stroke, radius=gap / 2, weight=0.8
        )
    if art.shared:
        svg.rect(x + WIDTH - 2 * _PAD - 26, y, 26, bottom - y - gap, fill=edge, stroke=edge, radius=2, weight=0.8)
    label = art.router
    room = text_width(label, _SMALL) + 22
    svg.rect(left + used / 2 - room / 2, router_y, room, 18, fill=PAPER, stroke=edge, radius=9, weight=1)
    svg.text(left + used / 2, router_y + 12.5, label, size=_SMALL, anchor="middle", fill=INK)


def _maps(svg: Svg, art: Maps, x: float, y: float, edge: str) -> None:
    """The maps, bottom up, with the activation between them."""
    room = WIDTH - 2 * _PAD
    middle = x + room / 2
    _map(svg, middle - 40, y, 80, art.outward, edge)
    low = y + 38
    if len(art.inward) == 1:
        svg.line((middle, y + 20), (middle, low), stroke=LINE)
        _map(svg, middle - 70, low, 140, art.inward[0], edge)
        _pill(svg, middle, y + 29, art.activation)
        return
    left, right = middle - 62, middle + 62
    svg.line((left, low), (left, y + 29), (middle, y + 29), stroke=LINE, bend=4)
    svg.line((right, low), (right, y + 29), (middle, y + 29), stroke=LINE, bend=4)
    svg.line((middle, y + 29), (middle, y + 20), stroke=LINE)
    svg.circle(middle, y + 29, 6)
    svg.path(f"M{middle - 2.6} {y + 26.4}l5.2 5.2m0 -5.2l-5.2 5.2", stroke=INK, weight=1.1)
    _map(svg, left - 50, low, 100, f"{art.inward[0]}, {art.activation}", edge)
    _map(svg, right - 50, low, 100, art.inward[1], edge)


def _map(svg: Svg, x: float, y: float, width: float, name: str, edge: str) -> None:
    svg.rect(x, y, width, 20, fill=PAPER, stroke=edge, radius=3, weight=1)
    svg.text(x + width / 2, y + 13.5, fitted(name, width - 6, _SMALL), size=_SMALL, anchor="middle")


def _pill(svg: Svg, x: float, y: float, name: str) -> None:
    width = text_width(name, 9.5) + 12
    svg.rect(x - width / 2, y - 7, width, 14, fill=PAPER, stroke=LINE, radius=7, weight=0.8)
    svg.text(x, y + 3.3, name, size=9.5, anchor="middle")
