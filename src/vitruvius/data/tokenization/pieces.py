"""What each token stands for, as bytes: the decoder of a tokenizer applied to its whole vocabulary once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data.tokenization.definition import Definition, steps_of
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How a vocabulary with byte fallback spells a byte."""
_CLEAN = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""What the WordPiece decoder of the tokenizers library makes of a word and the space before it when it cleans up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """A vocabulary in bytes: the text of ids is their pieces one after the other, without `lead` at its start."""

    of: tuple[bytes, ...]
    """What each id stands for; empty for special tokens and unused ids."""
    lead: bytes
    """Removed once from the start of a text: the space that encoding puts there."""
    spelled: str
    """`bytes`, `byte fallback` or `characters`: what a token can be made of."""


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (the GPT-2 table)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def pieces_of(definition: Definition) -> Pieces:
    """The pieces of every id.

    Raises:
        DataError: the decoder does something that cannot be done token by token.
    """
    steps = steps_of(definition.state, "decoder")
    convert, lead, spelled = _converter(steps, definition.where)
    found = [b""] * definition.size
    for token, text in definition.tokens.items():
        found[token] = convert(text)
    literal = spelled == "bytes"
    for token, added in definition.added.items():
        if added.special:
            found[token] = b""
        else:
            found[token] = added.content.encode() if literal else convert(added.content)
    return Pieces(of=tuple(found), lead=lead, spelled=spelled)


def _converter(steps: list[dict[str, Any]], where: str) -> tuple[Callable[[str], bytes], bytes, str]:
    """A token's text -> its bytes; the lead; and what tokens are made of."""
    kinds = [step.get("type") for step in steps]
    if not steps:
        return lambda text: b" " + text.encode(), b" ", "characters"
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()

        def from_alphabet(text: str) -> bytes:
            # The library takes a token with any other character as the text it is, so we do.
            known = all(map(alphabet.__contains__, text))
            return bytes(map(alphabet.__getitem__, text)) if known else text.encode()

        _refuse(set(kinds) - {"ByteLevel", "Fuse"}, where)
        return from_alphabet, b"", "bytes"
    _refuse(set(kinds) - {"ByteFallback", "Fuse", "Replace", "Strip", "Metaspace", "WordPiece"}, where)
    changes, lead = _changes(steps, where)
    fallback = "ByteFallback" in kinds

    def from_characters(text: str) -> bytes:
        byte = BYTE_TOKEN.fullmatch(text) if fallback else None
        if byte:
            return bytes.fromhex(byte[1])
        for change in changes:
            text = change(text)
        return text.encode()

    return from_characters, lead, "byte fallback" if fallback else "characters"


def _refuse(kinds: set[Any], where: str) -> None:
    if kinds:
        raise DataError(
            f"the decoder has steps that are not supported: {', '.join(sorted(map(str, kinds)))}",
            where=where,
            fix="use a byte-level BPE, a BPE or Unigram with SentencePiece's spaces, or a WordPiece tokenizer",
        )


def _changes(steps: list[dict[str, Any]], where: str) -> tuple[list[Callable[[str], str]], bytes]:
    changes: list[Callable[[str], str]] = []
    lead, fused = b"", False
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                changes.append(lambda text, old=old, new=new: text.replace(old, new))
            case {"type": "Metaspace", "replacement": str(mark)}:
                changes.append(lambda text, mark=mark: text.replace(mark, " "))
                if step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never":
                    lead = b" "
            case {"type": "WordPiece", "prefix": str(prefix)}:
                cleans = step.get("cleanup", True) is True
                changes.append(lambda text, prefix=prefix, cleans=cleans: _word_piece(text, prefix, cleans=cleans))
                lead = b" "
            case {"type": "Strip", "content": str(mark), "start": int(start), "stop": int(stop)}:
                if stop != 0 or not fused or not 0 <= start <= 1:
                    _refuse({"Strip of anything but one character at the start"}, where)
                lead = mark.encode() * start
            case {"type": "Fuse"}:
                fused = True
            case {"type": "ByteFallback"}:
                pass
            case _:
                _refuse({str(step)[:120]}, where)
    return changes, lead


def _word_piece(text: str, prefix: str, *, cleans: bool) -> str:
    if prefix and text.startswith(prefix):
        return text[len(prefix) :]
    text = " " + text
    if cleans:
        for old, new in _CLEAN:
            text = text.replace(old, new)
    return text
