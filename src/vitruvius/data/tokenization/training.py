"""Training tokenizers: byte-level BPE, Unigram and WordPiece, the same bytes for the same texts everywhere.

BPE and WordPiece are trained by the tokenizers library. Its Unigram trainer adds floating-point numbers in an order
that differs from run to run, so that one is ours (`unigram.py`). Its WordPiece trainer numbers characters in such an
order, so they are numbered here before it starts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vitruvius.data.tokenization.definition import LARGEST_VOCABULARY
from vitruvius.data.tokenization.documents import LONG_WORD, has_lone_surrogate
from vitruvius.data.tokenization.patterns import DIGITS, WORDS, word_pattern
from vitruvius.data.tokenization.pieces import byte_alphabet
from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vitruvius.data.tokenization.definition import State

END_OF_TEXT = "<|endoftext|>"
"""The document separator of tokenizers trained here; its id is 0."""
UNKNOWN = "[UNK]"
"""What a WordPiece tokenizer trained here writes for a word with a character that it lacks."""
SMALLEST_VOCABULARY = 257
"""256 bytes and the separator."""

Kind = Literal["bpe", "unigram", "wordpiece"]
KINDS: dict[Kind, str] = {
    "bpe": "byte-level BPE: merges the pair that is most frequent; any text comes back exactly",
    "unigram": "byte-level Unigram: keeps the pieces that the text is most likely made of; any text comes back exactly",
    "wordpiece": "WordPiece: greedy pieces of words; white space, control characters and unknown characters are lost",
}
"""Kinds that can be trained, and what they do."""

_LONGEST_TRAINING_WORD = 256
_LONG_RUN = re.compile(
    rf"\w{{{_LONGEST_TRAINING_WORD}}}|\s{{{_LONGEST_TRAINING_WORD}}}|[^\w\s]{{{_LONGEST_TRAINING_WORD}}}"
)
_MOST_CHARACTERS = 1_000
"""Different characters of a WordPiece vocabulary."""
_LONGEST_WORDPIECE_WORD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Everything that changes the tokenizer."""

    kind: Kind = "bpe"
    """One of `KINDS`."""
    vocab_size: int = 8192
    """The most tokens, special ones included."""
    specials: tuple[str, ...] = (END_OF_TEXT,)
    """Special tokens, with the ids from 0; the first separates documents. WordPiece adds `[UNK]`."""
    words: str = "llama3"
    """Word split of BPE and Unigram, a name of `patterns.WORDS`."""
    digits: str = "triples"
    """How digits are grouped, a name of `patterns.DIGITS`; BPE and Unigram."""
    case: Literal["kept", "lowered"] = "kept"
    """WordPiece only: `lowered` writes text in lower case and drops accents."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: names the option.
        """
        for name, value, table in (
            ("--kind", self.kind, list(KINDS)),
            ("--words", self.words, list(WORDS)),
            ("--digits", self.digits, list(DIGITS)),
            ("--case", self.case, ["kept", "lowered"]),
        ):
            if value not in table:
                raise UsageError(f"{value!r} is not known", where=name, fix=f"use one of {', '.join(table)}")
        specials = self.specials
        if (
            not specials
            or len(set(specials)) < len(specials)
            or not all(specials)
            or any(map(has_lone_surrogate, specials))
        ):
            raise UsageError(
                "special tokens must be different texts, at least one, none of them empty",
                where="--special",
                fix=f"use {END_OF_TEXT}",
            )
        smallest = 255 + len(specials) + 1 if self.kind != "wordpiece" else len(specials) + 3
        if self.vocab_size < smallest:
            several = "the separator" if len(specials) == 1 else f"{len(specials)} special tokens"
            what = "special tokens, [UNK] and a letter" if self.kind == "wordpiece" else f"256 bytes and {several}"
            raise UsageError(
                f"a vocabulary of {self.vocab_size} is too small: {what} need {smallest}",
                where="--vocab",
                fix=f"use {smallest} or more; 1024 is fine for a demonstration, 8192 to 32768 for small models",
            )
        if self.vocab_size > LARGEST_VOCABULARY:
            raise UsageError(
                f"a vocabulary of {self.vocab_size:,} is too large: the most is {LARGEST_VOCABULARY:,}",
                where="--vocab",
                fix="use 262144 or less",
            )


def trained_state(texts: Iterable[str], options: TrainOptions) -> State:
    """The content of a `tokenizer.json`, trained on `texts`.

    Raises:
        DataError: a text holds a lone surrogate.
    """
    checked = _checked(texts)
    if options.kind == "bpe":
        return _bpe(checked, options)
    return _unigram(checked, options) if options.kind == "unigram" else _word_piece(checked, options)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        if has_lone_surrogate(text):
            raise DataError(f"text {number} holds a lone surrogate", fix="remove it: it is no character")
        yield text


