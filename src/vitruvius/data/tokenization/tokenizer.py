"""Byte-level tokenizers: text to ids and back, exactly, and never a control token out of ordinary text."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.data.extras import require
from vitruvius.errors import DataError, UsageError
from vitruvius.runs.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
"""The document separator of tokenizers trained here; its id is 0."""

KNOWN_SEPARATORS = (END_OF_TEXT, "<|end_of_text|>", "<|im_end|>", "<eos>", "</s>")
"""Names under which loaded tokenizers keep the separator, tried in this order."""

SMALLEST_VOCABULARY = 257
"""256 bytes and the separator."""

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What counts as a word for the merges: the split of Llama 3, digits in groups of three."""

_LONGEST_TRAINING_WORD = 256
_LONG_RUN = re.compile(
    rf"\w{{{_LONGEST_TRAINING_WORD}}}|\s{{{_LONGEST_TRAINING_WORD}}}|[^\w\s]{{{_LONGEST_TRAINING_WORD}}}"
)


LARGEST_VOCABULARY = 2**24
"""More rows than any embedding has; a table of that many token bytes still fits into memory."""


@final
class Tokenizer:
    """A byte-level tokenizer with a document separator.

    `decode(encode(text)) == text` for any Unicode text, unless the tokenizer was loaded and has a
    normalizer of its own. Text that spells a special token is encoded as the characters it is.
    """

    def __init__(self, inner: tokenizers.Tokenizer, *, eos: str | None = None, where: str = "tokenizer") -> None:
        """Wrap a `tokenizers.Tokenizer`; `eos` names the separator, or the first known name is taken.

        Raises:
            DataError: the tokenizer is not byte-level or has no separator.
        """
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True
        self.inner = inner
        self.where = where
        names = KNOWN_SEPARATORS if eos is None else (eos,)
        found = next((name for name in names if inner.token_to_id(name) is not None), None)
        if found is None:
            raise DataError(
                f"the tokenizer has no token {' or '.join(names)} to separate documents",
                where=where,
                fix="name its separator with --eos",
            )
        self.eos = found
        """The separator's text."""
        self.eos_id = inner.get_vocab(with_added_tokens=True)[found]
        """The separator's id; it ends each document."""
        self.vocab_size: int = max(inner.get_vocab(with_added_tokens=True).values()) + 1
        """One more than the largest id: the rows an embedding needs."""
        if self.vocab_size > LARGEST_VOCABULARY:
            raise DataError(
                f"the tokenizer has the token id {self.vocab_size - 1:,}; the largest is {LARGEST_VOCABULARY - 1:,}",
                where=where,
                fix="use a tokenizer whose ids follow each other from 0",
            )
        self.token_bytes: tuple[bytes, ...] = _token_bytes(inner, self.vocab_size, where)
        """What each id stands for; empty for special tokens and unused ids."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special token.

        Raises:
            DataError: `text` holds a lone surrogate, which has no UTF-8.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores; the result does not depend on their number."""
        try:
            return [encoding.ids for encoding in self.inner.encode_batch_fast(list(texts), add_special_tokens=False)]
        except (UnicodeEncodeError, TypeError):
            if any(not _is_text(text) for text in texts):
                raise DataError("the text holds a lone surrogate", fix="remove it: it is no character") from None
            raise

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are left out, bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; special tokens are left out."""
        return b"".join(map(self.token_bytes.__getitem__, ids))

    def stream(self) -> StreamDecoder:
        """A decoder that takes one id at a time."""
        return StreamDecoder(self)

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """Bytes of text per id, int64 [vocab_size]: the denominator of bits per byte for any ids."""
        require("numpy")
        import numpy as np

        return np.array([len(piece) for piece in self.token_bytes], dtype=np.int64)

    @cached_property
    def text(self) -> str:
        """The tokenizer as the content of a `tokenizer.json`, the same for equal tokenizers."""
        # The library writes a vocabulary in the order of its hash table, which differs between processes.
        state = json.loads(self.inner.to_str())
        vocabulary = state["model"].get("vocab")
        if isinstance(vocabulary, dict):
            entries = cast("dict[str, int]", vocabulary)
            state["model"]["vocab"] = dict(sorted(entries.items(), key=lambda entry: entry[1]))
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

    __slots__ = ("_decoder", "_pieces")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes; often none."""
        return self._decoder.decode(self._pieces[token])

    def finish(self) -> str:
        """U+FFFD for a character that was never completed, or nothing."""
        return self._decoder.decode(b"", final=True)


def train_bpe(texts: Iterable[str], vocab_size: int = 8192) -> Tokenizer:
    """A byte-level BPE with at most `vocab_size` tokens, the separator being id 0.

    It has fewer tokens when the text has no more pairs to merge.
    The same texts give the same tokenizer, in any order of texts and on any number of cores.

    Raises:
        UsageError: `vocab_size` is below 257.
        MissingExtraError: tokenizers is not installed.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UsageError(
            f"a vocabulary of {vocab_size} is too small: 256 bytes and the separator need {SMALLEST_VOCABULARY}",
            where="--vocab",
            fix=f"use {SMALLEST_VOCABULARY} or more; 1024 is fine for a demonstration, 8192 to 32768 for small models",
        )
    require("tokenizers")
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Inner

    # The library types its component constructors loosely.
    inner: Any = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator((piece for text in texts for piece in _without_long_words(text)), trainer)
    return Tokenizer(inner)


def load_tokenizer(path: Path | str, *, eos: str | None = None) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises:
        DataError: the file is missing or no tokenizer, is not byte-level, or has no known separator.
        MissingExtraError: tokenizers is not installed.
    """
    require("tokenizers")
    from tokenizers import Tokenizer as Inner

    path = Path(path)
    try:
        content = path.read_bytes()
        inner = Inner.from_str(content.decode("utf-8"))
    except OSError as error:
        raise DataError(
            f"the tokenizer cannot be read: {error.strerror}", where=str(path), fix="name a tokenizer.json"
        ) from None
    except BaseException as error:
        # The library raises plain Exception, and where it finds a bug in itself a PanicException, which is none.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"this is no tokenizer.json: {error}", where=str(path), fix="name a tokenizer.json") from None
    return Tokenizer(inner, eos=eos, where=str(path))


def _without_long_words(text: str) -> Iterator[str]:
    """The text in pieces, so that no word has more than 256 characters.

    Training costs the square of a word's length; such words are data, and teach nothing.
    """
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]


def _token_bytes(inner: tokenizers.Tokenizer, vocab_size: int, where: str) -> tuple[bytes, ...]:
    added = inner.get_added_tokens_decoder()
    alphabet = _byte_alphabet()
    pieces: list[bytes] = []
    for token in range(vocab_size):
        if token in added:
            pieces.append(b"" if added[token].special else added[token].content.encode())
            continue
        spelled = inner.id_to_token(token) or ""
        if not alphabet.keys() >= set(spelled):
            raise DataError(
                f"token {token} ({spelled!r}) is not spelled in bytes: this tokenizer is not byte-level",
                where=where,
                fix="use a byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM), or leave --tokenizer out to train one",
            )
        pieces.append(bytes(alphabet[character] for character in spelled))
    return tuple(pieces)


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (the GPT-2 table)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
