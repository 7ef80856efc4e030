"""Long texts in bounded memory: cut where the cut cannot be seen in the ids, encoded in batches, put together again."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vitruvius.data.tokenization import patterns
from vitruvius.data.tokenization.definition import steps_of
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import tokenizers

    from vitruvius.data.tokenization.definition import State

PIECE = 1 << 15
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


def safe_cuts(state: State) -> re.Pattern[str] | None:
    """Where texts may be cut for the tokenizer with this state, or None where nothing can be promised."""
    for step in steps_of(state, "normalizer"):
        literal = (step.get("pattern") or {}).get("String") if step.get("type") == "Replace" else None
        if step.get("type") not in _HARMLESS and not (isinstance(literal, str) and _apart(literal)):
            return None
    steps = steps_of(state, "pre_tokenizer")
    kinds = [step.get("type") for step in steps]
    if not steps:
        model = state["model"]
        crossing = re.compile("\n[A-Za-z]")
        whole = model["type"] == "BPE" and not model.get("fuse_unk") and not model.get("ignore_merges")
        return AT_LINES if whole and not any(map(crossing.search, model["vocab"])) else None
    if any(step.get("add_prefix_space") for step in steps):
        return None
    if not set(kinds) <= _SPLITTERS | _FINER or not all(map(_cuts_further, steps)):
        return None
    return AT_WORDS if any(map(_splits, steps)) else None


def _apart(literal: str) -> bool:
    """Whether no occurrence can reach across a cut: it would hold a letter after a space or after a line break."""
    return bool(literal) and not re.search(r"[ \n][A-Za-z]", literal)


def _pattern(step: dict[str, Any]) -> str | None:
    found = (step.get("pattern") or {}).get("Regex")
    return found if step.get("behavior") == "Isolated" and not step.get("invert") else None


def _splits(step: dict[str, Any]) -> bool:
    """Whether the step alone ends a word at each cut."""
    if step.get("type") == "ByteLevel":
        return step.get("use_regex", True) is True
    words = patterns.KNOWN - {patterns.SINGLE, patterns.TRIPLES, patterns.RUNS, patterns.HAN_KANA}
    return step.get("type") in _SPLITTERS or (step.get("type") == "Split" and _pattern(step) in words)


def _cuts_further(step: dict[str, Any]) -> bool:
    """Whether what the step does to a word depends on that word alone, and on nothing across a cut."""
    return step.get("type") != "Split" or _pattern(step) in patterns.KNOWN or _pattern(step) in OWN_PATTERNS


LONG_WORD = r"\S{1,100}"
"""Cuts the words of a WordPiece tokenizer trained here."""
OWN_PATTERNS = frozenset({LONG_WORD})


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


def encode_documents(
    inner: tokenizers.Tokenizer, at: re.Pattern[str] | None, texts: Iterable[str]
) -> Iterator[np.ndarray]:
    """The ids of each text, uint32, in order; about a megabyte of text is encoded at once."""
    import numpy as np

    batch: list[str] = []
    ends: list[int] = []
    size = 0

    def flush() -> Iterator[np.ndarray]:
        encoded = encode_texts(inner, batch)
        for start, end in pairwise([0, *ends]):
            yield np.concatenate(encoded[start:end])

    for text in texts:
        # A part of a long document is encoded at once, so that its pieces never lie in memory all together as tokens.
        pieces = cut(text, at)
        while len(pieces) > 1 and sum(map(len, pieces)) > BATCH:
            if ends:
                yield from flush()
                batch, ends, size = [], [], 0
            parts = [
                np.concatenate(encode_texts(inner, pieces[first : first + BATCH // PIECE]))
                for first in range(0, len(pieces), BATCH // PIECE)
            ]
            yield np.concatenate(parts)
            pieces = []
        if not pieces:
            continue
        batch += pieces
        ends.append(len(batch))
        size += len(text)
        if size >= BATCH:
            yield from flush()
            batch, ends, size = [], [], 0
    if ends:
        yield from flush()


def encode_texts(inner: tokenizers.Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """The ids of each text, uint32, all at once.

    Raises:
        DataError: a text holds a lone surrogate, or the tokenizer's patterns cannot deal with one.
    """
    import numpy as np

    try:
        encodings = inner.encode_batch_fast(list(texts), add_special_tokens=False)
    except BaseException as error:
        if any(map(_lone_surrogate, texts)):
            raise DataError("the text holds a lone surrogate", fix="remove it: it is no character") from None
        # Where the library finds that it cannot go on it raises a PanicException, which is no Exception.
        if type(error).__name__ != "PanicException" and type(error) is not Exception:
            raise
        raise DataError(
            f"the tokenizer cannot encode a text: {error}", fix="use a tokenizer with a plainer word split"
        ) from None
    return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]


def _lone_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
