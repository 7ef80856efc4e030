"""A drawing of an architecture for the terminal: the stack, and beside or below it the inside of each block."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vitruvius.patterns import picture_of
from vitruvius.report.canvas import Canvas
from vitruvius.report.diagram import Experts, Heads, Maps
from vitruvius.report.folding import Gap, One, Repeat
from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.report.diagram import Box, Design, Diagram
    from vitruvius.report.folding import Part

NARROWEST: Final = 40
_STACK: Final = 34
_PANEL: Final = 39
_GAP: Final = 2
_ACCENTS: Final = ("blue", "yellow", "green", "magenta", "cyan", "red")
_MATRIX: Final = 16
_INNER: Final = _PANEL - 7
"""Columns of a component's box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the terminal can show."""

    width: int = 80
    """Columns."""
    color: bool = False
    ascii_only: bool = False


def draw_text(diagram: Diagram, look: Look | None = None) -> str:
    """The drawing as text without a trailing newline; no line is longer than `look.width`, and at least 75 columns."""
    look = look or Look()
    sheet = Canvas()
    _title(sheet, diagram, look)
    stacks = [_stack(diagram), *((_encoder(diagram),) if diagram.encoder else ())]
    sheets = [*stacks, *(_panel(diagram, design, look) for design in diagram.drawn)]
    row, column, tallest = sheet.height + 1, 0, 0
    for part in sheets:
        if column and column + part.width > max(look.width, NARROWEST):
            row, column, tallest = row + tallest + 1, 0, 0
        sheet.place(row, column, part)
        column += part.width + _GAP
        tallest = max(tallest, part.height)
    if diagram.undrawn:
        sheet.put(sheet.height + 1, 0, diagram.undrawn, "dim")
    return sheet.text(color=look.color, ascii_only=look.ascii_only)


# ----------------------------------------------------------------------------------------------------------------------
# Title


def _title(sheet: Canvas, diagram: Diagram, look: Look) -> None:
    room = max(min(look.width, 120), NARROWEST)
    sheet.put(0, 0, diagram.name, "bold")
    for line in textwrap.wrap(diagram.description, room):
        sheet.put(sheet.height, 0, line)
    for line in _joined(diagram.facts, room):
        sheet.put(sheet.height, 0, line, "dim")


def _joined(facts: Sequence[str], room: int) -> list[str]:
    lines = [""]
    for fact in facts:
        longer = f"{lines[-1]} · {fact}" if lines[-1] else fact
        if len(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(fact)
    return lines


def _accent(diagram: Diagram, name: str) -> str:
    return _ACCENTS[diagram.design(name)[0] % len(_ACCENTS)]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(0, room - 1)] + "…"


def _sides(left: str, right: str, room: int) -> str:
    """Two texts at the two ends of a line; the left one gives way."""
    left = _cut(left, room - len(right) - 1)
    return left + " " * (room - len(left) - len(right)) + right


# ----------------------------------------------------------------------------------------------------------------------
# The stack


def _stack(diagram: Diagram) -> Canvas:
    sheet = Canvas()
    middle = _STACK // 2
    _centred(sheet, 0, f"logits [B, T, {diagram.vocab_size:,}]")
    sheet.put(1, middle, "▲")
    _end(sheet, diagram.head)
    if diagram.final_norm is not None:
        sheet.put(sheet.height, middle, "│")
        _centred(sheet, sheet.height, f"( {diagram.final_norm.title} )", "yellow")
    _arrow(sheet, diagram, middle)
    _parts(sheet, diagram, diagram.stack, 0, _STACK)
    _arrow(sheet, diagram, middle)
    _end(sheet, diagram.embedding)
    sheet.put(sheet.height, middle, "▲")
    _centred(sheet, sheet.height, "tokens [B, T]")
    return sheet


def _encoder(diagram: Diagram) -> Canvas:
    """The stack that reads the source, beside the one that reads it."""
    sheet = Canvas()
    middle = _STACK // 2
    _centred(sheet, 0, f"to cross-attention [B, S, {diagram.width:,}]")
    sheet.put(1, middle, "▲")
    if diagram.encoder_norm is not None:
        _centred(sheet, sheet.height, f"( {diagram.encoder_norm.title} )", "yellow")
        sheet.put(sheet.height, middle, "▲")
    _parts(sheet, diagram, diagram.encoder, 0, _STACK)
    sheet.put(sheet.height, middle, "▲")
    _centred(sheet, sheet.height, "the same embedding")
    sheet.put(sheet.height, middle, "▲")
    _centred(sheet, sheet.height, "source [B, S]")
    return sheet