def _byte_level(model: Any, options: TrainOptions) -> Any:
    """A byte-level tokenizer around `model`, not trained yet."""
    from tokenizers import Regex, decoders, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    # The library types its component constructors loosely.
    inner: Any = Inner(model)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(word_pattern(options.words, options.digits)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    return inner


def _bpe(texts: Iterator[str], options: TrainOptions) -> State:
    from tokenizers import models, trainers

    inner = _byte_level(models.BPE(), options)
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab_size,
        special_tokens=list(options.specials),
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator((piece for text in texts for piece in without_long_words(text)), trainer)
    return json.loads(inner.to_str())


def without_long_words(text: str) -> Iterator[str]:
    """The text in pieces, so that no word has more than 512 characters.

    Training costs the square of a word's length; such words are data, and teach nothing.
    """
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]


def _unigram(texts: Iterator[str], options: TrainOptions) -> State:
    from tokenizers import models

    from vitruvius.data.tokenization.unigram import unigram_pieces

    inner = _byte_level(models.Unigram(), options)
    split = inner.pre_tokenizer.pre_tokenize_str
    alphabet = byte_alphabet()
    counts: Counter[str] = Counter()
    for text in texts:
        for piece in without_long_words(text):
            counts.update([word for word, _ in split(piece)])
    words = Counter({bytes(map(alphabet.__getitem__, word)): count for word, count in counts.items()})
    found = unigram_pieces(words, options.vocab_size - len(options.specials))
    letters = {byte: letter for letter, byte in alphabet.items()}
    state: State = json.loads(inner.to_str())
    pieces = [[name, 0.0] for name in options.specials]
    pieces += [["".join(map(letters.__getitem__, piece)), score] for piece, score in found]
    state["model"] = {"type": "Unigram", "unk_id": None, "vocab": pieces, "byte_fallback": False}
    state["added_tokens"] = _special_entries(options.specials)
    return state


def _special_entries(names: Iterable[str]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": token, "content": name} | flags for token, name in enumerate(names)]


def _word_piece(texts: Iterator[str], options: TrainOptions) -> State:
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Inner

    specials = [*options.specials, *([UNKNOWN] if UNKNOWN not in options.specials else [])]
    longest = _LONGEST_WORDPIECE_WORD
    inner: Any = Inner(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=longest))
    lowered = options.case == "lowered"
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowered, strip_accents=lowered)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(LONG_WORD), behavior="isolated")]
    )
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    counts: Counter[str] = Counter()
    for text in texts:
        words = inner.pre_tokenizer.pre_tokenize_str(inner.normalizer.normalize_str(text))
        counts.update([word for word, _ in words])
    characters = _characters(counts, (options.vocab_size - len(specials)))
    trainer = trainers.WordPieceTrainer(
        vocab_size=options.vocab_size,
        special_tokens=[*specials, *characters],
        initial_alphabet=[character for character in characters if len(character) == 1],
        limit_alphabet=sum(1 for character in characters if len(character) == 1),
        show_progress=False,
    )
    words = Inner(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=longest))
    trained: Any = words
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trained.train_from_iterator(_repeated(counts), trainer)
    state: State = json.loads(inner.to_str())
    state["model"]["vocab"] = json.loads(trained.to_str())["model"]["vocab"]
    state["added_tokens"] = _special_entries(specials)
    return state


def _characters(counts: Counter[str], room: int) -> list[str]:
    """The characters to start from, most frequent first: as they begin a word, and with `##` as they go on in one.

    Letters and digits have both forms, so that every word of them can be spelled. Half the room is left for pieces.
    """
    total: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in counts.items():
        for place, character in enumerate(word):
            total[character] += count
            if place:
                inside.add(character)
    kept: list[str] = []
    for character in sorted(total, key=lambda character: (-total[character], character))[:_MOST_CHARACTERS]:
        # Han characters are words by themselves; the trainer needs the second form of what it finds inside of a word.
        forms = [character]
        if character in inside or (character.isalnum() and not "\u2e80" <= character <= "\u9fff"):
            forms.append("##" + character)
        if len(kept) + len(forms) > max(2, room // 2):
            break
        kept += forms
    return kept


def _repeated(counts: Counter[str]) -> Iterator[str]:
    """Each word as often as it was counted, in a fixed order and in texts of about a megabyte."""
    for word, count in sorted(counts.items()):
        each = max(1, 2**20 // (len(word) + 1))
        for start in range(0, count, each):
            yield f"{word} " * min(each, count - start)
