"""A sheet of characters to draw on: text, lines and boxes in Unicode, with colors or without, or in plain ASCII."""

from __future__ import annotations

from typing import Final, Literal

Style = str
"""The name of a style in `STYLES`, or the empty string."""

STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "blue": "34",
    "red": "31",
    "green": "32",
    "magenta": "35",
    "yellow": "33",
    "cyan": "36",
}
"""Style -> what a terminal calls it. Only the eight basic colors: the user's own theme decides what they look like."""

_ASCII: Final = str.maketrans(
    {
        **dict.fromkeys("─━═╌", "-"),
        **dict.fromkeys("│┃║╎", "|"),
        **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛⊕", "+"),
        **dict.fromkeys("■▇", "#"),
        **dict.fromkeys("□·", "."),
        "▲": "^",
        "×": "x",
        "→": ">",
        "…": "~",
    }
)

Edge = Literal["round", "sharp", "dashed"]
_EDGES: Final[dict[Edge, str]] = {"round": "╭╮╰╯─│", "sharp": "┌┐└┘─│", "dashed": "╭╮╰╯╌╎"}


def to_ascii(text: str) -> str:
    """The text with each drawing character replaced by one of ASCII's, so that columns stay where they are."""
    return text.translate(_ASCII)


class Canvas:
    """Characters at (row, column), each with a style; it grows downwards and to the right as it is drawn on."""

    def __init__(self) -> None:
        self._rows: list[list[tuple[str, Style]]] = []

    @property
    def height(self) -> int:
        """Rows so far."""
        return len(self._rows)

    @property
    def width(self) -> int:
        """Columns of the longest row so far."""
        return max((len(row) for row in self._rows), default=0)

    def put(self, row: int, column: int, text: str, style: Style = "") -> None:
        """Write text from (row, column) to the right, over what is there."""
        while len(self._rows) <= row:
            self._rows.append([])
        cells = self._rows[row]
        cells.extend([(" ", "")] * (column + len(text) - len(cells)))
        cells[column : column + len(text)] = [(character, style) for character in text]

    def box(self, row: int, column: int, height: int, width: int, *, edge: Edge = "sharp", style: Style = "") -> None:
        """Draw the edge of a box whose upper left corner is at (row, column)."""
        upper_left, upper_right, lower_left, lower_right, across, down = _EDGES[edge]
        self.put(row, column, upper_left + across * (width - 2) + upper_right, style)
        for below in range(row + 1, row + height - 1):
            self.put(below, column, down, style)
            self.put(below, column + width - 1, down, style)
        self.put(row + height - 1, column, lower_left + across * (width - 2) + lower_right, style)

    def place(self, row: int, column: int, other: Canvas) -> None:
        """Copy another sheet with its upper left corner at (row, column)."""
        for below, cells in enumerate(other._rows):
            for right, (character, style) in enumerate(cells):
                self.put(row + below, column + right, character, style)

    def text(self, *, color: bool = False, ascii_only: bool = False) -> str:
        """The sheet as text; lines end without spaces."""
        lines = [_plain(row) if not color else _colored(row) for row in self._rows]
        text = "\n".join(lines)
        return to_ascii(text) if ascii_only else text


def _plain(row: list[tuple[str, Style]]) -> str:
    return "".join(character for character, _ in row).rstrip()


def _colored(row: list[tuple[str, Style]]) -> str:
    parts: list[str] = []
    current = ""
    length = len(_plain(row))
    for character, style in row[:length]:
        if style != current:
            parts.append("\x1b[0m" if current else "")
            parts.append(f"\x1b[{STYLES[style]}m" if style else "")
            current = style
        parts.append(character)
    return "".join(parts) + ("\x1b[0m" if current else "")
