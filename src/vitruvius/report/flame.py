"""Where time went, as a flame graph: folded stacks for other tools, and an SVG of our own.

Folded stacks are one line for each stack, `run;layer;mixer attention;mm 1234`, in whole microseconds: what speedscope,
inferno and flamegraph.pl read (Gregg, 2016). The SVG grows downwards from the whole run: the width of a box is its
share of the time, boxes below it are what it called. Pointing at a box tells its full name and numbers; there is no
script.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    Stacks = Mapping[tuple[str, ...], float]
    """Seconds by stack of names, outermost first, without what deeper stacks hold."""

WIDTH, ROW, MARGIN, HEAD = 1200, 18, 12, 44
_LEAST = 1.0
"""Pixels of the narrowest box that is drawn; narrower ones stay a gap."""
_LETTER = 6.6
"""Pixels of a letter, about."""
_HUES = 8

_STYLE = """
.flame { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: #ffffff; }
.flame text { fill: #0f172a; pointer-events: none; } .flame rect { stroke: #ffffff; stroke-width: .5; }
.flame .title { font: 600 15px system-ui, sans-serif; } .flame .note { fill: #475569; }
.flame .h0 { fill: #cbd5e1; } .flame .h1 { fill: #93c5fd; } .flame .h2 { fill: #fcd34d; } .flame .h3 { fill: #86efac; }
.flame .h4 { fill: #fca5a5; } .flame .h5 { fill: #c4b5fd; } .flame .h6 { fill: #7dd3fc; } .flame .h7 { fill: #fdba74; }
@media (prefers-color-scheme: dark) {
.flame { background: #0f172a; } .flame text { fill: #f8fafc; } .flame .note { fill: #a3b1c6; }
.flame rect { stroke: #0f172a; }
.flame .h0 { fill: #475569; } .flame .h1 { fill: #1d4ed8; } .flame .h2 { fill: #854d0e; } .flame .h3 { fill: #166534; }
.flame .h4 { fill: #991b1b; } .flame .h5 { fill: #6d28d9; } .flame .h6 { fill: #075985; } .flame .h7 { fill: #9a3412; }
}
""".strip()


@dataclass(slots=True)
class Frame:
    """A box: a name under its callers, with what is below it."""

    name: str
    own: float = 0.0
    """Seconds that no box below accounts for."""
    inner: dict[str, Frame] = field(default_factory=dict[str, "Frame"])

    @property
    def total(self) -> float:
        """Seconds of the box with everything below it."""
        return self.own + sum(frame.total for frame in self.inner.values())

    @property
    def depth(self) -> int:
        """Rows that it takes."""
        return 1 + max((frame.depth for frame in self.inner.values()), default=0)


def folded(stacks: Stacks) -> str:
    """Folded stacks, the longest first, in whole microseconds; stacks that round to nothing are left out."""
    lines = [
        (round(seconds * 1e6), ";".join(_plain(name) for name in names))
        for names, seconds in stacks.items()
        if round(seconds * 1e6) > 0
    ]
    return "".join(f"{names} {count}\n" for count, names in sorted(lines, key=lambda line: (-line[0], line[1])))


def _plain(name: str) -> str:
    """A name without what a folded line cannot hold."""
    return "".join(ch if ch.isprintable() and ch != ";" else "_" for ch in name) or "_"


def _shown(text: str) -> str:
    """Text without what XML cannot hold."""
    return "".join(ch if ch.isprintable() else "_" for ch in text)


def tree(stacks: Stacks, root: str) -> Frame:
    """The boxes of a flame graph under one root; stacks that begin with its name begin below it."""
    whole = Frame(root)
    for names, seconds in stacks.items():
        frame = whole
        for name in names[1:] if names[:1] == (root,) else names:
            frame = frame.inner.setdefault(name, Frame(name))
        frame.own += seconds
    return whole


def flame_svg(stacks: Stacks, *, title: str, note: str = "", root: str = "run") -> str:
    """The flame graph as a standalone SVG document, light or dark as the reader's system is."""
    whole = tree(stacks, root)
    height = HEAD + ROW * whole.depth + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="flame" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(_shown(title))}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{MARGIN}" y="20">{escape(_shown(title))}</text>',
        f'<text class="note" x="{MARGIN}" y="36">{escape(_shown(note))}</text>' if note else "",
    ]
    if whole.total > 0:
        scale = (WIDTH - 2 * MARGIN) / whole.total
        parts += _boxes(whole, x=float(MARGIN), row=0, scale=scale, whole=whole.total)
    return "\n".join(part for part in [*parts, "</svg>"] if part) + "\n"


def _boxes(frame: Frame, *, x: float, row: int, scale: float, whole: float) -> list[str]:
    total = frame.total
    width = total * scale
    if width < _LEAST:
        return []
    y = HEAD + ROW * row
    name = _plain(frame.name)
    says = f"{name}: {total * 1e3:,.3f} ms, {total / whole:.1%}"
    fits = int((width - 6) / _LETTER)
    shown = name if len(name) <= fits else f"{name[: fits - 1]}…" if fits > 3 else ""
    parts = [
        f'<g><title>{escape(says)}</title><rect class="h{_hue(name, row)}" x="{x:.2f}" y="{y}" '
        f'width="{width:.2f}" height="{ROW - 1}" rx="2"/>'
        + (f'<text x="{x + 3:.2f}" y="{y + 12.5}">{escape(shown)}</text>' if shown else "")
        + "</g>"
    ]
    for inner in sorted(frame.inner.values(), key=lambda inner: -inner.total):
        parts += _boxes(inner, x=x, row=row + 1, scale=scale, whole=whole)
        x += inner.total * scale
    return parts


def _hue(name: str, row: int) -> int:
    """A colour for a name: the same wherever it stands, grey for the root."""
    return 0 if row == 0 else 1 + sum(name.encode()) % (_HUES - 1)
