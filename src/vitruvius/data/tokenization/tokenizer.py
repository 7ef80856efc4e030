"""Tokenizers: text to ids and back, and never a control token out of ordinary text."""

from __future__ import annotations

import codecs
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.data.extras import require
from vitruvius.data.tokenization.definition import LARGEST_VOCABULARY, MODELS, define
from vitruvius.data.tokenization.documents import AT_WORDS, Encoder
from vitruvius.data.tokenization.pieces import pieces_of
from vitruvius.data.tokenization.sealing import sealed
from vitruvius.data.tokenization.training import END_OF_TEXT, SMALLEST_VOCABULARY, TrainOptions, trained_state
from vitruvius.errors import DataError
from vitruvius.runs.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import tokenizers

    from vitruvius.data.tokenization.definition import State

__all__ = [
    "END_OF_TEXT",
    "KNOWN_SEPARATORS",
    "LARGEST_VOCABULARY",
    "SMALLEST_VOCABULARY",
    "StreamDecoder",
    "Tokenizer",
    "TrainOptions",
    "load_tokenizer",
    "train",
    "train_bpe",
]

KNOWN_SEPARATORS = (END_OF_TEXT, "<|end_of_text|>", "<|im_end|>", "<eos>", "</s>", "[SEP]")
"""Names under which loaded tokenizers keep the separator, tried in this order."""


@final
class Tokenizer:
    """A tokenizer with a document separator.

    Text that spells a special or added token is encoded as the characters it is. `decode(encode(text)) == text` for
    any Unicode text when the tokenizer is byte-level and has no normalizer of its own; what others lose, `train` and
    docs/data/tokenizers.md say.
    """

    def __init__(self, state: State, *, eos: str | None = None, where: str = "tokenizer") -> None:
        """Wrap the content of a `tokenizer.json`; `eos` names the separator, or the first known name is taken.

        Raises:
            DataError: something in it does not fit, or it has no separator.
        """
        require("numpy", "tokenizers")
        self.definition = define(state, where)
        """The checked content."""
        self.where = where
        """The file it came from."""
        self.vocab_size: int = self.definition.size
        """One more than the largest id: the rows an embedding needs."""
        self.eos, self.eos_id = self._separator(eos)
        self.unk_id: int | None = self.definition.unknown
        """The id for what the vocabulary cannot spell; None where it can spell everything or leaves it out."""
        self.pieces = pieces_of(self.definition)
        self.token_bytes: tuple[bytes, ...] = self.pieces.of
        """What each id stands for; empty for special tokens and unused ids."""
        state, before = sealed(self.definition)
        self._encoder = Encoder(state, lambda part: _library_tokenizer(part, where), before=before)

    def _separator(self, eos: str | None) -> tuple[str, int]:
        """Text and id of the separator, which ends each document."""
        ids = {text: token for token, text in self.definition.tokens.items() if token not in self.definition.added}
        ids |= {added.content: token for token, added in self.definition.added.items()}
        names = KNOWN_SEPARATORS if eos is None else (eos,)
        found = next((name for name in names if name in ids), None)
        if found is None:
            raise DataError(
                f"the tokenizer has no token {' or '.join(names)} to separate documents",
                where=self.where,
                fix="name its separator with --eos",
            )
        return found, ids[found]

    @property
    def kind(self) -> str:
        """What it is, in words: `byte-level byte-pair encoding`, `WordPiece`."""
        name = MODELS[self.definition.model["type"]]
        before = {"bytes": "byte-level ", "byte fallback": "", "characters": ""}[self.pieces.spelled]
        return before + name + (" with byte fallback" if self.pieces.spelled == "byte fallback" else "")

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special token.

        Raises:
            DataError: `text` holds a lone surrogate, which has no UTF-8.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores; the result does not depend on their number."""
        return [ids.tolist() for ids in self.encode_documents(texts)]

    def encode_documents(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of each text, uint32 [tokens], in order, without any special token.

        Texts of any length in bounded memory: besides the text and its ids, about a megabyte of text is in work at a
        time, wherever the tokenizer lets a text be cut without a trace (`cuts`).

        Raises:
            DataError: a text holds a lone surrogate.
        """
        return self._encoder.documents(texts)

    @property
    def cuts(self) -> str:
        """Where a long text is cut for encoding: `words`, `lines`, or `never`, which needs memory for it as a whole."""
        at = self._encoder.cuts
        return "never" if at is None else "words" if at is AT_WORDS else "lines"

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are left out, bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; special tokens are left out."""
        return b"".join(map(self.token_bytes.__getitem__, ids)).removeprefix(self.pieces.lead)

    def stream(self, after: Iterable[int] = ()) -> StreamDecoder:
        """A decoder that takes one id at a time, for what follows the ids `after`."""
        return StreamDecoder(self, after)

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """Bytes of text per id, int64 [vocab_size]: the denominator of bits per byte for any ids.

        Where the tokenizer puts a space before a text, that space counts.
        """
        require("numpy")
        import numpy as np

        return np.array([len(piece) for piece in self.token_bytes], dtype=np.int64)

    @cached_property
    def text(self) -> str:
        """The tokenizer as the content of a `tokenizer.json`, the same for equal tokenizers."""
        # The library writes a vocabulary in the order of its hash table, which differs between processes.
        state = dict(self.definition.state)
        vocabulary = state["model"].get("vocab")
        if isinstance(vocabulary, dict):
            entries = cast("dict[str, int]", vocabulary)
            state["model"] = state["model"] | {"vocab": dict(sorted(entries.items(), key=lambda entry: entry[1]))}
        return json.dumps(state, ensure_ascii=False, indent=1) + "\n"

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of `text`."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write a `tokenizer.json`, atomically."""
        write_atomically(path, self.text.encode())


