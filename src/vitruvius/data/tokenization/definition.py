"""The content of a `tokenizer.json`, read with suspicion: it may come from anywhere."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from vitruvius.data.tokenization.probe import try_patterns
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

State = dict[str, Any]
"""The content of a `tokenizer.json` as plain data."""

LARGEST_FILE = 256 * 2**20
"""Bytes of a tokenizer.json; the largest published ones have about 35 MB."""
LARGEST_VOCABULARY = 2**24
"""More rows than any embedding has; a table of that many token bytes still fits into memory."""
LONGEST_TOKEN = 65_536
"""Characters."""
LONGEST_WORDPIECE_WORD = 10_000
"""WordPiece looks at up to the square of a word's length."""
MODELS = {
    "BPE": "byte-pair encoding",
    "Unigram": "unigram",
    "WordPiece": "WordPiece",
    "WordLevel": "whole words",
}
"""Model types that are read, and what they are called."""
_MOST_EXPANSION = 256
"""How many times longer a file's own replacements may make a text."""
_ALLOWED_STEPS = 64
"""Normalizers or pre-tokenizers in one file."""
_OTHER = "use a tokenizer.json as the tokenizers library writes it"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """A token outside the model: control tokens, and a few that are text."""

    id: int
    """Its id."""
    content: str
    """Its spelling."""
    special: bool
    """Whether decoding leaves it out."""

    @property
    def plain(self) -> bool:
        """Whether it is text that happens to be listed apart: runs of white space, as in GPT-NeoX and Gemma."""
        return not self.special and not self.content.strip(" \t\r\n▁")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A checked tokenizer."""

    state: State
    """The content of its `tokenizer.json`."""
    where: str
    """The file, for messages."""
    tokens: dict[int, str]
    """The model's tokens as they are spelled there."""
    added: dict[int, AddedToken]
    """Tokens outside the model, which win over the model's."""
    size: int
    """One more than the largest id."""

    @property
    def model(self) -> dict[str, Any]:
        """The part of the state that turns words into tokens."""
        return self.state["model"]

    @property
    def unknown(self) -> int | None:
        """The id that stands for what the vocabulary cannot spell, or None where there is none."""
        if self.model["type"] == "Unigram":
            return self.model.get("unk_id")
        name = self.model.get("unk_token")
        return next((token for token, text in self.tokens.items() if text == name), None) if name is not None else None


def parse(content: bytes, where: str) -> State:
    """The JSON of `content`.

    Raises:
        DataError: it is too large, no JSON, or no object.
    """
    if len(content) > LARGEST_FILE:
        raise DataError(
            f"the file has {len(content):,} bytes; a tokenizer has at most {LARGEST_FILE:,}", where=where, fix=_OTHER
        )
    try:
        state = json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is no tokenizer.json: {error}", where=where, fix="name a tokenizer.json") from None
    if not isinstance(state, dict):
        raise DataError("this is no tokenizer.json: it is no object", where=where, fix="name a tokenizer.json")
    return cast("State", state)


def define(state: State, where: str) -> Definition:
    """A tokenizer whose parts fit each other.

    Raises:
        DataError: names what does not.
    """
    model = state.get("model")
    if not isinstance(model, dict):
        raise DataError("this is no tokenizer.json: it has no model", where=where, fix="name a tokenizer.json")
    model = cast("dict[str, Any]", model)
    if model.get("type") is None:
        model = model | {"type": _guessed_type(model)}
        state = state | {"model": model}
    kind = model["type"]
    if not isinstance(kind, str) or kind not in MODELS:
        raise _wrong(f"the model type {str(kind)[:80]!r} is not one of {', '.join(MODELS)}", where)
    tokens = dict(_tokens(model, where))
    added = _added(state, where)
    _check_model(model, where)
    for part in ("normalizer", "pre_tokenizer"):
        _check_steps(state, part, where)
    biggest = max((*tokens, *added), default=-1)
    if biggest < 0:
        raise _wrong("it has no tokens", where)
    return Definition(state=state, where=where, tokens=tokens, added=added, size=biggest + 1)


