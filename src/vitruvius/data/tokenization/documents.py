"""Long texts in bounded memory: cut where the cut cannot be seen in the ids, encoded in batches, put together again."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.tokenization import patterns
from vitruvius.data.tokenization.definition import isolated_pattern, pattern_of, steps_of
from vitruvius.data.tokenization.words import Words, words_of
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    import tokenizers

    from vitruvius.data.tokenization.definition import State

PIECE = 1 << 13
"""Characters after which a text is cut at the next place where that is safe."""
BATCH = 1 << 19
"""Characters that are encoded at once."""

AT_WORDS = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])|(?<=\S\n)(?=[A-Za-z])")
"""Between a letter and a space before a letter, and between a line break alone and a letter.

No pattern of `patterns.KNOWN` has a word that reaches across, and none looks further than the character after a run
of white space, which ends here on both sides. So the words of the parts are the words of the whole.
"""
AT_LINES = re.compile(r"(?<=\S\n)(?=[A-Za-z])")
"""Between a line break alone and a letter, for tokenizers whose words are not cut at spaces."""

_HARMLESS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"})
"""Normalizers that change nothing across such a place: it lies between two characters that never combine."""
_SPLITTERS = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
"""Pre-tokenizers that drop white space, so that a word never reaches across it."""
_FINER = frozenset({"Digits", "Punctuation", "UnicodeScripts", "ByteLevel", "Split"})
"""Pre-tokenizers that cut words further."""
_PARTIAL = frozenset({patterns.SINGLE, patterns.TRIPLES, patterns.RUNS, patterns.HAN_KANA})
"""Known patterns that cut out some words and leave the rest whole."""


@final
class Encoder:
    """Texts to ids, with a state that `sealing` made."""

    def __init__(self, state: State, build: Callable[[State], tokenizers.Tokenizer], *, before: str) -> None:
        self._inner = build(state)
        self._words: Words | None = words_of(state, build)
        self._before = before
        self.cuts = safe_cuts(state)
        """Where texts are cut, or None."""

    def documents(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of each text, uint32, in order; about a megabyte of text is in work at a time."""
        pending: list[str] = []
        lasts: list[bool] = []
        parts: list[np.ndarray] = []
        size = 0
        for piece, last in self._cut(texts):
            pending.append(piece)
            lasts.append(last)
            size += len(piece)
            if size >= BATCH:
                yield from _whole(zip(self.pieces(pending), lasts, strict=True), parts)
                pending, lasts, size = [], [], 0
        yield from _whole(zip(self.pieces(pending), lasts, strict=True), parts)

    def _cut(self, texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """The pieces of each text, and whether they are its last."""
        for text in texts:
            *pieces, last = cut(self._before + text if text else text, self.cuts)
            yield from ((piece, False) for piece in pieces)
            yield last, True

    def pieces(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, uint32, all at once."""
        words = self._words
        if words is None:
            return library_ids(self._inner, texts)
        fits = [words.fits(text) if text else True for text in texts]
        fast = iter(words.encode([text for text, fit in zip(texts, fits, strict=True) if fit]))
        slow = iter(library_ids(self._inner, [text for text, fit in zip(texts, fits, strict=True) if not fit]))
        return [next(fast if fit else slow) for fit in fits]


def _whole(encoded: Iterable[tuple[np.ndarray, bool]], parts: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Pieces put together; those of a text that goes on stay in `parts`."""
    import numpy as np

    for ids, last in encoded:
        parts.append(ids)
        if last:
            yield np.concatenate(parts)
            parts.clear()


def safe_cuts(state: State) -> re.Pattern[str] | None:
    """Where texts may be cut for the tokenizer with this state, or None where nothing can be promised."""
    for step in steps_of(state, "normalizer"):
        literal = pattern_of(step, "String") if step.get("type") == "Replace" else None
        if step.get("type") not in _HARMLESS and not (literal and _apart(literal)):
            return None
    steps = steps_of(state, "pre_tokenizer")
    if not steps:
        model = state["model"]
        crossing = re.compile("\n[A-Za-z]")
        whole = model["type"] == "BPE" and not model.get("fuse_unk") and not model.get("ignore_merges")
        return AT_LINES if whole and not any(map(crossing.search, model["vocab"])) else None
    if any(step.get("add_prefix_space") for step in steps):
        return None
    kinds = {step.get("type") for step in steps}
    if not kinds <= _SPLITTERS | _FINER or not all(map(_cuts_further, steps)):
        return None
    return AT_WORDS if any(map(_splits, steps)) else None


def _apart(literal: str) -> bool:
    """Whether no occurrence can reach across a cut: it would hold a letter after a space or after a line break."""
    return not re.search(r"[ \n][A-Za-z]", literal)


def _splits(step: dict[str, Any]) -> bool:
    """Whether the step alone ends a word at each cut."""
    if step.get("type") == "ByteLevel":
        return step.get("use_regex", True) is True
    return step.get("type") in _SPLITTERS or (
        step.get("type") == "Split" and isolated_pattern(step) in patterns.KNOWN - _PARTIAL
    )


def _cuts_further(step: dict[str, Any]) -> bool:
    """Whether what the step does to a word depends on that word alone, and on nothing across a cut."""
    return step.get("type") != "Split" or isolated_pattern(step) in patterns.KNOWN | {LONG_WORD}


LONG_WORD = r"\S{1,100}"
"""Cuts the words of a WordPiece tokenizer trained here."""


def cut(text: str, at: re.Pattern[str] | None) -> list[str]:
    """`text` in pieces of about `PIECE` characters; `"".join(cut(text, at)) == text`."""
    if at is None or len(text) <= PIECE:
        return [text]
    places = [0]
    while len(text) - places[-1] > PIECE:
        found = at.search(text, places[-1] + PIECE)
        if found is None:
            break
        places.append(found.end())
    return [text[start:end] for start, end in pairwise([*places, len(text)])]


def library_ids(inner: tokenizers.Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """The ids that the library gives each text, uint32, all at once.

    Raises:
        DataError: a text holds a lone surrogate, or the tokenizer's patterns cannot deal with one.
    """
    import numpy as np

    try:
        encodings = inner.encode_batch_fast(list(texts), add_special_tokens=False)
    except BaseException as error:
        if any(map(has_lone_surrogate, texts)):
            raise DataError("the text holds a lone surrogate", fix="remove it: it is no character") from None
        # Where the library finds that it cannot go on it raises a PanicException, which is no Exception.
        if type(error).__name__ != "PanicException" and type(error) is not Exception:
            raise
        raise DataError(
            f"the tokenizer cannot encode a text: {error}", fix="use a tokenizer with a plainer word split"
        ) from None
    return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]


def has_lone_surrogate(text: str) -> bool:
    """Whether `text` holds half a surrogate pair, which is no character and has no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
