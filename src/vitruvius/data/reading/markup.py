"""The text of an HTML page, with its blocks kept apart.

Tags are found by rules of the HTML standard's tokenizer (section 13.2.5) in one pass, in time linear in the page: the
standard library's parser takes minutes for 80 KB of tags that never end.
"""

from __future__ import annotations

import codecs
import html
import re
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARAGRAPH_TAGS: Final = """
    address article aside blockquote body dd details dialog div dl dt fieldset figcaption figure footer form
    h1 h2 h3 h4 h5 h6 header hr html legend main menu nav ol optgroup p pre search section summary table ul
"""
_PARAGRAPHS: Final = frozenset(_PARAGRAPH_TAGS.split())
_LINES: Final = frozenset(("br", "caption", "li", "option", "tbody", "tfoot", "thead", "tr"))
_CELLS: Final = frozenset(("td", "th"))
_DROPPED: Final = frozenset(("template", "noscript", "svg"))
"""Elements whose content is markup, not for readers; dropped up to the end tag that closes them."""
_RAW: Final = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "title", "iframe", "noframes")
}
"""Elements whose content is no markup, and what ends them; dropped too."""

_CHARSET: Final = re.compile(rb"""<meta[^>]*?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_SPACE: Final = re.compile(r"[ \t\n\r\f]+")
# An attribute's quotes hide a `>`; a quote or a tag that never ends takes the rest of the page, as in browsers. The
# possessive repeat (*+) never tries another way, so the match is linear.
_TAG: Final = re.compile(
    r"""<(?P<end>/?)(?P<name>[A-Za-z][^\s/>]*)(?P<attributes>(?:=\s*+(?:"[^"]*(?:"|\Z)|'[^']*(?:'|\Z))|[^>])*+)(?:>|\Z)"""
)
_HUGE_REFERENCE: Final = re.compile(r"&#(?:[0-9]{9,}|[xX][0-9a-fA-F]{9,});?")


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
    for text, tag in _pieces(page):
        if tag is None:
            reader.text(text)
        else:
            reader.tag(tag)
    return reader.result()


def _pieces(page: str) -> Iterator[tuple[str, str | None]]:
    """The page as (text, None) and ("", tag) in order; a tag is its name in lower case, `/name` for an end tag."""
    place = 0
    while (opening := page.find("<", place)) >= 0:
        if opening > place:
            yield _unescaped(page[place:opening]), None
        tag = _TAG.match(page, opening)
        if tag is not None:
            name = tag["name"].lower()
            place = tag.end()
            if not tag["end"] and name in _RAW:
                ending = _RAW[name].search(page, place)
                place = ending.start() if ending else len(page)
            elif not (name in _DROPPED and tag["attributes"].endswith("/")):
                yield "", tag["end"] + name
        elif page.startswith(("<!", "<?", "</"), opening):
            place = _end_of_comment(page, opening)
        else:
            yield "<", None
            place = opening + 1
    if place < len(page):
        yield _unescaped(page[place:]), None


def _end_of_comment(page: str, opening: int) -> int:
    """Just past a comment, a declaration or what is taken for one; the end of the page when nothing ends it."""
    if page.startswith("<!--", opening):
        # `<!-->` is a whole comment, so its end may share the dashes of its start.
        ending = page.find("-->", opening + 2)
        return ending + 3 if ending >= 0 else len(page)
    ending = page.find(">", opening)
    return ending + 1 if ending >= 0 else len(page)


def _unescaped(text: str) -> str:
    if "&" not in text:
        return text
    # Python refuses to read very long numbers; none of them is a character.
    return html.unescape(_HUGE_REFERENCE.sub("\ufffd", text))


@final
class _Reader:
    """Collects text in pieces; a break is remembered and written only before the next visible character."""

    def __init__(self) -> None:
        self._written: list[str] = []
        self._break = ""
        self._preformatted = 0
        self._dropped = ""
        self._depth = 0

    def tag(self, tag: str) -> None:
        """Enter or leave an element."""
        name = tag.removeprefix("/")
        entering = name == tag
        if self._dropped:
            # Only the outermost dropped element counts: what is inside it ends with it.
            if name == self._dropped:
                self._depth += 1 if entering else -1
                self._dropped = self._dropped if self._depth else ""
            return
        if name in _DROPPED and entering:
            self._dropped, self._depth = name, 1
        elif name == "pre":
            self._preformatted = max(0, self._preformatted + (1 if entering else -1))
        self._set_apart(name)

    def text(self, text: str) -> None:
        """Add what stands between tags."""
        if self._dropped:
            return
        if self._preformatted:
            self._write(text)
            return
        words = _SPACE.sub(" ", text)
        if words.startswith(" "):
            self._break = self._break or " "
        if core := words.strip(" "):
            self._write(core)
            self._break = " " if words.endswith(" ") else ""

    def result(self) -> str:
        """All of it, with one newline at the end of a page that has any text."""
        body = "".join(self._written).strip("\n")
        return body + "\n" if body else ""

    def _write(self, text: str) -> None:
        if self._written:
            self._written.append(self._break)
        self._break = ""
        self._written.append(text)

    def _set_apart(self, name: str) -> None:
        if name in _PARAGRAPHS:
            self._break = "\n\n"
        elif name in _LINES and self._break != "\n\n":
            self._break = "\n"
        elif name in _CELLS and "\n" not in self._break:
            self._break = "\t"
