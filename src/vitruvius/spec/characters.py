"""Characters that do not show what they do: control, bidirectional and invisible ones, and look-alikes of ASCII."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

HIDDEN: Final = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters except tab and newline
    "\xad\u061c\u180e\u200b-\u200f\u2060-\u2064\ufeff"  # invisible, or setting the direction of text
    "\u2028-\u202e\u2066-\u206f"  # line separators YAML 1.1 knows and people do not; embeddings and overrides
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f"  # annotations, non-characters, surrogates, tags
    "]"
)
"""Matches a character that is refused anywhere in a spec, comments and quoted strings included."""

ODD_SPACE: Final = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
"""Matches a character that looks like a space but separates nothing in YAML."""

CURLY_QUOTES: Final = "\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"

_UNNAMED: Final = {
    "\x00": "NUL",
    "\x07": "BELL",
    "\x08": "BACKSPACE",
    "\x1b": "ESCAPE, which starts a terminal command",
    "\x7f": "DELETE",
    "\x85": "NEXT LINE",
}
# ASCII character -> letters of Cyrillic, Greek and phonetic alphabets (and dashes) that are drawn like it.
_DRAWN_LIKE: Final = {
    "a": "\u0430\u03b1\u0251",
    "b": "\u044c",
    "c": "\u0441\u03f2",
    "d": "\u0501",
    "e": "\u0435\u03b5",
    "g": "\u0261",
    "h": "\u04bb",
    "i": "\u0456\u03b9\u0131",
    "j": "\u0458\u03f3",
    "k": "\u043a\u03ba",
    "l": "\u2113\u04cf",
    "m": "\u043c",
    "n": "\u043f\u03b7",
    "o": "\u043e\u03bf\u1d0f",
    "p": "\u0440\u03c1",
    "q": "\u051b",
    "r": "\u0433",
    "s": "\u0455",
    "t": "\u0442\u03c4",
    "u": "\u03c5",
    "v": "\u03bd\u0475",
    "w": "\u051d\u03c9",
    "x": "\u0445\u03c7",
    "y": "\u0443\u03b3",
    "A": "\u0410\u0391",
    "B": "\u0412\u0392",
    "C": "\u0421\u03f9",
    "E": "\u0415\u0395",
    "H": "\u041d\u0397",
    "I": "\u0406\u0399\u04c0",
    "J": "\u0408",
    "K": "\u041a\u039a",
    "M": "\u041c\u039c",
    "N": "\u039d",
    "O": "\u041e\u039f",
    "P": "\u0420\u03a1",
    "S": "\u0405",
    "T": "\u0422\u03a4",
    "X": "\u0425\u03a7",
    "Y": "\u0423\u03a5\u04ae",
    "Z": "\u0396",
    "-": "\u2010\u2011\u2012\u2013\u2014\u2212",
}
_LOOK_ALIKES: Final = str.maketrans({look: ascii_ for ascii_, looks in _DRAWN_LIKE.items() for look in looks})


def describe(character: str) -> str:
    """`U+0430 CYRILLIC SMALL LETTER A`."""
    code = f"U+{ord(character):04X}"
    if "\ud800" <= character <= "\udfff":
        return f"{code}, half of a surrogate pair"
    return f"{code} {unicodedata.name(character, _UNNAMED.get(character, 'control character'))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """The first character of a word that is not ASCII, and the ASCII word that was probably meant."""

    character: str
    position: int
    """Index of the character in the word, from 0."""
    meant: str | None
    """The word in ASCII look-alikes; None when a character looks like no ASCII one."""


def find_foreign(word: str) -> Foreign | None:
    """The first character of `word` that is not ASCII, or None; accents and full-width forms count as look-alikes."""
    if word.isascii():
        return None
    position = next(index for index, character in enumerate(word) if not character.isascii())
    decomposed = unicodedata.normalize("NFKD", word.translate(_LOOK_ALIKES))
    meant = "".join(c for c in decomposed if not unicodedata.combining(c)).translate(_LOOK_ALIKES)
    return Foreign(character=word[position], position=position, meant=meant if meant.isascii() else None)
