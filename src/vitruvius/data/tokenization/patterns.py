"""How text is split into words before the merges: the published patterns, by name."""

from __future__ import annotations

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The split of GPT-2, which `ByteLevel` of the tokenizers library has built in."""


def _llama3(digits: str) -> str:
    return (
        CONTRACTIONS + rf"|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _o200k(suffix: str, digits: str) -> str:
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


TRIPLES, SINGLE, RUNS = r"\p{N}{1,3}", r"\p{N}", r"\p{N}+"
LLAMA3, QWEN2, LLAMA3_RUNS = _llama3(TRIPLES), _llama3(SINGLE), _llama3(RUNS)
GPT4O = _o200k(CONTRACTIONS + "?", TRIPLES)
TEKKEN = _o200k("", SINGLE)
DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HAN_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
QWEN35 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

KNOWN = frozenset(
    {GPT2, LLAMA3, QWEN2, LLAMA3_RUNS, GPT4O, TEKKEN, DEEPSEEK_V3, HAN_KANA, BLOOM, QWEN35, TRIPLES, SINGLE, RUNS}
)
"""Patterns that need no trial before use: none backtracks further than one run of white space, and none has a word
that reaches across `a| b` or `.\\n|a` (the places where `documents.py` cuts).
"""

WORDS = {
    "llama3": "letters with one other character before them, punctuation with its line breaks, white space",
    "gpt2": "letters, digits or punctuation, each with one space before",
}
"""Word splits a tokenizer can be trained with, and what a word is in each."""

DIGITS = {"triples": "groups of up to three, from the left", "single": "each digit by itself", "runs": "never cut"}
"""How digits are grouped before the merges."""


def word_pattern(words: str, digits: str) -> str:
    """The pattern for a word split of `WORDS` with a grouping of `DIGITS`. Raises KeyError for another name."""
    group = {"triples": TRIPLES, "single": SINGLE, "runs": RUNS}[digits]
    if words == "llama3":
        return _llama3(group)
    numbers = r" ?\p{N}+" if digits == "runs" else group
    return {"gpt2": GPT2.replace(r" ?\p{N}+", numbers)}[words]


BERT_WORDS = "bert"
"""The word split of WordPiece: white space is dropped, each punctuation mark and each Han character is a word."""
