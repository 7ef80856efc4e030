"""The words of a pattern text; between the parentheses of `where` there are more of them than elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from vitruvius.errors import PatternError

WHERE: Final = "where"
"""The name after which a condition on q and k stands in parentheses."""

DEEPEST_NESTING: Final = 32
"""More parentheses inside each other are refused."""

_WORDS: Final = r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[0-9][A-Za-z0-9_.]*)"
_OUTSIDE: Final = re.compile(_WORDS + r"|(?P<mark>[&|(),=])")
_INSIDE: Final = re.compile(_WORDS + r"|(?P<mark>\*\*|//|<<|>>|<=|>=|==|!=|&&|\|\||[&|(),=+\-*/%<>~!^])")
_NUMBER: Final = re.compile(r"[0-9]+(_[0-9]+)*")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_MOST_DIGITS: Final = 64
"""What is longer than this is beyond any limit anyway, and is not turned into a number."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word or a mark, and where it starts."""

    kind: Literal["name", "number", "mark", "end"]
    text: str
    start: int

    @property
    def stop(self) -> int:
        """One past its last character."""
        return self.start + len(self.text)

    @property
    def shown(self) -> str:
        """The token in a message."""
        return "the end of the text" if self.kind == "end" else repr(self.text)


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text, an `end` after the last. Raises PatternError at a character that means nothing."""
    tokens: list[Token] = []
    open_at: list[bool] = []
    """For each open parenthesis, whether a condition stands in it."""
    at = _end_of_space(text, 0)
    while at < len(text):
        inside = bool(open_at) and open_at[-1]
        match = (_INSIDE if inside else _OUTSIDE).match(text, at)
        if match is None:
            what = f"{_shown(text[at])} means nothing in a {'condition' if inside else 'pattern'}"
            raise PatternError(what, text=text, position=at, fix=_fix_for(text[at], inside=inside))
        kind = match.lastgroup
        token = Token("name" if kind == "name" else "number" if kind == "number" else "mark", match[0], at)
        if token.text == "(":
            open_at.append(inside or bool(tokens and tokens[-1].text == WHERE))
        elif token.text == ")" and open_at:
            open_at.pop()
        tokens.append(token)
        at = _end_of_space(text, match.end())
    tokens.append(Token("end", "", len(text)))
    return tokens


def whole_number(token: Token, text: str) -> int:
    """The number that a token writes; one with too many digits comes out too large, never wrong in its size."""
    if not _NUMBER.fullmatch(token.text):
        what, fix = f"{token.text!r} is not a whole number", "write all its digits, as in 4096 or 4_096"
        raise PatternError(what, text=text, position=token.start, fix=fix)
    return int(token.text.replace("_", "")[:_MOST_DIGITS])


def _end_of_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _shown(character: str) -> str:
    """The character, with its code point where it may be taken for another."""
    return repr(character) if character.isascii() else f"{character!r} (U+{ord(character):04X})"


def _fix_for(character: str, *, inside: bool) -> str:
    if inside:
        return "a condition is made of q, k, whole numbers, + - * // %, comparisons, & | ~, abs, min, max and ( )"
    if character in "-+*/%<>":
        return "numbers are whole and positive; arithmetic on q and k stands inside where(...)"
    if character in "~!^":
        return "patterns are joined with & (both) and | (either); `not` stands inside where(...)"
    return "use names, whole numbers, & and |, parentheses, commas and ="
