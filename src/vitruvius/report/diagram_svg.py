"""A drawing of an architecture as SVG: the stack from tokens up to logits, and beside it the inside of each block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vitruvius.report import boxes_svg
from vitruvius.report.boxes_svg import SAND, STONE, box_height, draw_box, matrix
from vitruvius.report.folding import Gap, One, Repeat, line_of
from vitruvius.report.svg import HAIR, INK, LINE, MUTED, PAPER, Svg, fitted, text_width, wrapped
from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.report.diagram import Box, Design, Diagram
    from vitruvius.report.folding import Part

ACCENTS: Final = ("#3b6ea8", "#c2703d", "#4f8a6d", "#86608e", "#a8862f", "#5d6d7e", "#b0475a", "#3d8ea1")
"""A color for each block, by its place in the stack."""

_MARGIN: Final = 30.0
_STACK: Final = 236.0
_PANEL: Final = boxes_svg.WIDTH + 56
_GAP: Final = 26.0
_ASIDE: Final = 44.0
"""Between the encoder and the stack that reads it."""
_PANELS_IN_A_ROW: Final = 3
_LEAF: Final = 46.0
_LINK: Final = 14.0
_INSET: Final = 13.0
_FLOOR: Final = 20.0
"""Room under the parts of a group, for the labels on its lower edge and theirs."""
_NORM: Final = 22.0


def draw_svg(diagram: Diagram) -> str:
    """The drawing as a complete SVG document."""
    svg = Svg()
    drawn = diagram.drawn
    across = 2 if len(drawn) == 4 else min(len(drawn), _PANELS_IN_A_ROW)
    rows = [drawn[i : i + across] for i in range(0, len(drawn), across)]
    beside = _STACK + _ASIDE if diagram.encoder else 0.0
    width = 2 * _MARGIN + beside + _STACK + across * (_GAP + _PANEL)
    top = _title(svg, diagram, width)
    boxes = [_aligned(row) for row in rows]
    heights = [max(map(_panel_height, row, inside)) for row, inside in zip(rows, boxes, strict=True)]
    panels = sum(heights) + _GAP * (len(rows) - 1)
    stack = _stack_height(diagram)
    body = max(panels, stack, _encoder_height(diagram))
    _stack(svg, diagram, _MARGIN + beside, top + (body - stack) / 2)
    if diagram.encoder:
        _encoder(svg, diagram, _MARGIN, top + (body - stack) / 2 + stack)
    y = top + (body - panels) / 2
    for row, inside, height in zip(rows, boxes, heights, strict=True):
        for i, design in enumerate(row):
            x = _MARGIN + beside + _STACK + _GAP + i * (_PANEL + _GAP)
            _panel(svg, diagram, design, inside[i], x, y, height)
        y += height + _GAP
    bottom = top + body + 24
    svg.text(_MARGIN, bottom, _legend(diagram), size=10, fill=MUTED)
    return svg.document(width, bottom + 18, title=f"{diagram.name}: architecture", description=spoken(diagram))


def spoken(diagram: Diagram) -> str:
    """The drawing in words."""
    blocks = "; ".join(
        f"{design.name}: " + ", then ".join(", ".join((box.title, *box.details)) for box in design.boxes)
        for design in diagram.drawn
    )
    encoder = f"Encoder, from the bottom: {line_of(diagram.encoder)}. " if diagram.encoder else ""
    return f"{', '.join(diagram.facts)}. Layers, from the bottom: {diagram.layer_line}. {encoder}{blocks}."


# ----------------------------------------------------------------------------------------------------------------------
# Title and legend


def _title(svg: Svg, diagram: Diagram, width: float) -> float:
    """Paint the title; the result is where the drawing itself may start."""
    room = width - 2 * _MARGIN
    svg.text(_MARGIN, _MARGIN + 16, fitted(diagram.name, room, 22, bold=True), size=22, bold=True)
    y = _MARGIN + 38
    for line in wrapped(diagram.description, room, 12.5, most=2) if diagram.description else []:
        svg.text(_MARGIN, y, line, size=12.5)
        y += 18
    x = _MARGIN
    for i, fact in enumerate(diagram.facts):
        if i and x + 16 + text_width(fact, 11.5) > width - _MARGIN:
            x, y = _MARGIN, y + 17
        elif i:
            svg.circle(x + 8, y - 3.5, 1.3, fill=LINE, stroke="none")
            x += 16
        svg.text(x, y, fact, size=11.5, fill=MUTED)
        x += text_width(fact, 11.5)
    svg.line((_MARGIN, y + 14), (width - _MARGIN, y + 14), stroke=HAIR, weight=1)
    return y + 34


def _legend(diagram: Diagram) -> str:
    words = ["B sequences of T tokens"]
    if any(box.sees for design in diagram.designs for box in design.boxes):
        words.append("Matrices: queries down, keys across, windows and steps shrunk to show")
    words += [diagram.undrawn] if diagram.undrawn else []
    return ". ".join(words) + "."


def _accent(diagram: Diagram, name: str) -> str:
    return ACCENTS[diagram.design(name)[0] % len(ACCENTS)]


# ----------------------------------------------------------------------------------------------------------------------
# The stack


def _stack_height(diagram: Diagram) -> float:
    ends = _end_height(diagram.head) + _end_height(diagram.embedding) + 2 * 34
    norm = _NORM + _LINK if diagram.final_norm else 0
    return ends + norm + _parts_height(diagram.stack) + 2 * 22


def _end_height(box: Box) -> float:
    return 26 + 14 * len(box.details)


def _parts_height(parts: Sequence[Part]) -> float:
    return sum(_part_height(part) for part in parts) + _LINK * (len(parts) - 1)


def _part_height(part: Part) -> float:
    match part:
        case Repeat(parts=(One(),)):
            return _LEAF + 8
        case Repeat():
            return _INSET + _parts_height(part.parts) + _FLOOR
        case Gap():
            return 26
        case One():
            return _LEAF


def _stack(svg: Svg, diagram: Diagram, x: float, y: float) -> None:
    middle = x + _STACK / 2
    svg.text(
        middle, y + 10, f"logits [B, T, {diagram.vocab_size:,}]", size=10.5, mono=True, anchor="middle", fill=MUTED
    )
    y += 34
    svg.arrow((middle, y), (middle, y - 18))
    y = _end(svg, diagram.head, x, y)
    if diagram.final_norm is not None:
        svg.line((middle, y), (middle, y + _LINK))
        y = _norm(svg, diagram.final_norm.title, middle, y + _LINK)
    y = _stream(svg, diagram, middle, y)
    y = _parts(svg, diagram, diagram.stack, x, y, _STACK)
    y = _stream(svg, diagram, middle, y)
    y = _end(svg, diagram.embedding, x, y)
    svg.arrow((middle, y + 20), (middle, y + 1))
    svg.text(middle, y + 33, "tokens [B, T]", size=10.5, mono=True, anchor="middle", fill=MUTED)


def _encoder_height(diagram: Diagram) -> float:
    if not diagram.encoder:
        return 0.0
    return _parts_height(diagram.encoder) + (_NORM + _LINK if diagram.encoder_norm else 0) + 110


def _encoder(svg: Svg, diagram: Diagram, x: float, bottom: float) -> None:
    """Paint the stack that reads the source, its lower end at `bottom`, and the way to its reader."""
    middle = x + _STACK / 2
    norm = _NORM + _LINK if diagram.encoder_norm is not None else 0
    top = bottom - 56 - norm - _parts_height(diagram.encoder)
    y = top
    if diagram.encoder_norm is not None:
        y = _norm(svg, diagram.encoder_norm.title, middle, y)
        svg.arrow((middle, y + _LINK), (middle, y))
        y += _LINK
    y = _parts(svg, diagram, diagram.encoder, x, y, _STACK)
    svg.arrow((middle, y + 20), (middle, y + 1))
    svg.text(middle, y + 33, "source [B, S]", size=10.5, mono=True, anchor="middle", fill=MUTED)
    svg.text(middle, y + 48, "through the same embedding", size=10.5, anchor="middle", fill=MUTED)
    svg.arrow((middle, top), (middle, top - 20), (x + _STACK + _ASIDE - 2, top - 20), bend=7)
    svg.text(middle + 10, top - 28, f"[B, S, {diagram.width:,}]", size=9.5, mono=True, fill=MUTED)


def _end(svg: Svg, box: Box, x: float, y: float) -> float:
    ground, edge = STONE
    height = _end_height(box)
    svg.rect(x, y, _STACK, height, fill=ground, stroke=edge, radius=5, weight=1.2)
    svg.text(x + 12, y + 17, box.title, size=12.5, bold=True)
    if box.parameters:
        svg.text(x + _STACK - 12, y + 17, format_count(box.parameters), size=10.5, fill=MUTED, anchor="end")
    for i, line in enumerate(box.details):
        svg.text(x + 12, y + 32 + 14 * i, fitted(line, _STACK - 24, 10.5), size=10.5, fill=MUTED)
    return y + height


def _stream(svg: Svg, diagram: Diagram, middle: float, y: float) -> float:
    svg.arrow((middle, y + 22), (middle, y + 1))
    svg.text(middle - 9, y + 15, diagram.stream, size=9.5, mono=True, fill=MUTED, anchor="end")
    return y + 22


def _parts(svg: Svg, diagram: Diagram, parts: Sequence[Part], x: float, y: float, width: float) -> float:
    """Paint parts, of which the last stands on top; the result is their lower edge."""
    for i, part in enumerate(reversed(parts)):
        if i:
            svg.arrow((x + width / 2, y + _LINK), (x + width / 2, y))
            y += _LINK
        _part(svg, diagram, part, x, y, width)
        y += _part_height(part)
    return y


def _part(svg: Svg, diagram: Diagram, part: Part, x: float, y: float, width: float) -> None:
    match part:
        case Repeat(parts=(One(name=name),)):
            for back in (8, 4):
                svg.rect(
                    x + back,
                    y + 8 - back,
                    width - 8,
                    _LEAF,
                    fill=PAPER,
                    stroke=_accent(diagram, name),
                    radius=5,
                    weight=1,
                )
            _leaf(svg, diagram, name, x, y + 8, width - 8)
            _times(svg, part, x + width - 8, y + 8 + _LEAF)
        case Repeat():
            height = _part_height(part)
            svg.rect(x, y, width, height, fill="#fafbfc", stroke=LINE, radius=8, weight=1.1, dash="4 3")
            _parts(svg, diagram, part.parts, x + _INSET, y + _INSET, width - 2 * _INSET)
            _times(svg, part, x + width - 8, y + height)
        case Gap(layers=layers):
            svg.text(x + width / 2, y + 17, f"{layers:,} more layers", size=10.5, fill=MUTED, anchor="middle")
        case One(name=name):
            _leaf(svg, diagram, name, x, y, width)


def _leaf(svg: Svg, diagram: Diagram, name: str, x: float, y: float, width: float) -> None:
    _, design = diagram.design(name)
    accent = _accent(diagram, name)
    svg.rect(x, y, width, _LEAF, fill=PAPER, stroke=accent, radius=5, weight=1.3)
    left = x + 12
    if design.sees:
        svg.nest(x + 7, y + 7, matrix(design.sees, 32, 16))
        left = x + 48
    room = x + width - 10 - left
    svg.text(left, y + 19, fitted(name, room, 12.5, bold=True), size=12.5, bold=True, fill=accent)
    words = " + ".join(box.title for box in design.boxes)
    svg.text(left, y + 34, fitted(words, room, 10), size=10, fill=MUTED)


def _times(svg: Svg, part: Repeat, right: float, y: float) -> None:
    """A label on the lower edge that says how often."""
    times = f"× {part.times:,}" if part.times > 1 else ""
    words = f"{times} shared".strip() if part.shares_weights else times
    width = text_width(words, 11, bold=True) + 16
    svg.rect(right - width, y - 9, width, 18, fill=INK, radius=9)
    svg.text(right - width / 2, y + 4, words, size=11, bold=True, fill=PAPER, anchor="middle")


def _norm(svg: Svg, name: str, middle: float, y: float, width: float = 120) -> float:
    ground, edge = SAND
    svg.rect(middle - width / 2, y, width, _NORM, fill=ground, stroke=edge, radius=11, weight=1.1)
    svg.text(middle, y + 15, fitted(name, width - 14, 11), size=11, anchor="middle")
    return y + _NORM


# ----------------------------------------------------------------------------------------------------------------------
# The inside of a block

_BUS: Final = 18.0
_HEAD: Final = 34.0
_FOOT: Final = 26.0
_ADD: Final = 20.0
_BRANCH: Final = 16.0


def _aligned(row: Sequence[Design]) -> list[tuple[float, ...]]:
    """Heights of the boxes of each design in a row; where all have equally many, those at one place are alike."""
    heights = [tuple(box_height(box) for box in design.boxes) for design in row]
    if len({len(own) for own in heights}) > 1:
        return heights
    highest = tuple(max(column) for column in zip(*heights, strict=True))
    return [highest for _ in row]


def _panel_height(design: Design, boxes: Sequence[float]) -> float:
    inside = sum(_sublayer_height(design, height) for height in boxes)
    if design.is_parallel:
        inside = _ADD + 8 + sum(_read_height(design, height) for height in boxes) + _BRANCH
    return _HEAD + 30 + inside + 24 + _FOOT + (16 if design.note else 0)


def _read_height(design: Design, box: float) -> float:
    """Of one of several sublayers in parallel: its box, and its norm below."""
    return box + (_NORM + 10 if design.norm_before else 0) + 18


def _sublayer_height(design: Design, box: float) -> float:
    norms = {"none": 0, "sandwich": 2}.get(design.norm_place, 1)
    return _ADD + 8 + box + norms * (_NORM + 10) + _BRANCH


def _panel(
    svg: Svg, diagram: Diagram, design: Design, boxes: Sequence[float], x: float, y: float, height: float
) -> None:
    accent = _accent(diagram, design.name)
    svg.rect(x, y, _PANEL, height, fill="#fcfcfd", stroke=HAIR, radius=8)
    svg.path(f"M{x} {y + _HEAD}v{8 - _HEAD}q0 -8 8 -8h{_PANEL - 16}q8 0 8 8v{_HEAD - 8}z", fill=accent, stroke="none")
    svg.text(x + 14, y + 22, fitted(design.name, _PANEL - 130, 14, bold=True), size=14, bold=True, fill=PAPER)
    svg.text(x + _PANEL - 14, y + 22, design.place, size=11, fill=PAPER, anchor="end")
    left = x + 40
    middle = left + boxes_svg.WIDTH / 2
    at = y + _HEAD + height - _panel_height(design, boxes)
    svg.text(middle + 9, at + 17, diagram.stream, size=9.5, mono=True, fill=MUTED)
    svg.arrow((middle, at + 30), (middle, at + 8))
    at += 30
    if design.is_parallel:
        at = _parallel(svg, design, boxes, x + _BUS, left, at)
    else:
        for box, room in zip(reversed(design.boxes), reversed(boxes), strict=True):
            at = _sublayer(svg, design, box, room, x + _BUS, left, at)
    svg.line((middle, at), (middle, at + 24))
    svg.text(middle + 9, at + 19, diagram.stream, size=9.5, mono=True, fill=MUTED)
    each = f"{format_count(design.parameters)} parameters a layer"
    active = f", {format_count(design.active)} active" if design.active != design.parameters else ""
    svg.text(x + _PANEL / 2, y + height - 11, each + active, size=10.5, fill=MUTED, anchor="middle")
    if design.note:
        svg.text(x + _PANEL / 2, y + height - 26, design.note, size=10.5, fill=MUTED, anchor="middle")


def _parallel(svg: Svg, design: Design, boxes: Sequence[float], bus: float, left: float, y: float) -> float:
    """Several sublayers that read the stream on the left and write to one addition by the right."""
    middle, right = left + boxes_svg.WIDTH / 2, left + boxes_svg.WIDTH + 8
    plus = y + 8.0
    bottom = y + _ADD + 8 + sum(_read_height(design, room) for room in boxes) + _BRANCH
    svg.line((middle, y), (middle, plus))
    svg.arrow((middle, bottom - 8), (bus, bottom - 8), (bus, plus), (middle - 7, plus), bend=7)
    svg.line((middle, bottom), (middle, bottom - 8))
    at = plus + 20
    for index in reversed(range(len(design.boxes))):
        room = boxes[index]
        draw_box(svg, design.boxes[index], left, at, room)
        svg.arrow((left + boxes_svg.WIDTH, at + 14), (right, at + 14), (right, plus), (middle + 7, plus), bend=7)
        under = at + room
        if design.norm_before:
            svg.arrow((middle, under + 10), (middle, under))
            _norm(svg, design.norm_of(index), middle, under + 10)
            svg.arrow((bus, under + 10 + _NORM / 2), (middle - 60, under + 10 + _NORM / 2))
        else:
            svg.arrow((bus, under + 9), (middle, under + 9), (middle, under), bend=4)
        at += _read_height(design, room)
    svg.circle(middle, plus, 7)
    svg.path(f"M{middle - 3.6} {plus}h7.2M{middle} {plus - 3.6}v7.2", stroke=INK, weight=1.2)
    svg.circle(middle, bottom - 8, 2, fill=LINE, stroke="none")
    return bottom


def _sublayer(svg: Svg, design: Design, box: Box, room: float, bus: float, left: float, y: float) -> float:
    """One residual branch, painted from its addition at the top to where it leaves the stream at the bottom."""
    middle = left + boxes_svg.WIDTH / 2
    bottom = y + _sublayer_height(design, room)
    plus = y + 8.0
    if design.norm_place == "post":
        svg.line((middle, y), (middle, y + 2))
        _norm(svg, design.norm, middle, y)
        plus = y + _NORM + 14
        svg.line((middle, y + _NORM), (middle, plus))
    else:
        svg.line((middle, y), (middle, plus))
    svg.arrow((middle, bottom - 8), (bus, bottom - 8), (bus, plus), (middle - 7, plus), bend=7)
    top = plus + 16
    svg.line((middle, plus + 7), (middle, top))
    if design.norm_after:
        under = _norm(svg, design.norm, middle, top)
        top = under + 10
        svg.line((middle, under), (middle, top))
    draw_box(svg, box, left, top, room)
    under = top + room
    if design.norm_before:
        svg.arrow((middle, under + 10), (middle, under))
        under = _norm(svg, design.norm, middle, under + 10)
    svg.arrow((middle, bottom), (middle, under))
    svg.circle(middle, plus, 7)
    svg.path(f"M{middle - 3.6} {plus}h7.2M{middle} {plus - 3.6}v7.2", stroke=INK, weight=1.2)
    svg.circle(middle, bottom - 8, 2, fill=LINE, stroke="none")
    return bottom