@final
class StreamDecoder:
    """Text as its tokens arrive: a character comes out when its last byte has come in, never half of it."""

    __slots__ = ("_decoder", "_lead", "_pieces")

    def __init__(self, tokenizer: Tokenizer, after: Iterable[int] = ()) -> None:
        self._pieces = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lead = b"" if any(self._pieces[token] for token in after) else tokenizer.pieces.lead

    def push(self, token: int) -> str:
        """The characters that `token` completes; often none."""
        piece = self._pieces[token]
        if piece and self._lead:
            piece, self._lead = piece.removeprefix(self._lead), b""
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """U+FFFD for a character that was never completed, or nothing."""
        return self._decoder.decode(b"", final=True)


def train(texts: Iterable[str], options: TrainOptions | None = None) -> Tokenizer:
    """A tokenizer trained on `texts`; its first special token separates documents.

    The same texts give the same bytes, in any order of texts, on any machine and any number of cores.

    Raises:
        UsageError: an option is out of range.
        DataError: a text holds a lone surrogate.
        MissingExtraError: tokenizers or numpy is not installed.
    """
    require("tokenizers", "numpy")
    options = options or TrainOptions()
    return Tokenizer(trained_state(texts, options), eos=options.specials[0])


def train_bpe(texts: Iterable[str], vocab_size: int = 8192) -> Tokenizer:
    """A byte-level BPE with at most `vocab_size` tokens, the separator being id 0.

    It has fewer tokens when the text has no more pairs to merge.

    Raises:
        UsageError: `vocab_size` is below 257.
        MissingExtraError: tokenizers is not installed.
    """
    return train(texts, TrainOptions(vocab_size=vocab_size))


def load_tokenizer(path: Path | str, *, eos: str | None = None) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, in a folder that holds one, or in a GGUF file.

    Without `eos` the separator is the one that the folder's `tokenizer_config.json` or the GGUF file names, else the
    first of `KNOWN_SEPARATORS` that the tokenizer has.

    Raises:
        DataError: it is missing, damaged, of a kind that is not read, or has no known separator.
        MissingExtraError: tokenizers is not installed.
    """
    require("tokenizers", "numpy")
    from vitruvius.data.tokenization.loading import read_state

    path = Path(path)
    state, named = read_state(path)
    return Tokenizer(state, eos=eos or named, where=str(path))


def _library_tokenizer(state: State, where: str) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Inner

    inner: Any
    try:
        inner = Inner.from_str(json.dumps(state))
        inner.encode_special_tokens = True
        inner.encode("a b\n", add_special_tokens=False)
    except BaseException as error:
        # The library raises plain Exception, and where it finds a bug in itself a PanicException, which is none.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"this is no tokenizer.json: {error}", where=where, fix="name a tokenizer.json") from None
    return inner
