"""Characters: one form for what is the same, and nothing that does not show."""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from vitruvius.data.cleaning.settings import setting
from vitruvius.data.cleaning.step import Rewriter, Rewritten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vitruvius.data.document import Document

# A terminal's escape sequences go whole: without its ESC, the rest of one would become text.
_CONTROLS: Final = re.compile(r"\x1b\[[0-?]*+[ -/]*+[@-~]|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_ZERO_WIDTH: Final = re.compile("[\u180e\u200b\u2060-\u2064\ufeff]+")
_JOINERS: Final = re.compile("[\u200c\u200d]+")
_SOFT_HYPHENS: Final = re.compile("\xad+")
_TAGS: Final = re.compile("[\U000e0000-\U000e007f]+")
_BIDI: Final = re.compile("[\u202a-\u202e\u2066-\u206f]+")
_MARKS_OF_DIRECTION: Final = re.compile("[\u061c\u200e\u200f]+")
_REPLACEMENTS: Final = re.compile("\ufffd+")
_ENDS_OF_PLANES: Final = "".join(
    f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000)
)
_NONCHARACTERS: Final = re.compile(f"[\ufdd0-\ufdef\ufffe\uffff{_ENDS_OF_PLANES}]+")

# Everything that the patterns above start with: a text without any is done. Sets of characters beyond U+FFFF are slow
# to look through, so those are asked about apart, of texts that have any.
_CONTROL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff"
    "\ufffd-\uffff]"
)
_BEYOND: Final = re.compile("[\U00010000-\U0010ffff]")
_UNSEEN_BEYOND: Final = re.compile(f"[\U000e0000-\U000e007f{_ENDS_OF_PLANES}]")


def _hides(text: str) -> bool:
    if text.isascii():
        return _CONTROL.search(text) is not None
    if _UNSEEN.search(text) is not None:
        return True
    return _BEYOND.search(text) is not None and _UNSEEN_BEYOND.search(text) is not None


Fate = Literal["remove", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unicode(Rewriter):
    """Canonical forms, and no characters that hide; white space is another step's business."""

    kind: ClassVar[str] = "unicode"
    source: ClassVar[str] = (
        "Unicode Standard Annex 15 (normalization; stream-safe text), Technical Report 36 (security)"
    )
    counts: ClassVar[Mapping[str, str]] = {
        "normalized": "texts that were not in the normal form",
        "marks": "combining marks removed from runs that were too long",
        "controls": "control characters and terminal escapes removed",
        "zero_width": "zero-width spaces, word joiners and byte-order marks removed",
        "joiners": "zero-width joiners and non-joiners removed",
        "soft_hyphens": "soft hyphens removed",
        "tags": "tag characters removed",
        "bidi": "embeddings, overrides and isolates of the text direction removed",
        "direction_marks": "left-to-right and right-to-left marks removed",
        "replacements": "replacement characters removed",
        "noncharacters": "code points that are no characters removed",
    }

    normalize: Literal["nfc", "nfkc", "keep"] = "nfc"
    """`nfc` joins letters and accents, `nfkc` also makes ligatures, wide and raised characters plain."""
    most_marks: int = setting(30, least=1, most=1_000)
    """Combining marks on one character; those after are removed (UAX 15 has 30; ordering more takes quadratic time)."""
    controls: Fate = "remove"
    """C0 and C1 controls but tabs and line ends; escape sequences of terminals."""
    zero_width: Fate = "remove"
    """U+200B, U+2060 to U+2064, U+180E, U+FEFF."""
    joiners: Fate = "keep"
    """U+200C and U+200D, which Persian, Indic scripts and emoji need."""
    soft_hyphens: Fate = "remove"
    """U+00AD."""
    tags: Fate = "remove"
    """U+E0000 to U+E007F, which hide ASCII; the flags of England, Scotland and Wales lose theirs too."""
    bidi: Fate = "remove"
    """U+202A to U+202E and U+2066 to U+206F, which show text in another order than it has."""
    direction_marks: Fate = "keep"
    """U+200E, U+200F, U+061C, which right-to-left text needs."""
    replacements: Fate = "keep"
    """U+FFFD, where something could not be decoded."""
    noncharacters: Fate = "remove"
    """U+FDD0 to U+FDEF, and the last two code points of each plane."""

    def rewritten(self, document: Document) -> Rewritten:
        """The text without what hides, in its normal form."""
        text = document.text
        changes: dict[str, int] = {}
        if _hides(text):
            for name, pattern in self._removed():
                size = len(text)
                text = pattern.sub("", text)
                if len(text) != size:
                    changes[name] = size - len(text)
        if not text.isascii() and self.normalize != "keep":
            text = self._normalized(text, changes)
        if not changes:
            return Rewritten(document=document, changes={})
        return Rewritten(document=replace(document, text=text), changes=changes)

    def _removed(self) -> Iterator[tuple[str, re.Pattern[str]]]:
        rows = (
            ("controls", self.controls, _CONTROLS),
            ("zero_width", self.zero_width, _ZERO_WIDTH),
            ("joiners", self.joiners, _JOINERS),
            ("soft_hyphens", self.soft_hyphens, _SOFT_HYPHENS),
            ("tags", self.tags, _TAGS),
            ("bidi", self.bidi, _BIDI),
            ("direction_marks", self.direction_marks, _MARKS_OF_DIRECTION),
            ("replacements", self.replacements, _REPLACEMENTS),
            ("noncharacters", self.noncharacters, _NONCHARACTERS),
        )
        return ((name, pattern) for name, fate, pattern in rows if fate == "remove")

    def _normalized(self, text: str, changes: dict[str, int]) -> str:
        size = len(text)
        narrow, wide = _long_runs(self.most_marks)
        text = (wide if _BEYOND.search(text) is not None else narrow).sub(partial(_first, self.most_marks), text)
        if len(text) != size:
            changes["marks"] = size - len(text)
        form = "NFC" if self.normalize == "nfc" else "NFKC"
        if not unicodedata.is_normalized(form, text):
            text = unicodedata.normalize(form, text)
            changes["normalized"] = 1
        return text


def _first(count: int, run: re.Match[str]) -> str:
    return run[0][:count]


@cache
def _long_runs(most: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Match more than `most` characters in a row that normalization would put in order: up to U+FFFF, and any."""
    points = {point for point in range(0x300, sys.maxunicode + 1) if unicodedata.combining(chr(point))}
    # Some become marks only when they are taken apart.
    points |= {
        point
        for point in range(0xA0, 0x30000)
        if unicodedata.decomposition(chr(point)) and unicodedata.combining(unicodedata.normalize("NFKD", chr(point))[0])
    }
    narrow, wide = (_class(point for point in sorted(points) if point < limit) for limit in (0x10000, 0x110000))
    return re.compile(f"{narrow}{{{most + 1},}}+"), re.compile(f"{wide}{{{most + 1},}}+")


def _class(points: Iterable[int]) -> str:
    return "[" + "".join(map(chr, points)) + "]"
