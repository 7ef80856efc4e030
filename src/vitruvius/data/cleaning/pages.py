"""A page of HTML as blocks of text, in one pass: time and memory are linear in the page.

Tags are found by rules of the HTML standard's tokenizer (section 13.2.5). There is no tree: a tree builder has to
follow the standard's section 13.2.6, by which 50 KB of `<p><b a=1><p><b a=2>...` become millions of elements (lexbor,
which is as good as they get, takes 2.9 GB and seconds for them), and 80 KB of open lists take quadratic time.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


PARAGRAPH, LINE, CELL = "\n\n", "\n", "\t"

_PARAGRAPH_TAGS: Final = """
    address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer form
    h1 h2 h3 h4 h5 h6 header hgroup hr html legend main menu nav ol optgroup p pre search section summary table ul
"""
_BREAKS: Final[dict[str, str]] = {
    **dict.fromkeys(_PARAGRAPH_TAGS.split(), PARAGRAPH),
    **dict.fromkeys(("br", "caption", "li", "option", "tbody", "tfoot", "thead", "tr"), LINE),
    **dict.fromkeys(("td", "th"), CELL),
}
_INLINE_TAGS: Final = """
    abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark nobr output q rb rp rt ruby s samp
    small span strike strong sub sup time tt u var wbr
"""
_INLINE: Final = names(_INLINE_TAGS) | {f"/{name}" for name in names(_INLINE_TAGS)}
"""Tags that say nothing about where text stands, so most of them need no look."""
_UNSEEN: Final = names("annotation annotation-xml audio canvas datalist noscript object svg template video")
"""Elements whose content is not what a reader reads; dropped up to the end tag that closes them."""
_VOID: Final = names("area base br col embed hr img input link meta param source track wbr")
_SELF_ENDING: Final = names("p li dd dt tr td th tbody thead tfoot option optgroup caption colgroup html body")
"""Elements whose end tag may be left out: no sign of what is open."""

# One alternative per kind of markup. The possessive repeats (`*+`) never try another way, and what never ends takes
# the rest of the page, as in browsers; so every character is looked at a fixed number of times.
_MARKUP: Final = re.compile(
    r"""
    <(?:
      # A tag: name, attributes.
      (?![sStTiInNxX](?:(?i:cript|tyle|itle|frame|oframes|oembed|mp))[\s/>])
      (/?[A-Za-z][^\s/>]*+)((?:[^>=]++|=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))?+)*+)(?:>|\Z)
      # A comment; `<!-->` is a whole one.
      | !--(?:-?>|[^-]*+(?:-(?!->|-!>)[^-]*+)*+(?:--!?>|\Z))
      # What holds no markup, up to its end tag.
      | ([A-Za-z]++)(?:[^>=]++|=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))?+)*+(?:>|\Z)
        [^<]*+(?:<(?!/(?i:\3)[\s/>])[^<]*+)*+
      # A declaration, or what is taken for one.
      | [!?/][^>]*+(?:>|\Z)
    )
    """,
    re.VERBOSE,
)
_ROLE_MAIN: Final = re.compile(r"""\brole\s*=\s*["']?main\b""", re.IGNORECASE)
_HIDDEN: Final = re.compile(r"\shidden(?![^\s=/])(?!\s*=\s*[\"']?until-found)", re.IGNORECASE)
_SPACE: Final = re.compile(r"[ \t\n\r\f]+")
_SPLIT_AT_ONCE: Final = 1 << 20
_LONG_REFERENCE: Final = len("&#99999999")
_HUGE_REFERENCE: Final = re.compile(r"&#(?:[0-9]{9,}|[xX][0-9a-fA-F]{9,});?")


class Block(NamedTuple):
    """A run of text without a line break before its end."""

    apart: str
    """What sets it apart from the block before it: an empty line or a line break."""
    text: str
    """Its characters; lines only where it is preformatted."""
    linked: int
    """Characters of it that are links."""
    element: str
    """`pre`, `h1` to `h6`, or the element that began the block."""
    in_main: bool
    """Whether it is inside `main`, `article` or what has the role of main."""


def page_text(blocks: list[Block]) -> str:
    """Blocks as text, with one newline at the end where there is any."""
    parts: list[str] = []
    for block in blocks:
        parts.append(block.apart)
        parts.append(block.text)
    body = "".join(parts).strip("\n")
    return body + "\n" if body else ""


def html_text(page: str) -> str:
    """What a reader of a page sees, with one newline at the end where that is anything.

    Paragraphs are set apart by an empty line, rows and items by a line break, table cells by a tab.
    """
    return page_text(read_blocks(page))


def hidden(name: str, attributes: str) -> bool:
    """Whether an element says that no reader sees it."""
    return "hidden" in attributes and name not in _SELF_ENDING and _HIDDEN.search(attributes) is not None


def read_blocks(page: str, skips: Callable[[str, str], bool] = hidden) -> list[Block]:
    """What a reader of a page sees, in blocks.

    Scripts, styles, templates, titles and drawings are dropped, entities become characters, white space collapses
    except in `pre`, table cells are set apart by a tab. skips: whether an element (its name and the text of its
    attributes) is dropped with all that is in it; it is asked about inline elements only where they may be hidden.
    """
    reader = _Reader(skips)
    held = reader.held
    for name, attributes, text in _pieces(page.replace("\r\n", "\n")):
        if name is not None and (name not in _INLINE or reader.dropped or "hidden" in attributes):
            reader.tag(name.lower(), attributes)
        if text and not reader.dropped:
            held.append(_unescaped(text) if "&" in text else text)
    reader.end_block()
    return reader.blocks


