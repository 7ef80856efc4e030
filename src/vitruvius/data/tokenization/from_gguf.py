"""A tokenizer from the metadata of a GGUF file, as the content of a `tokenizer.json`.

Where llama.cpp and the tokenizers library differ, this follows llama.cpp, which is what runs such a file.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from vitruvius.data.tokenization import patterns
from vitruvius.data.tokenization.definition import LARGEST_VOCABULARY
from vitruvius.data.tokenization.pieces import BYTE_TOKEN
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.data.tokenization.definition import State
    from vitruvius.data.tokenization.gguf import Header

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
"""Token types of the format."""

_GPT2 = (patterns.GPT2,)
_FROM_ONE_DIGIT = (patterns.SINGLE, patterns.GPT2)
_DEEPSEEK_V3 = (patterns.TRIPLES, patterns.HAN_KANA, patterns.DEEPSEEK_V3)
_SPLITS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2"): (patterns.LLAMA3,),
    ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"): (patterns.LLAMA3,),
    ("gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "modern-bert", "roberta-bpe", "mellum", "trillion"): _GPT2,
    ("jina-es", "jina-de", "jina-v1-en", "jina-v2-code", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0"): _GPT2,
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"): _FROM_ONE_DIGIT,
    ("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "grok-2", "solar-open"): (patterns.QWEN2,),
    ("qwen35",): (patterns.QWEN35,),
    ("gpt-4o", "llama4", "kanana2", "minimax-m2"): (patterns.GPT4O,),
    ("tekken",): (patterns.TEKKEN,),
    ("deepseek-v3", "hunyuan-dense", "joyai-llm"): _DEEPSEEK_V3,
    ("bloom", "poro-chat", "gpt3-finnish"): (patterns.BLOOM,),
    ("viking",): (patterns.BLOOM, patterns.SINGLE),
}
"""Names under `tokenizer.ggml.pre` -> the splits, one after the other."""
WORD_SPLITS = {name: split for names, split in _SPLITS.items() for name in names}
"""Name under `tokenizer.ggml.pre` -> the patterns that split words, one after the other."""

_WHOLE_WORDS = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2", "tekken"})
"""Splits with which a word that is a token is taken whole, without merging."""

_LONGEST_MERGED = 1_024
"""Characters of a token for which every way to build it is looked for; the longest published ones have 128."""
_MOST_CHARACTERS = 2**22
"""Characters of all tokens of a SentencePiece BPE; 262,144 tokens of Gemma have about 1,600,000."""


def state_of(header: Header) -> tuple[State, str | None]:
    """The content of a `tokenizer.json`, and the spelling of the end-of-sequence token where the file names one.

    Raises:
        DataError: the file has no tokenizer, one of a kind that is not read, or a damaged one.
    """
    kind = header.text("tokenizer.ggml.model")
    if kind is None:
        raise header.wrong("the file has no tokenizer (tokenizer.ggml.model)")
    readers: dict[str, Callable[[_Vocabulary], State]] = {"gpt2": _byte_level, "llama": _scored, "t5": _unigram}
    readers["bert"] = _word_piece
    if kind not in readers:
        raise DataError(
            f"tokenizers of the kind {kind[:80]!r} are not read",
            where=header.where,
            fix=f"use a file with one of {', '.join(readers)}, or the model's tokenizer.json",
        )
    vocabulary = _Vocabulary(header)
    state: State = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added(),
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
    }
    eos = vocabulary.named("eos")
    return state | readers[kind](vocabulary), None if eos is None else vocabulary.tokens[eos]


class _Vocabulary:
    """Tokens, scores and types of a file, held against each other."""

    def __init__(self, header: Header) -> None:
        self.header = header
        tokens = header.texts("tokenizer.ggml.tokens")
        if not tokens:
            raise header.wrong("the file has no tokens (tokenizer.ggml.tokens)")
        if len(tokens) > LARGEST_VOCABULARY:
            raise header.wrong(f"the file has {len(tokens):,} tokens; the most is {LARGEST_VOCABULARY:,}")
        self.tokens = tokens
        self.types = self._numbers("tokenizer.ggml.token_type", _NORMAL)
        self.scores = self._numbers("tokenizer.ggml.scores", 0.0)
        self.ids: dict[str, int] = {}
        for token, text in enumerate(tokens):
            if self.ids.setdefault(text, token) != token:
                raise header.wrong(f"the tokens {self.ids[text]} and {token} are both {text[:80]!r}")

    def _numbers(self, key: str, default: float) -> Sequence[Any]:
        found = self.header.numbers(key)
        if found is None:
            return [default] * len(self.tokens)
        if len(found) != len(self.tokens):
            raise self.header.wrong(f"{key} has {len(found):,} entries for {len(self.tokens):,} tokens")
        return found

    def named(self, name: str) -> int | None:
        """The id of a special token by its short name (`eos`), or None without one."""
        key = f"tokenizer.ggml.{name}_token_id"
        token = self.header.whole(key)
        if token is not None and not 0 <= token < len(self.tokens):
            raise self.header.wrong(f"{key} is {token:,}, but the file has {len(self.tokens):,} tokens")
        return token

    def unknown(self) -> int | None:
        """The id that stands for what the vocabulary cannot spell: named, or by its type."""
        token = self.named("unknown")
        return token if token is not None else next((i for i, kind in enumerate(self.types) if kind == _UNKNOWN), None)

    def truth(self, name: str, default: str) -> bool:
        return self.header.truth(f"tokenizer.ggml.{name}", default)

    def added(self) -> list[dict[str, Any]]:
        """Control tokens, and user-defined ones, as a tokenizer.json lists them."""
        special = {_CONTROL, _UNKNOWN, _UNUSED}
        found = {token for token, kind in enumerate(self.types) if kind in special | {_USER}}
        for name in ("bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "mask", "cls"):
            token = self.named(name)
            found |= set() if token is None else {token}
        return [
            {
                "id": token,
                "content": self.tokens[token],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": self.types[token] != _USER,
            }
            for token in sorted(found)
        ]


def _byte_level(vocabulary: _Vocabulary) -> State:
    """Byte-level BPE: GPT-2, Llama 3, Qwen, SmolLM."""
    header = vocabulary.header
    name = header.text("tokenizer.ggml.pre")
    if name not in WORD_SPLITS:
        raise DataError(
            f"the word split {str(name)[:80]!r} (tokenizer.ggml.pre) is not known here",
            where=header.where,
            fix="use the model's tokenizer.json",
        )
    merges = header.texts("tokenizer.ggml.merges")
    if merges is None:
        raise header.wrong("the file has no merges (tokenizer.ggml.merges)")
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in WORD_SPLITS[name]
    ]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, bytes_]},
        "decoder": bytes_ | {"use_regex": True},
        "model": _bpe(vocabulary, [_pair(merge) for merge in merges])
        | {"ignore_merges": name in _WHOLE_WORDS, "unk_token": None},
    }


def _pair(merge: str) -> list[str]:
    # A part may start with a space, never hold one further on.
    left, _, right = merge[1:].partition(" ")
    return [merge[:1] + left, right]


def _bpe(vocabulary: _Vocabulary, merges: list[list[str]]) -> dict[str, Any]:
    ids = vocabulary.ids
    kept = [pair for pair in merges if pair[0] in ids and pair[1] in ids and "".join(pair) in ids]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(ids),
        "merges": kept,
    }


def _scored(vocabulary: _Vocabulary) -> State:
    """SentencePiece BPE: of all neighbours that form a token, the pair with the best token is merged first."""
    tokens, ids, scores = vocabulary.tokens, vocabulary.ids, vocabulary.scores
    fixed = {_CONTROL, _UNKNOWN, _UNUSED, _BYTE}
    total = sum(map(len, tokens))
    if total > _MOST_CHARACTERS:
        raise vocabulary.header.wrong(f"the tokens have {total:,} characters; the most is {_MOST_CHARACTERS:,}")
    merges: list[tuple[float, int, int, list[str]]] = []
    for token, text in enumerate(tokens):
        if vocabulary.types[token] in fixed:
            continue
        if len(text) > _LONGEST_MERGED:
            raise vocabulary.header.wrong(
                f"token {token} has {len(text):,} characters; the most is {_LONGEST_MERGED:,}"
            )
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                merges.append((-float(scores[token]), token, -cut, [left, right]))
    merges.sort(key=lambda merge: merge[:3])
    unknown = vocabulary.unknown()
    space = vocabulary.truth("add_space_prefix", "true")
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}, marks] if space else [marks]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "decoder": {"type": "Sequence", "decoders": [*_spaces_and_bytes(), *strip]},
        "model": _bpe(vocabulary, [pair for *_, pair in merges])
        | {
            "byte_fallback": any(map(BYTE_TOKEN.fullmatch, tokens)),
            "unk_token": None if unknown is None else tokens[unknown],
        },
    }


def _spaces_and_bytes() -> list[dict[str, Any]]:
    return [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]


def _unigram(vocabulary: _Vocabulary) -> State:
    """SentencePiece unigram: T5 and its kin."""
    header = vocabulary.header
    unknown = vocabulary.unknown()
    if unknown is None:
        raise header.wrong("the file names no token for the unknown")
    steps: list[dict[str, Any]] = []
    table = header.numbers("tokenizer.ggml.precompiled_charsmap")
    if table is not None:
        if table.typecode not in "Bb":
            raise header.wrong("tokenizer.ggml.precompiled_charsmap is no list of bytes")
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table.tobytes()).decode()})
    if vocabulary.truth("remove_extra_whitespaces", "false"):
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    space = vocabulary.truth("add_space_prefix", "true")
    apart = not any("▁" in text[1:] for text in vocabulary.tokens)
    scheme = "always" if space else "never"
    mark = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": apart}
    fallback = any(map(BYTE_TOKEN.fullmatch, vocabulary.tokens))
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": mark,
        "decoder": {"type": "Sequence", "decoders": [*_spaces_and_bytes(), *strip]},
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[text, float(score)] for text, score in zip(vocabulary.tokens, vocabulary.scores, strict=True)],
            "byte_fallback": fallback,
        },
    }


def _word_piece(vocabulary: _Vocabulary) -> State:
    """WordPiece: in the file the first piece of a word starts with a mark, here the others do."""
    unknown = vocabulary.unknown()
    if unknown is None:
        raise vocabulary.header.wrong("the file names no token for the unknown")
    entries: dict[str, int] = {}
    for token, text in enumerate(vocabulary.tokens):
        plain = vocabulary.types[token] in (_NORMAL, _USER)
        plain = plain and not (text.startswith("[") and text.endswith("]"))
        spelled = (text[1:] if text.startswith("▁") else "##" + text) if plain else text
        if entries.setdefault(spelled, token) != token:
            raise vocabulary.header.wrong(f"the tokens {entries[spelled]} and {token} are both {spelled[:80]!r}")
    lower = vocabulary.truth("normalizer.lowercase", "true")
    accents = vocabulary.truth("normalizer.strip_accents", "true" if lower else "false")
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": accents,
            "lowercase": lower,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": vocabulary.tokens[unknown],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 1_000,
            "vocab": entries,
        },
    }
