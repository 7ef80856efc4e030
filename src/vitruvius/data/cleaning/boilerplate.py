"""What of a page is its text and what is the site around it: by tags and roles, and by shallow text features."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from vitruvius.data.cleaning.pages import CELL, Block, hidden, names, page_text, read_blocks

LEAST_CHARACTERS: Final = 250
"""Where less than this is left of a page, too much was taken for boilerplate (trafilatura's MIN_EXTRACTED_SIZE)."""

_SKIPPED: Final = names("nav footer aside form button select textarea menu dialog")
_JUDGED: Final = names("div section ul ol table header p dl td center")
"""Elements that are skipped for what their attributes say."""
_LONGEST_JUDGED: Final = 1_000

_ATTRIBUTE: Final = re.compile(
    r"""(?:^|\s)(?P<name>class|id|role)\s*+=\s*+(?:"(?P<double>[^"]*+)"?|'(?P<single>[^']*+)'?|(?P<bare>[^\s"'>]*+))""",
    re.IGNORECASE,
)
_ROLES: Final = frozenset(("navigation", "banner", "contentinfo", "complementary", "search", "menu", "menubar"))
_NAMES: Final = names("""
    ad ads advert advertisement advertising banner breadcrumb breadcrumbs byline-share comment-form cookie cookies
    copyright disclaimer footer footerwrapper headerlink login masthead menu modal nav navbar navigation navigation
    newsletter pagination pager paginator popup promo related related-posts share sharing sidebar sidebarwrapper
    skip-link social sphinxsidebar subscribe tag-cloud toolbar widget
    """)
_PARTS: Final = names(
    """
    ad ads advert banner breadcrumb breadcrumbs cookie cookies footer menu nav navbar navigation newsletter pagination
    pager promo share sharing sidebar social toolbar
    """
)
"""Words that a name may start or end with: `site-footer`, `nav-links`."""
_WORD_BORDER: Final = re.compile(r"[-_]+")

# Kohlschuetter, Fankhauser and Nejdl 2010, algorithm 2: the decision tree of link density and number of words.
_LINK_DENSITY: Final = 0.333333
_LINK_DENSITY_BEFORE: Final = 0.555556
_WORDS, _WORDS_AFTER, _WORDS_BEFORE = 16, 15, 4
_WORDS_AFTER_LINKS, _NEXT_AFTER_LINKS = 40, 17
_FUSED: Final = frozenset(("li", "tr"))
_LEVELS: Final = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))


def main_text(page: str) -> str | None:
    """The main text of a page; None where too little of it would be left.

    Dropped are elements that are navigation, footers, side bars and forms by their tag, role or class; then, where the
    page marks its main part (`main`, `article`, the role) and that is not too short, all around it, and links in it
    that stand alone; else blocks that the decision tree of Kohlschuetter et al. 2010 (the one of boilerpipe's
    NumWordsRules) takes for boilerplate.
    """
    blocks = read_blocks(page, skipped)
    inside = [block for block in blocks if block.in_main]
    if sum(len(block.text) for block in inside) >= LEAST_CHARACTERS:
        kept = [block for block in inside if not _is_link(block)]
    else:
        kept = _content(blocks)
    text = page_text(kept)
    return text if len(text) >= LEAST_CHARACTERS else None


def skipped(name: str, attributes: str) -> bool:
    """Whether an element is no part of the main text by its tag, role or class."""
    if name in _SKIPPED:
        return True
    if not attributes:
        return False
    if name == "a":
        return "headerlink" in attributes
    return (name in _JUDGED and _is_site(attributes[:_LONGEST_JUDGED])) or hidden(name, attributes)


@lru_cache(maxsize=4096)
def _is_site(attributes: str) -> bool:
    """Whether attributes say that this is the site and not the page."""
    for found in _ATTRIBUTE.finditer(attributes):
        value = (found["double"] or found["single"] or found["bare"] or "").lower()
        if found["name"].lower() == "role":
            if value in _ROLES:
                return True
            if value in ("main", "article"):
                return False
            continue
        for name in value.split():
            parts = _WORD_BORDER.split(name)
            if name in _NAMES or parts[0] in _PARTS or (parts[-1] in _PARTS and parts[0] not in ("has", "with", "no")):
                return True
    return False


def _is_link(block: Block) -> bool:
    return block.linked > _LINK_DENSITY * len(block.text) and block.element in ("li", "ul", "ol", "div", "tr", "")


def _content(blocks: list[Block]) -> list[Block]:
    """Blocks that are content by the decision tree.

    The items of a list and the rows of a table are judged together; a heading goes with the block that it heads.
    """
    runs: list[list[Block]] = []
    for block in blocks:
        if runs and block.element in _FUSED and runs[-1][0].element == block.element:
            runs[-1].append(block)
        else:
            runs.append([block])
    words = [sum(_words(block.text) for block in run) for run in runs]
    links = [sum(block.linked for block in run) / sum(len(block.text) for block in run) for run in runs]
    count = len(runs)
    keeps = [False] * count
    for index in range(count):
        keeps[index] = _is_content(
            words[index],
            words[index - 1] if index else 0,
            words[index + 1] if index + 1 < count else 0,
            links[index],
            links[index - 1] if index else 0.0,
        )
    for index in range(count - 2, -1, -1):
        if runs[index][0].element in _LEVELS:
            keeps[index] = keeps[index + 1]
    return [block for run, keep in zip(runs, keeps, strict=True) if keep for block in run]


def _words(text: str) -> int:
    return text.count(" ") + text.count("\n") + text.count(CELL) + 1


def _is_content(words: int, before: int, after: int, links: float, links_before: float) -> bool:
    if links > _LINK_DENSITY:
        return False
    if links_before <= _LINK_DENSITY_BEFORE:
        return words > _WORDS or after > _WORDS_AFTER or before > _WORDS_BEFORE
    return words > _WORDS_AFTER_LINKS or after > _NEXT_AFTER_LINKS