def _centred(sheet: Canvas, row: int, text: str, style: str = "dim") -> None:
    text = _cut(text, _STACK)
    sheet.put(row, (_STACK + 1 - len(text)) // 2, text, style)


def _arrow(sheet: Canvas, diagram: Diagram, middle: int) -> None:
    row = sheet.height
    sheet.put(row, middle, "▲")
    sheet.put(row, middle + 2, diagram.stream, "dim")


def _end(sheet: Canvas, box: Box) -> None:
    row = sheet.height
    sheet.box(row, 0, 3 + len(box.details), _STACK)
    count = format_count(box.parameters) if box.parameters else ""
    sheet.put(row + 1, 2, _sides(box.title, count, _STACK - 4))
    for i, line in enumerate(box.details):
        sheet.put(row + 2 + i, 2, _cut(line, _STACK - 4), "dim")


def _parts(sheet: Canvas, diagram: Diagram, parts: Sequence[Part], column: int, width: int) -> None:
    """Draw parts below what is there, the last of them on top."""
    for i, part in enumerate(reversed(parts)):
        if i:
            sheet.put(sheet.height, column + width // 2, "▲")
        _part(sheet, diagram, part, column, width)


def _part(sheet: Canvas, diagram: Diagram, part: Part, column: int, width: int) -> None:
    row = sheet.height
    match part:
        case Repeat(parts=(One(name=name),)):
            _leaf(sheet, diagram, name, column, width, _times(part))
        case Repeat() if width > 2 * len("× 9,999") + 6:
            _parts(inner := Canvas(), diagram, part.parts, 0, width - 4)
            sheet.box(row, column, inner.height + 2, width, edge="dashed", style="dim")
            sheet.place(row + 1, column + 2, inner)
            label = f" {_times(part)} "
            sheet.put(row + inner.height + 1, column + width - 2 - len(label), label, "bold")
        case Repeat():
            sheet.put(row, column, _cut(f"{part.layers:,} layers, nested", width), "dim")
        case Gap(layers=layers):
            sheet.put(row, column + 2, _cut(f"… {layers:,} more layers", width - 2), "dim")
        case One(name=name):
            _leaf(sheet, diagram, name, column, width, "")


def _leaf(sheet: Canvas, diagram: Diagram, name: str, column: int, width: int, times: str) -> None:
    row, accent = sheet.height, _accent(diagram, name)
    _, design = diagram.design(name)
    sheet.box(row, column, 4, width, edge="round", style=accent)
    sheet.put(row + 1, column + 2, _cut(name, width - 4 - len(times) - 1), accent)
    sheet.put(row + 1, column + width - 2 - len(times), times, "bold")
    sheet.put(row + 2, column + 2, _cut(" + ".join(box.title for box in design.boxes), width - 4), "dim")


def _times(part: Repeat) -> str:
    times = f"× {part.times:,}" if part.times > 1 else ""
    return f"{times} shared".strip() if part.shares_weights else times


# ----------------------------------------------------------------------------------------------------------------------
# The inside of a block


def _panel(diagram: Diagram, design: Design, look: Look) -> Canvas:
    sheet, accent = Canvas(), _accent(diagram, design.name)
    middle = 4 + _INNER // 2
    inside = Canvas()
    inside.put(0, middle, "▲")
    inside.put(0, middle + 2, diagram.stream, "dim")
    if design.is_parallel:
        _parallel(inside, design, middle, look)
    for box in () if design.is_parallel else reversed(design.boxes):
        _sublayer(inside, design, box, middle, look)
    inside.put(inside.height, middle, "│")
    inside.put(inside.height - 1, middle + 2, diagram.stream, "dim")
    sheet.box(0, 0, inside.height + 2, _PANEL, style=accent)
    of = f" {design.place} "
    sheet.put(0, 2, f" {_cut(design.name, _PANEL - len(of) - 8)} ", accent)
    sheet.put(0, _PANEL - 2 - len(of), of, "dim")
    sheet.place(1, 1, inside)
    active = f", {format_count(design.active)} active" if design.active != design.parameters else ""
    if design.note:
        note = f" {design.note} "
        sheet.put(1, max(1, _PANEL - 2 - len(note)), note, "dim")
    foot = f" {format_count(design.parameters)} a layer{active} "
    sheet.put(inside.height + 1, _PANEL - 2 - len(foot), foot, "dim")
    return sheet


def _parallel(sheet: Canvas, design: Design, middle: int, look: Look) -> None:
    """Every sublayer reads the stream (left) and writes to one addition (right)."""
    top, right = sheet.height, 4 + _INNER
    sheet.put(top, 1, "╭" + "─" * (middle - 2) + "⊕" + "─" * (right - middle - 1) + "╮")
    reads: list[tuple[int, int]] = []
    writes: list[int] = []
    for index in reversed(range(len(design.boxes))):
        writes.append(sheet.height + 1)
        _box(sheet, design.boxes[index], 3, look)
        if design.norm_before:
            sheet.put(sheet.height, middle, "▲")
            norm = f"( {design.norm_of(index)} )"
            reads.append((sheet.height, middle - len(norm) // 2))
            _norm(sheet, norm, middle)
        else:
            reads.append((sheet.height, middle))
            sheet.put(sheet.height, middle, "▲")
    bottom = sheet.height
    sheet.put(bottom, 1, "╰" + "─" * (middle - 2) + "┤")
    for row in range(top + 1, bottom):
        sheet.put(row, 1, "│")
    for row in range(top + 1, max(writes)):
        sheet.put(row, right, "│")
    for row, until in reads:
        sheet.put(row, 1, "├" + "─" * (until - 3))
    for row in writes:
        sheet.put(row, right - 1, "─" + ("┤" if row < max(writes) else "╯"))


def _sublayer(sheet: Canvas, design: Design, box: Box, middle: int, look: Look) -> None:
    """One residual branch, from its addition at the top to where it leaves the stream at the bottom."""
    norm = f"( {design.norm} )"
    if design.norm_place == "post":
        _norm(sheet, norm, middle)
        sheet.put(sheet.height, middle, "│")
    top = sheet.height
    sheet.put(top, 1, "╭" + "─" * (middle - 2) + "⊕")
    if design.norm_after:
        _norm(sheet, norm, middle)
    _box(sheet, box, 3, look)
    sheet.put(sheet.height, middle, "▲")
    if design.norm_before:
        _norm(sheet, norm, middle)
    bottom = sheet.height
    sheet.put(bottom, 1, "╰" + "─" * (middle - 2) + "┤")
    for row in range(top + 1, bottom):
        sheet.put(row, 1, "│")


def _norm(sheet: Canvas, norm: str, middle: int) -> None:
    sheet.put(sheet.height, middle - len(norm) // 2, norm, "yellow")


def _box(sheet: Canvas, box: Box, column: int, look: Look) -> None:
    row, room = sheet.height, _INNER - 4
    lines = [(_sides(box.title, format_count(box.parameters) if box.parameters else "", room), "bold")]
    lines += [(line, "") for line in _art(box, room)]
    for detail in box.details:
        words = detail.replace("→", "->") if look.ascii_only else detail
        lines += [(line, "dim") for line in textwrap.wrap(words, room)]
    lines += [(line, "") for line in textwrap.wrap(box.sees or "", room)]
    lines += [(line, "blue") for line in _matrix(box, look)]
    sheet.box(row, column, len(lines) + 2, _INNER, style=_color(box))
    for i, (line, style) in enumerate(lines):
        sheet.put(row + 1 + i, column + 2, _cut(line, room), style)


def _color(box: Box) -> str:
    return "magenta" if isinstance(box.art, Experts) else "green" if isinstance(box.art, Maps) else "blue"


def _matrix(box: Box, look: Look) -> list[str]:
    """The pattern, two rows in a line; where only ASCII shows, one row in a line and half as many of them."""
    if not box.sees:
        return []
    if not look.ascii_only:
        return picture_of(box.sees, _MATRIX, "blocks").splitlines()
    return picture_of(box.sees, _MATRIX // 2, "ascii").splitlines()


def _art(box: Box, room: int) -> list[str]:
    match box.art:
        case Heads():
            return _heads(box.art, room)
        case Experts():
            return _experts(box.art, room)
        case Maps():
            return [f"{_equation(box.art)}"]
        case _:
            return []


def _heads(art: Heads, room: int) -> list[str]:
    """Query heads, bracketed as they share keys and values; one bracket and a count where they do not all fit."""
    share = art.queries // art.groups
    if share < 2 or share + 8 > room:
        return []
    if art.queries <= room:
        return ["■" * art.queries, ("└" + "─" * (share - 2) + "┘") * art.groups]
    return [f"{'■' * share} × {art.groups:,}", "└" + "─" * (share - 2) + "┘"]


def _experts(art: Experts, room: int) -> list[str]:
    """Lit and unlit experts, as many as fit into four lines."""
    shared = "■ + " if art.shared else ""
    each = 2 if art.experts * 2 + len(shared) <= room else 1
    drawn = min(art.experts, 4 * (room - len(shared)))
    lit = set(art.lit(drawn))
    cells = ["■" if i in lit else "□" for i in range(drawn)]
    line = (" " * (each - 1)).join(cells)
    rows = textwrap.wrap(line, room - len(shared)) if each == 1 else [line]
    return [*(f"{shared if i == 0 else ' ' * len(shared)}{row}" for i, row in enumerate(rows)), art.router]


def _equation(art: Maps) -> str:
    """`down(silu(gate) × up)`, as the paper writes it."""
    if len(art.inward) == 1:
        return f"{art.outward}({art.activation}({art.inward[0]}))"
    return f"{art.outward}({art.activation}({art.inward[0]}) × {art.inward[1]})"