def _pieces(page: str) -> Iterator[tuple[str | None, str, str]]:
    """(name, attributes, text after it) of every tag, comment and declaration; the name of the last two is None."""
    if len(page) <= _SPLIT_AT_ONCE:
        pieces = iter(_MARKUP.split(page))
        yield None, "", next(pieces)
        for name, attributes, _, text in zip(pieces, pieces, pieces, pieces, strict=True):
            yield name, attributes, text
        return
    # The same without a list of millions of pieces.
    name, attributes, end = None, "", 0
    for found in _MARKUP.finditer(page):
        yield name, attributes, page[end : found.start()]
        name, attributes, _ = found.groups()
        end = found.end()
    yield name, attributes, page[end:]


def _unescaped(text: str) -> str:
    # Python refuses to read very long numbers; none of them is a character.
    return html.unescape(_HUGE_REFERENCE.sub("\ufffd", text) if len(text) > _LONG_REFERENCE else text)


@final
class _Reader:
    """Knows where the text of a page stands: collects its pieces, and ends a block where a tag does."""

    __slots__ = (
        "_apart", "_cells", "_depths", "_element", "_link", "_linked", "_main", "_open", "_preformatted", "_skips",
        "blocks", "dropped", "held",
    )  # fmt: skip

    def __init__(self, skips: Callable[[str, str], bool]) -> None:
        self._skips = skips
        self.blocks: list[Block] = []
        self.held: list[str] = []
        """Pieces of the text of the present cell or block, as they stand in the page."""
        self._cells: list[str] = []
        self._apart = ""
        self._element = ""
        self._link = -1
        """Where in `held` the present link began; -1 outside of links."""
        self._linked = 0
        self._preformatted = 0
        self._open: dict[str, int] = {}
        """How many of each element are open around what is read."""
        self._depths: dict[str, int] = {}
        """How many of each element are open inside the dropped one."""
        self._main: list[tuple[str, int]] = []
        self.dropped = ""
        """The element that is being skipped."""

    def tag(self, name: str, attributes: str) -> None:
        """Enter or leave an element; `name` starts with a slash where it is left."""
        if self.dropped:
            self._tag_inside_dropped(name)
            if self.dropped:
                return
        entering = name[0] != "/"
        element = name if entering else name[1:]
        if element == "a":
            self._end_link()
            if entering and "href" in attributes:
                self._link = len(self.held)
        elif (apart := _BREAKS.get(element)) is not None:
            self._set_apart(apart, element if entering else "")
            if element == "pre":
                self._preformatted = max(0, self._preformatted + (1 if entering else -1))
        if entering:
            self._enter(element, attributes)
        elif depth := self._open.get(element, 0):
            self._open[element] = depth - 1
            while self._main and self._main[-1] == (element, depth):
                self._main.pop()

    def _enter(self, element: str, attributes: str) -> None:
        if element in _VOID:
            return
        if (element in _UNSEEN and attributes[-1:] != "/") or self._skips(element, attributes):
            self._end_link()
            self.dropped, self._depths = element, {element: 1}
        elif element not in _SELF_ENDING and element not in _INLINE:
            depth = self._open[element] = self._open.get(element, 0) + 1
            if element in ("main", "article") or (attributes and _ROLE_MAIN.search(attributes) is not None):
                self._main.append((element, depth))

    def _tag_inside_dropped(self, name: str) -> None:
        """A dropped element ends with its own end tag, or with that of an element around it."""
        if name[0] != "/":
            if name not in _VOID:
                self._depths[name] = self._depths.get(name, 0) + 1
            return
        element = name[1:]
        depth = self._depths.get(element, 0) - 1
        if depth >= 0:
            self._depths[element] = depth
            if element == self.dropped and depth == 0:
                self.dropped = ""
        elif self._open.get(element, 0):
            self.dropped = ""

    def _end_link(self) -> None:
        if self._link >= 0:
            self._linked += sum(map(len, self.held[self._link :]))
            self._link = -1

    def _set_apart(self, apart: str, element: str) -> None:
        if apart == CELL:
            self._end_cell()
            return
        self.end_block()
        if self._apart != PARAGRAPH:
            self._apart = apart
        if element and not (element == "p" and self._element in ("li", "tr")):
            self._element = element

    def _end_cell(self) -> None:
        linking = self._link >= 0
        self._end_link()
        if self.held:
            text = "".join(self.held)
            self.held.clear()
            if not self._preformatted:
                text = _SPACE.sub(" ", text).strip(" ")
            if text:
                self._cells.append(text)
        if linking:
            self._link = 0

    def end_block(self) -> None:
        """What comes now is another block."""
        self._end_cell()
        if not self._cells:
            return
        text = CELL.join(self._cells)
        element = self._element
        if self._preformatted:
            element = "pre"
            # The newline right after `<pre>` is no part of it.
            text = text.replace("\r", "\n").removeprefix("\n")
        self._cells.clear()
        if text:
            self.blocks.append(Block(self._apart, text, min(self._linked, len(text)), element, bool(self._main)))
            self._apart = ""
        self._element, self._linked = "", 0
