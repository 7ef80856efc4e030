"""What a vocabulary is made of: bytes, words, scripts, digits, special tokens, and tokens that nothing can reach."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vitruvius.data.tokenization.sealing import sealed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data.tokenization.tokenizer import Tokenizer

_UTF8_BYTES = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}
"""Bytes that occur in UTF-8."""
_LISTED = 20
"""Tokens of a list that are named; the counts beside it are of all."""


def vocabulary_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Everything that can be said about a tokenizer without a text."""
    definition, pieces = tokenizer.definition, tokenizer.token_bytes
    special = [token for token, added in sorted(definition.added.items()) if added.special]
    used = definition.tokens.keys() | definition.added.keys()
    ordinary = [token for token in sorted(used) if pieces[token]]
    texts = {token: _text(pieces[token]) for token in ordinary}
    whole = {token: text for token, text in texts.items() if text is not None}
    unreachable = list(unreachable_tokens(tokenizer))
    longest = sorted(ordinary, key=lambda token: (-len(pieces[token]), token))[:_LISTED]
    return {
        "vocab_size": tokenizer.vocab_size,
        "tokens": len(used),
        "ids_without_token": tokenizer.vocab_size - len(used),
        "special_tokens": [{"id": token, "text": definition.added[token].content} for token in special[: 10 * _LISTED]],
        "special_token_count": len(special),
        "added_tokens_that_are_text": sum(1 for added in definition.added.values() if not added.special),
        "single_byte_tokens": len({pieces[token] for token in ordinary if len(pieces[token]) == 1}),
        "utf8_bytes_without_token": len(
            _UTF8_BYTES - {pieces[token][0] for token in ordinary if len(pieces[token]) == 1}
        ),
        "part_of_character_tokens": len(ordinary) - len(whole),
        "word_start_tokens": sum(1 for token in ordinary if pieces[token][:1] == b" "),
        "white_space_tokens": sum(1 for text in whole.values() if text.isspace()),
        "digit_tokens": sum(1 for text in whole.values() if any(map(str.isdigit, text))),
        "digits_only_tokens": sum(1 for text in whole.values() if text.strip().isdigit()),
        "longest_digits": max((len(text.strip()) for text in whole.values() if text.strip().isdigit()), default=0),
        "mean_token_bytes": round(sum(len(pieces[t]) for t in ordinary) / len(ordinary), 4) if ordinary else None,
        "longest_tokens": [_named(tokenizer, token) | {"bytes": len(pieces[token])} for token in longest],
        "scripts": _scripts(whole),
        "unreachable_count": len(unreachable),
        "unreachable": [_named(tokenizer, token) for token in unreachable[:_LISTED]],
    }


def unreachable_tokens(tokenizer: Tokenizer) -> Iterator[int]:
    """Tokens that no text is ever encoded to, in the order of their ids: their own spelling is encoded otherwise.

    For BPE there is no path of merges to them; for Unigram other pieces are likelier. Of WordPiece pieces that go on in
    a word, those are named that 64 different starts did not lead to. Special tokens are not counted: no text is meant
    to reach them.
    """
    from tokenizers import Tokenizer as Inner

    definition = tokenizer.definition
    state, _ = sealed(definition)
    inner: Any = Inner.from_str(json.dumps(state | {"normalizer": None, "pre_tokenizer": None, "added_tokens": []}))
    spell, kind = inner.model.tokenize, definition.model["type"]
    prefix = definition.model.get("continuing_subword_prefix") or ""
    starts = [text for text in definition.tokens.values() if len(text) == 1][:64] if kind == "WordPiece" else []
    byte_fallback = definition.model.get("byte_fallback") is True
    for token, text in sorted(definition.tokens.items()):
        added = definition.added.get(token)
        if added is not None or token == definition.unknown or not text:
            continue
        if byte_fallback and len(text) == 6 and text.startswith("<0x"):
            continue
        if starts and prefix and text.startswith(prefix):
            rest = text[len(prefix) :]
            if not any(_last(spell(start + rest)) == token for start in starts):
                yield token
        elif [found.id for found in spell(text)] != [token]:
            yield token


def _last(found: list[Any]) -> int | None:
    return found[-1].id if found else None


def _named(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    return {"id": token, "text": tokenizer.token_bytes[token].decode("utf-8", "backslashreplace")}


def _text(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


def _scripts(texts: dict[int, str]) -> dict[str, int]:
    """Script -> tokens with a letter of it, most first; a token with letters of two scripts counts in both."""
    found: Counter[str] = Counter()
    for text in texts.values():
        found.update({script(character) for character in text if character.isalpha()})
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


@lru_cache(maxsize=65_536)
def script(letter: str) -> str:
    """The script of a letter by the first word of its Unicode name: `Latin`, `Cyrillic`, `Cjk`."""
    name = unicodedata.name(letter, "unnamed").split()
    # FULLWIDTH LATIN, MATHEMATICAL BOLD and the like are forms of other letters.
    return name[0].capitalize()
