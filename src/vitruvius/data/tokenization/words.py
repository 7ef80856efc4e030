"""Words cut by Python's regular expressions and remembered: most words of a text have been encoded before.

The tokenizers library spends most of its time on cutting words with an engine that is slower than Python's. Its
patterns mean the same to both once their classes of characters are spelled out, and these are asked of the library
itself, so that no version of Unicode differs. A text goes this way where every character is below U+10000.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.tokenization import patterns
from vitruvius.data.tokenization.definition import isolated_pattern, steps_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import tokenizers

    from vitruvius.data.tokenization.definition import State

MOST_REMEMBERED = 2**18
"""Words; the first ones met, which are the frequent ones."""
LONGEST_REMEMBERED = 48
"""Characters."""

_WHOLE = frozenset(
    {patterns.GPT2, patterns.LLAMA3, patterns.QWEN2, patterns.LLAMA3_RUNS, patterns.GPT4O, patterns.TEKKEN}
)
"""Patterns to which every character belongs, so that nothing lies between words."""
_DIGITS = r"\d"
"""Stands for the library's own splitter of digits."""
_FIRST = frozenset({patterns.SINGLE, patterns.TRIPLES, _DIGITS})
"""Patterns that may come before that of GPT-2: they set digits apart."""
_COMPOSERS = frozenset({"NFC", "NFD", "NFKC", "NFKD"})
"""Normalizers that leave ASCII as it is."""
_LARGEST = 0xFFFF
"""Python's engine is fast for classes of characters up to this one."""


@final
class Words:
    """Encodes texts word by word for a byte-level tokenizer."""

    def __init__(self, pattern: re.Pattern[str], inner: tokenizers.Tokenizer, largest: str) -> None:
        self._pattern = pattern
        self._inner = inner
        self._largest = largest
        self._known: dict[str, bytes] = {}

    def fits(self, text: str) -> bool:
        """Whether `text` can be encoded this way."""
        return text.isascii() or max(text) <= self._largest

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, uint32."""
        import numpy as np

        from vitruvius.data.tokenization.documents import library_ids

        words = [self._pattern.findall(text) for text in texts]
        known = self._known
        new = sorted({word for each in words for word in set(each).difference(known)})
        rare: dict[str, bytes] = {}
        for word, ids in zip(new, library_ids(self._inner, new), strict=True):
            often = len(known) < MOST_REMEMBERED and len(word) <= LONGEST_REMEMBERED
            (known if often else rare)[word] = ids.tobytes()
        if rare:
            parts = [b"".join([known[word] if word in known else rare[word] for word in each]) for each in words]
        else:
            parts = [b"".join(map(known.__getitem__, each)) for each in words]
        return [np.frombuffer(part, dtype=np.uint32) for part in parts]


def words_of(state: State, build: Any) -> Words | None:
    """The way by words for the tokenizer with this state, or None where it could differ from the library's.

    `build` makes a library tokenizer from a state.
    """
    steps = steps_of(state, "pre_tokenizer")
    normalizers = {step.get("type") for step in steps_of(state, "normalizer")}
    if state["added_tokens"] or not steps or not normalizers <= _COMPOSERS:
        return None
    *splits, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    found = [_classes_of(step) for step in splits]
    if last.get("use_regex", True):
        found.append(patterns.GPT2)
    pattern = joined_pattern(found)
    if pattern is None:
        return None
    inner = build(state | {"normalizer": None, "pre_tokenizer": last | {"use_regex": False}})
    return Words(re.compile(pattern), inner, chr(0x7F) if normalizers else chr(_LARGEST))


def _classes_of(step: dict[str, Any]) -> str | None:
    """The pattern of a step that isolates what matches."""
    if step.get("type") == "Digits" and step.get("individual_digits") is True:
        return _DIGITS
    return isolated_pattern(step) if step.get("type") == "Split" else None


def joined_pattern(found: list[str | None]) -> str | None:
    """One pattern, in Python's spelling, for one pattern of `_WHOLE`, alone or after one that sets digits apart."""
    match found:
        case [str(only)] if only in _WHOLE:
            return _spelled(only)
        case [str(first), str(second)] if first in _FIRST and second == patterns.GPT2:
            # A digit ends what the second pattern sees, and is never among it.
            digits = _ranges(_numbers() if first == _DIGITS else _class(r"\p{N}"))
            several = f"[{digits}]{{1,3}}" if first == patterns.TRIPLES else f"[{digits}]"
            rest = second.replace(r"| ?\p{N}+", "").replace(r"(?!\S)", f"(?![^\\s{digits}])")
            return f"{several}|{_spelled(rest)}"
        case _:
            return None


def _spelled(pattern: str) -> str:
    """A pattern of the library in Python's spelling: classes as ranges, no flags."""
    pattern = re.sub(r"\(\?i:([^)]*)\)", lambda group: f"(?:{_either_case(group[1])})", pattern)
    inside = False
    parts: list[str] = []
    for part in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        if part == "[" and not inside:
            inside = True
        elif part == "]":
            inside = False
        if part.startswith(r"\p") or part == r"\s":
            ranges = _ranges(_class(part))
            parts.append(ranges if inside else f"[{ranges}]")
        elif part == r"\S":
            parts.append(f"[^{_ranges(_class(chr(92) + 's'))}]")
        else:
            parts.append(part)
    return "".join(parts)


def _either_case(alternatives: str) -> str:
    return "".join(f"[{_ranges(_class(f'(?i:{ch})'))}]" if ch.isalpha() else ch for ch in alternatives)


@cache
def _class(name: str) -> frozenset[int]:
    """The characters up to U+FFFF that one of the library's classes matches, as the library says."""
    from tokenizers import Regex, normalizers

    # The library's stubs leave this out.
    replace: Any = normalizers.Replace
    left = replace(Regex(name), "").normalize_str(every_character())
    return frozenset(map(ord, every_character())) - frozenset(map(ord, left))


@cache
def _numbers() -> frozenset[int]:
    """The characters up to U+FFFF that the library's splitter of digits sets apart."""
    from tokenizers import pre_tokenizers

    digits: Any = pre_tokenizers.Digits(individual_digits=True)
    # With a letter between them, what is left beside the letters is a digit by itself.
    found = digits.pre_tokenize_str("".join(f"a{ch}" for ch in every_character()))
    return frozenset(ord(piece) for piece, _ in found if len(piece) == 1 and piece != "a") - {ord("a")}


@cache
def every_character() -> str:
    """Every character up to U+FFFF but the surrogates, in order."""
    return "".join(chr(code) for code in range(min(_LARGEST, sys.maxunicode) + 1) if not 0xD800 <= code < 0xE000)


def _ranges(codes: frozenset[int]) -> str:
    """Codes as the inside of a class."""
    parts: list[str] = []
    ordered = sorted(codes)
    start = 0
    for place, code in enumerate(ordered):
        if place + 1 == len(ordered) or ordered[place + 1] != code + 1:
            parts.append(f"\\u{ordered[start]:04x}-\\u{code:04x}")
            start = place + 1
    return "".join(parts)
