"""Tokens as people can see them, on pages of what happens inside a model."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.spec.reporting import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHOWN = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
_LONGEST = 24
COLOURS = 8


def visible(text: str, *, most: int = _LONGEST) -> str:
    """A token's text on one line: spaces and line breaks as signs, what cannot be printed as escapes, cut if long."""
    if not text:
        return "(empty)"
    found = "".join(_SHOWN.get(ch) or printable(ch) for ch in text[:most])
    return found if len(text) <= most else found + "…"


def tokens_of(document: Mapping[str, Any], which: str) -> list[str]:
    """The texts of the shown tokens; `which` is `tokens` or `source`."""
    return [str(token["text"]) for token in document["text"][which] or ()]


def tinted(tokens: Sequence[str], shares: Sequence[float | None], titles: Sequence[str], *, colour: str = "s0") -> str:
    """A text whose tokens have a ground as strong as their share, from 0 to 1; what the pointer is on says why."""
    parts: list[str] = []
    for token, share, title in zip(tokens, shares, titles, strict=True):
        strength = 0.0 if share is None else 85 * min(1.0, max(0.0, share))
        look = f"background:color-mix(in srgb, var(--{colour}) {strength:.0f}%, transparent)"
        parts.append(_span(token, look, title))
    return f'<p class="text">{"".join(parts)}</p>'


def coloured(tokens: Sequence[str], groups: Sequence[int | None], titles: Sequence[str]) -> str:
    """A text whose tokens have the colour of their group; more groups than colours begin again with the first."""
    parts: list[str] = []
    for token, group, title in zip(tokens, groups, titles, strict=True):
        colour = "transparent" if group is None else f"var(--s{group % COLOURS})"
        look = f"background:color-mix(in srgb, {colour} 38%, transparent)"
        parts.append(_span(token, look, title))
    return f'<p class="text">{"".join(parts)}</p>'


def _span(token: str, look: str, title: str) -> str:
    after = "\n" if "\n" in token else ""
    shown = escape(visible(token, most=200))
    return f'<span style="{look}" title="{escape(title)}">{shown}</span>{after}'


def chip(text: str, title: str = "") -> str:
    """A token in a table."""
    return f'<code class="token" title="{escape(title)}">{escape(visible(text))}</code>'


def number(value: float | None, digits: str = ".2f") -> str:
    """A number as text; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:{digits}}"
    return text.removeprefix("-") if text.startswith("-") and not float(text) else text


def head_name(head: Mapping[str, Any]) -> str:
    """`3`, or `3 second` of differential attention; `all` for a map of a whole mixer."""
    if head["head"] is None:
        return "all"
    return str(head["head"]) if head["map"] is None else f"{head['head']} {head['map']}"