def merges_of(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The merges of a BPE model, in either of the forms that files have."""
    for merge in model.get("merges") or ():
        if isinstance(merge, str):
            left, _, right = merge.partition(" ")
            yield left, right
        else:
            yield merge[0], merge[1]


def steps_of(state: State, part: str) -> list[dict[str, Any]]:
    """The steps of the normalizer, pre-tokenizer or decoder, with sequences laid flat."""
    found: list[dict[str, Any]] = []
    waiting: list[Any] = [state.get(part)]
    while waiting:
        step = waiting.pop(0)
        if not isinstance(step, dict):
            continue
        inner = cast("dict[str, Any]", step)
        if inner.get("type") == "Sequence":
            nested = inner.get("normalizers") or inner.get("pretokenizers") or inner.get("decoders") or ()
            waiting[:0] = cast("list[Any]", nested) if isinstance(nested, list) else []
        else:
            found.append(inner)
    return found


def pattern_of(step: dict[str, Any], form: str) -> str | None:
    """The pattern of a step in a form, `Regex` or `String`; None where it has none in that form."""
    pattern = step.get("pattern")
    found = cast("dict[str, Any]", pattern).get(form) if isinstance(pattern, dict) else None
    return found if isinstance(found, str) else None


def isolated_pattern(step: dict[str, Any]) -> str | None:
    """The pattern whose matches a step sets apart as words; None where the step does something else."""
    return pattern_of(step, "Regex") if step.get("behavior") == "Isolated" and not step.get("invert") else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return found


def _wrong(what: str, where: str) -> DataError:
    return DataError(what, where=where, fix=_OTHER)


def _guessed_type(model: dict[str, Any]) -> str:
    """The type of a model that an early version of the library wrote without one."""
    if "merges" in model:
        return "BPE"
    return "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"


def _tokens(model: dict[str, Any], where: str) -> Iterator[tuple[int, str]]:
    vocabulary = model.get("vocab")
    if model["type"] == "Unigram":
        if not isinstance(vocabulary, list):
            raise _wrong("a Unigram vocabulary is a list of pieces and scores", where)
        for index, entry in enumerate(cast("list[Any]", vocabulary)):
            if not (
                isinstance(entry, list)
                and len(cast("list[Any]", entry)) == 2
                and isinstance(entry[0], str)
                and isinstance(entry[1], int | float)
                and not isinstance(entry[1], bool)
                and abs(entry[1]) < 1e9
            ):
                raise _wrong(f"entry {index} of the vocabulary is no piece with a finite score", where)
            yield _checked(entry[0], index, where)
        return
    if not isinstance(vocabulary, dict):
        raise _wrong("the vocabulary is no object of tokens and ids", where)
    seen: dict[int, str] = {}
    for text, token in cast("dict[str, Any]", vocabulary).items():
        if not isinstance(token, int) or isinstance(token, bool):
            raise _wrong(f"the id of {text[:80]!r} is {str(token)[:40]}, which is no integer", where)
        if token in seen:
            raise _wrong(f"the id {token} belongs to {seen[token][:80]!r} and to {text[:80]!r}", where)
        seen[token] = text
        yield _checked(text, token, where)


def _checked(text: str, token: int, where: str) -> tuple[int, str]:
    if not 0 <= token < LARGEST_VOCABULARY:
        raise DataError(
            f"the tokenizer has the token id {token:,}; the largest is {LARGEST_VOCABULARY - 1:,}",
            where=where,
            fix="use a tokenizer whose ids follow each other from 0",
        )
    if len(text) > LONGEST_TOKEN:
        raise _wrong(f"the token {token} has {len(text):,} characters; the most is {LONGEST_TOKEN:,}", where)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _wrong(f"the token {token} holds a lone surrogate, which is no character", where) from None
    return token, text


def _added(state: State, where: str) -> dict[int, AddedToken]:
    entries: Any = state.get("added_tokens") or []
    if not isinstance(entries, list):
        raise _wrong("added_tokens is no list", where)
    found: dict[int, AddedToken] = {}
    names: dict[str, int] = {}
    for entry in cast("list[Any]", entries):
        match entry:
            case {"id": int(token), "content": str(content)} if content:
                special = cast("dict[str, Any]", entry).get("special", False) is True
            case _:
                raise _wrong(f"an added token has no id or no content: {str(entry)[:120]}", where)
        _checked(content, token, where)
        if names.setdefault(content, token) != token:
            raise _wrong(f"the added token {content[:80]!r} has the ids {names[content]} and {token}", where)
        found[token] = AddedToken(id=token, content=content, special=special)
    return found


def _check_model(model: dict[str, Any], where: str) -> None:
    """What the library does not check, or answers with a crash."""
    kind, vocabulary = model["type"], model["vocab"]
    unknown = model.get("unk_token")
    if unknown is not None and not isinstance(unknown, str):
        raise _wrong("unk_token is no text", where)
    if kind in ("WordPiece", "WordLevel") and unknown not in vocabulary:
        raise _wrong(f"the vocabulary lacks the token for the unknown, {str(unknown)[:80]!r}", where)
    if kind == "Unigram":
        place = model.get("unk_id")
        if place is not None and not (isinstance(place, int) and 0 <= place < len(vocabulary)):
            raise _wrong(f"unk_id is {str(place)[:40]}, which is no token of this vocabulary", where)
    if kind == "WordPiece":
        longest = model.get("max_input_chars_per_word", 100)
        if not (isinstance(longest, int) and 0 < longest <= LONGEST_WORDPIECE_WORD):
            raise _wrong(
                f"max_input_chars_per_word is {str(longest)[:40]}; it must be from 1 to {LONGEST_WORDPIECE_WORD:,}",
                where,
            )
    if kind == "BPE":
        _check_merges(model, where)


def _check_merges(model: dict[str, Any], where: str) -> None:
    vocabulary, merges = model["vocab"], model.get("merges")
    if merges is not None and not isinstance(merges, list):
        raise _wrong("merges is no list", where)
    if model.get("dropout") not in (None, 0, 0.0):
        raise _wrong("the model drops merges at random (dropout), so a text has no fixed tokens", where)
    if model.get("end_of_word_suffix"):
        raise _wrong("tokens that mark the end of a word (end_of_word_suffix) are not supported", where)
    prefix = model.get("continuing_subword_prefix") or ""
    for index, merge in enumerate(cast("list[Any]", merges or [])):
        match merge.split(" ") if isinstance(merge, str) else merge:
            case [str(left), str(right)]:
                pass
            case _:
                raise _wrong(f"merge {index} is no pair of tokens", where)
        for text in (left, right, left + right.removeprefix(prefix)):
            if text not in vocabulary or not text:
                raise _wrong(f"merge {index} needs {text[:80]!r}, which is not in the vocabulary", where)


def _check_steps(state: State, part: str, where: str) -> None:
    steps = steps_of(state, part)
    if len(steps) > _ALLOWED_STEPS:
        raise _wrong(f"the {part} has {len(steps):,} steps; the most is {_ALLOWED_STEPS}", where)
    expansion, patterns = 1.0, list[str]()
    for step in steps:
        regex, literal = pattern_of(step, "Regex"), pattern_of(step, "String")
        if regex is not None:
            patterns.append(regex)
        if step.get("type") in ("Replace", "Prepend"):
            new = len(str(step.get("content", step.get("prepend", ""))).encode(errors="replace"))
            # A pattern may match the empty text between any two characters.
            expansion *= max(1.0, new / len(literal.encode())) if literal else 1 + new
        if step.get("type") == "Precompiled":
            _check_charsmap(step.get("precompiled_charsmap"), where)
    if expansion > _MOST_EXPANSION:
        raise _wrong(f"the replacements of the {part} can make a text {expansion:,.0f} times longer", where)
    try_patterns(patterns, where)


def _check_charsmap(encoded: object, where: str) -> None:
    """A table of replacements as SentencePiece packs it: a trie, then texts that each end with a NUL."""
    try:
        table = base64.b64decode(encoded if isinstance(encoded, str) else "", validate=True)
    except (binascii.Error, ValueError):
        table = b""
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 or size % 4 or size > len(table) - 4:
        raise _wrong("the table of replacements (precompiled_charsmap) is damaged", where)
    if max(map(len, table[4 + size :].split(b"\0"))) > _MOST_EXPANSION:
        raise _wrong(f"a replacement of precompiled_charsmap has over {_MOST_EXPANSION} bytes", where)
