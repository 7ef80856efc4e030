"""HTML to text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vitruvius.data.cleaning.boilerplate import main_text
from vitruvius.data.cleaning.pages import html_text
from vitruvius.data.cleaning.step import Rewriter, Rewritten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Html(Rewriter):
    """A page of HTML becomes the text that its reader sees; other documents stay as they are."""

    kind: ClassVar[str] = "html"
    source: ClassVar[str] = (
        "HTML Living Standard, section 13.2.5; Kohlschuetter et al. 2010, Boilerplate Detection using Shallow Text "
        "Features, algorithm 2"
    )
    counts: ClassVar[Mapping[str, str]] = {
        "pages": "pages of HTML turned into text",
        "whole_pages": "pages of which too little was main text, so that all of it was kept",
    }

    extract: Literal["whole", "main"] = "whole"
    """`whole`: everything a reader sees; `main`: without navigation, headers, footers, side bars and lists of links."""

    def rewritten(self, document: Document) -> Rewritten:
        """The text of a page."""
        if document.markup != "html":
            return Rewritten(document=document, changes={})
        changes = {"pages": 1}
        text = main_text(document.text) if self.extract == "main" else None
        if text is None:
            text = html_text(document.text)
            if self.extract == "main":
                changes["whole_pages"] = 1
        return Rewritten(document=replace(document, text=text, markup="plain"), changes=changes)
