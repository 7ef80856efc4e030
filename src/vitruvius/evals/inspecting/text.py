"""What a model is made to read: the text that is shown, and the rows of tokens that heads and experts are judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vitruvius.data import TokenShards
from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.evals.inspecting.subject import Inspected

PARAGRAPH = """\
A good building has three virtues: it stands, it serves, and it pleases. The first is owed to the ground beneath it,
for a wall is only as strong as what it rests on. The second is owed to the people who live in it: a kitchen wants
light from the east, a library wants light from the east as well, because books in rooms that face the south are
spoiled by worms and damp. The third is owed to proportion. When every part answers to every other part, when the
height of a column answers to its width and the width of a door answers to its height, then the eye rests, and the
eye that rests is pleased. "What use is beauty," a builder once asked, "if the roof leaks?" None, said the architect;
and what use is a dry roof, if nobody wants to live beneath it? So the two of them went back to work: one counted the
stones, the other drew the door, and when the rain came in autumn, the roof held, the door opened, and people stayed.
"""
"""Where there is neither data nor a text."""
ROW = 128
"""Tokens of a row that heads and experts are judged on, or as many as are shown where that is more."""
_MOST_DOCUMENTS = 20_000
_BYTES = 256
_OF_A_DOCUMENT = 512
"""Tokens of each held-out document, so that no single one speaks for all."""
_SEPARATORS = frozenset(" \t\r\n\v\f.,;:!?()[]{}<>\"'`|/\\-_=+*&^%$#@~")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What one inspection reads."""

    tokens: tuple[int, ...]
    """The text that is shown."""
    source: tuple[int, ...] | None
    """What the encoder of an encoder-decoder reads beside it."""
    origin: str
    """Where the text is from, in words."""
    rows: Tensor
    """Rows of equal length for statistics, int64 [N, L]."""
    sources: Tensor | None
    """What an encoder reads beside each row."""
    rows_origin: str
    notes: tuple[str, ...] = ()


class Names:
    """Texts of tokens, for people to read."""

    def __init__(self, inspected: Inspected) -> None:
        self.tokenizer = inspected.tokenizer
        self.are_bytes = inspected.model.architecture.vocab_size >= _BYTES

    def __call__(self, token: int) -> str:
        """The text of a token; bytes that are no UTF-8 by themselves as escapes, special tokens by their names."""
        if self.tokenizer is None:
            return chr(token) if self.are_bytes and token < _BYTES else f"<{token}>"
        pieces = self.tokenizer.token_bytes
        raw = pieces[token] if token < len(pieces) else b""
        if raw:
            return raw.decode("utf-8", "backslashreplace")
        definition = self.tokenizer.definition
        added = definition.added.get(token)
        return added.content if added is not None else definition.tokens.get(token) or f"<{token}>"

    def separates(self, token: int) -> bool:
        """Whether a token is white space and punctuation alone."""
        text = self(token)
        return bool(text) and all(character in _SEPARATORS for character in text)


def encoded(inspected: Inspected, text: str) -> list[int]:
    """The ids of a text: by the run's tokenizer, else its UTF-8 bytes, folded into a smaller vocabulary.

    Raises UsageError for a text with lone surrogates.
    """
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"the text is not UTF-8 (character {error.start + 1})", fix="send UTF-8 text") from None
    if inspected.tokenizer is not None:
        return inspected.tokenizer.encode(text)
    vocabulary = inspected.model.architecture.vocab_size
    return [byte % vocabulary for byte in raw]


def reading_of(
    inspected: Inspected,
    *,
    text: str | None,
    origin: str,
    source: str | None,
    tokens: int,
    sample: int,
) -> Reading:
    """What to read: the given text, else held-out documents of the run's data, else a paragraph of our own.

    The text that is shown has up to `tokens` tokens. An encoder-decoder reads the first half as its source where no
    source is given. Raises UsageError for a text of fewer than two tokens.
    """
    model = inspected.model
    notes: list[str] = []
    documents: list[list[int]] = []
    if text is not None:
        documents, where = [encoded(inspected, text)], origin
    else:
        where = ""
        if inspected.data.get("path"):
            documents, where = _held_out(inspected, at_least=min(tokens, model.architecture.context), wanted=sample)
            if not documents:
                notes.append(where)
        if not documents:
            documents, where = [encoded(inspected, PARAGRAPH)], "a paragraph that comes with vitruvius"
    if inspected.tokenizer is None:
        vocabulary = model.architecture.vocab_size
        where += ", its bytes as tokens" + (f" (modulo {vocabulary})" if vocabulary < _BYTES else "")
    context = model.architecture.context
    if tokens > context:
        notes.append(f"the context is {context:,} tokens, so no more than that are shown")
    shown = documents[0]
    if len(shown) < 2 or context < 2:
        what = "the text has one token" if shown else "the text is empty"
        raise UsageError(what, fix="give a text of two tokens or more")
    length = min(tokens, context)
    first: list[int] | None = None
    if model.encoder is not None:
        shown, first = _halves(inspected, shown, source, length)
    rows, sources = _rows(documents, length=min(context, max(ROW, length)), sample=sample, paired=first is not None)
    return Reading(
        tokens=tuple(shown[:length]),
        source=None if first is None else tuple(first),
        origin=where,
        rows=rows,
        sources=sources,
        rows_origin=where,
        notes=tuple(notes),
    )


def _halves(inspected: Inspected, shown: list[int], source: str | None, length: int) -> tuple[list[int], list[int]]:
    """What the decoder of an encoder-decoder reads, and what its encoder reads."""
    if source is not None:
        first = encoded(inspected, source)[:length]
        if not first:
            raise UsageError("the source is empty", where="--source", fix="give a text of one token or more")
        return shown, first
    middle = min(length, len(shown) // 2)
    return shown[middle : 2 * middle], shown[:middle]


def _held_out(inspected: Inspected, *, at_least: int, wanted: int) -> tuple[list[list[int]], str]:
    """Documents of the run's held-out text, the first of them long enough to be shown; else none, and why."""
    path = str(inspected.data["path"])
    try:
        shards = TokenShards.open(path, "validation", verify="sizes")
        if shards.fingerprint != inspected.data.get("fingerprint"):
            return [], f"the data in {path} is not what the run was trained on, so a paragraph of our own is read"
        found: list[list[int]] = []
        total = 0
        for number in range(min(shards.documents, _MOST_DOCUMENTS)):
            if total >= wanted + at_least:
                break
            document = [int(token) for token in shards.document(number)[: max(_OF_A_DOCUMENT, at_least)]]
            if len(document) >= at_least:
                found.append(document)
                total += len(document)
    except (DataError, OSError) as error:
        what = error.what if isinstance(error, DataError) else str(error)
        return [], f"no held-out text can be read from {path} ({what}), so a paragraph of our own is read"
    if not found:
        return [], f"no held-out document of {path} has {at_least:,} tokens, so a paragraph of our own is read"
    return found, f"held-out text of {path}"


def _rows(documents: list[list[int]], *, length: int, sample: int, paired: bool) -> tuple[Tensor, Tensor | None]:
    """Documents cut into rows of equal length, as many as make up the sample; with `paired`, a source for each."""
    length = min(length, max(len(document) // (2 if paired else 1) for document in documents))
    rows = [
        document[start : start + length]
        for document in documents
        for start in range(0, len(document) - length + 1, length)
    ]
    most = max(1, sample // length)
    if not paired:
        return torch.tensor(rows[:most]), None
    pairs = list(zip(rows[::2], rows[1::2], strict=False))[:most]
    return torch.tensor([row for _, row in pairs]), torch.tensor([row for row, _ in pairs])
