"""The text of an HTML page, with its blocks kept apart."""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser
from typing import Final

_PARAGRAPH_TAGS: Final = """
    address article aside blockquote body dd details dialog div dl dt fieldset figcaption figure footer form
    h1 h2 h3 h4 h5 h6 header hr html legend main menu nav ol optgroup p pre search section summary table ul
"""
_PARAGRAPHS: Final = frozenset(_PARAGRAPH_TAGS.split())
_LINES: Final = frozenset(("br", "caption", "li", "option", "tbody", "tfoot", "thead", "tr"))
_CELLS: Final = frozenset(("td", "th"))
_DROPPED: Final = frozenset(("script", "style", "template", "title", "noscript", "svg"))
_CHARSET: Final = re.compile(rb"""<meta[^>]*?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_SPACE: Final = re.compile(r"[ \t\n\r\f]+")


def declared_encoding(page: bytes) -> str | None:
    """The Python codec for the character set that a page declares in its first 1,024 bytes, or None."""
    found = _CHARSET.search(page[:1024])
    if found is None:
        return None
    try:
        codec = codecs.lookup(found[1].decode("ascii"))
    except LookupError:
        return None
    # `base64` and the like are codecs too, but not of text.
    return codec.name if getattr(codec, "_is_text_encoding", True) else None


def html_text(page: str) -> str:
    """What a reader of the page sees.

    Scripts, styles, templates, titles and drawings are dropped, entities become characters, white space
    collapses except in `pre`, paragraphs are set apart by an empty line, rows and items by a line break,
    table cells by a tab.
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    """Collects text in pieces; a break is remembered and written only before the next visible character."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._break = ""
        self._preformatted = 0
        self._dropped: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in _DROPPED:
            self._dropped.append(tag)
        if tag == "pre":
            self._preformatted += 1
        self._set_apart(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._dropped:
            # An element that was never closed ends with the one around it.
            del self._dropped[self._dropped.index(tag) :]
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        self._set_apart(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._set_apart(tag)

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        if self._preformatted:
            self._write(data)
            return
        words = _SPACE.sub(" ", data)
        if words.startswith(" "):
            self._break = self._break or " "
        if core := words.strip(" "):
            self._write(core)
            self._break = " " if words.endswith(" ") else ""

    def text(self) -> str:
        """All of it, with one newline at the end of a page that has any text."""
        body = "".join(self._pieces).strip("\n")
        return body + "\n" if body else ""

    def _write(self, text: str) -> None:
        if self._pieces:
            self._pieces.append(self._break)
        self._break = ""
        self._pieces.append(text)

    def _set_apart(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._break = "\n\n"
        elif tag in _LINES and self._break != "\n\n":
            self._break = "\n"
        elif tag in _CELLS and "\n" not in self._break:
            self._break = "\t"
