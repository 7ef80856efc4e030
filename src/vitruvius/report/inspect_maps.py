"""Attention maps as pictures: small ones as PNG, large ones as SVG with the tokens along both sides."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape
from typing import TYPE_CHECKING

from vitruvius.report.inspect_words import visible
from vitruvius.report.svg import MONO, SANS

if TYPE_CHECKING:
    from collections.abc import Sequence


_HIDDEN = (226, 232, 240)
_RAMP = ((255, 255, 255), (191, 219, 254), (59, 130, 246), (30, 58, 138), (15, 23, 42))
_BELOW = ((255, 255, 255), (254, 202, 202), (239, 68, 68), (153, 27, 27), (69, 10, 10))
_STEPS = 126
_CELL, _LETTER, _MARGIN = 10, 7.5, 8
_SAID = 0.1
"""A cell of at least this weight says so when the pointer is on it."""
_MOST_LETTERS = 14


def png(cells: Sequence[Sequence[float | None]]) -> bytes:
    """A picture with a pixel for each cell: white is 0, dark blue is 1, red is below zero, grey is not visible.

    The colour goes with the square root of the weight, so that small ones are seen.
    """
    height, width = len(cells), len(cells[0]) if cells else 0
    raw = b"".join(b"\x00" + bytes(_index(value) for value in row) for row in cells)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", _PALETTE), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def data_uri(cells: Sequence[Sequence[float | None]]) -> str:
    """The picture as an address that holds it whole."""
    return "data:image/png;base64," + base64.b64encode(png(cells)).decode("ascii")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _index(value: float | None) -> int:
    """0 for what is not visible, 1 to 127 from zero to one, 128 to 254 from zero to minus one."""
    if value is None:
        return 0
    step = round(_STEPS * min(1.0, abs(value)) ** 0.5)
    return 1 + step if value >= 0 else 2 + _STEPS + step


def _colour(ramp: Sequence[tuple[int, int, int]], share: float) -> bytes:
    place = share * (len(ramp) - 1)
    low = min(int(place), len(ramp) - 2)
    part = place - low
    return bytes(round(a + (b - a) * part) for a, b in zip(ramp[low], ramp[low + 1], strict=True))


_PALETTE = (
    bytes(_HIDDEN)
    + b"".join(_colour(_RAMP, step / _STEPS) for step in range(_STEPS + 1))
    + b"".join(_colour(_BELOW, step / _STEPS) for step in range(_STEPS + 1))
    + bytes(3)
)


def large_map(
    cells: Sequence[Sequence[float | None]], *, queries: Sequence[str], keys: Sequence[str], title: str
) -> str:
    """A map with the text of the queries on the left and of the keys on top; rows read keys."""
    left = _room(queries)
    top = _room(keys)
    wide, high = _CELL * len(keys), _CELL * len(queries)
    width, height = left + wide + _MARGIN, top + high + _MARGIN
    parts = [
        (
            f'<image x="{left:g}" y="{top:g}" width="{wide}" height="{high}" preserveAspectRatio="none" '
            f'style="image-rendering:pixelated" href="{data_uri(cells)}"/>'
        ),
        f'<rect x="{left:g}" y="{top:g}" width="{wide}" height="{high}" fill="none" stroke="#94a3b8"/>',
    ]
    words = f'font-size="{_LETTER}" fill="#334155" font-family="{MONO}"'
    for row, text in enumerate(queries):
        y = top + _CELL * row + _CELL * 0.72
        parts.append(f'<text x="{left - 4:g}" y="{y:g}" text-anchor="end" {words}>{escape(text)}</text>')
    for column, text in enumerate(keys):
        x = left + _CELL * column + _CELL * 0.72
        turned = f'transform="translate({x:g} {top - 4:g}) rotate(-90)"'
        parts.append(f"<text {turned} {words}>{escape(text)}</text>")
    parts += _hints(cells, queries, keys, left, top)
    name = escape(title)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" font-family="{SANS}" '
        f'role="img" aria-label="{name}">\n<title>{name}</title>\n' + "\n".join(parts) + "\n</svg>"
    )


def _hints(
    cells: Sequence[Sequence[float | None]], queries: Sequence[str], keys: Sequence[str], left: float, top: float
) -> list[str]:
    found: list[str] = []
    for row, values in enumerate(cells):
        for column, value in enumerate(values):
            if value is not None and abs(value) >= _SAID:
                x, y = left + _CELL * column, top + _CELL * row
                said = escape(f"{queries[row]} to {keys[column]}: {value:.2f}")
                found.append(
                    f'<rect x="{x:g}" y="{y:g}" width="{_CELL}" height="{_CELL}" fill="transparent">'
                    f"<title>{said}</title></rect>"
                )
    return found


def _room(texts: Sequence[str]) -> float:
    """Units that the longest text takes."""
    return _MARGIN + 6 + 0.62 * _LETTER * max((len(text) for text in texts), default=0)


def axis(tokens: Sequence[str], run: int, count: int) -> list[str]:
    """What stands beside each of `count` cells: a token, or the first of a run of them with its place."""
    if run == 1:
        return [visible(token, most=_MOST_LETTERS) for token in tokens[:count]]
    places = range(0, len(tokens), run)
    return [f"{place} {visible(tokens[place], most=_MOST_LETTERS - 5)}" for place in places][:count]
