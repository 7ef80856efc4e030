"""The tokenizer that encodes text: no text can become a control token, whatever it spells.

A `tokenizer.json` keeps control tokens twice: as added tokens, which the library looks for in a text, and often in the
model's vocabulary, where the pieces of a word may add up to one. Here both are taken away, and ids stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vitruvius.data.tokenization.definition import Definition, merges_of, steps_of
from vitruvius.data.tokenization.pieces import BYTE_TOKEN

if TYPE_CHECKING:
    from vitruvius.data.tokenization.definition import State

_NOTHING = ""
"""A spelling that no text has: words are never empty."""

_BYTE_SPLIT = {
    "type": "Split",
    "pattern": {"Regex": "<0x(?=[0-9A-F]{2}>)"},
    "behavior": "Isolated",
    "invert": False,
}
"""Cuts text that spells a byte token, so that it is encoded as the characters it is."""


def sealed(definition: Definition) -> tuple[State, str]:
    """The state of the tokenizer to encode with, and what to put before each text that is not empty.

    Added tokens stay only where they are plain white space.
    """
    plain = {token: added for token, added in definition.added.items() if added.plain}
    closed = {token for token in definition.added if token not in plain}
    names = {definition.added[token].content for token in closed}
    unknown = definition.unknown
    if unknown is not None:
        closed.add(unknown)
    closed |= {token for token, text in definition.tokens.items() if text in names}
    state = dict(definition.state)
    state |= dict.fromkeys(("post_processor", "decoder", "truncation", "padding"))
    model = dict(definition.model)
    state["model"] = model
    state["added_tokens"] = [_entry(definition, token) for token in sorted(plain)]
    if model["type"] == "Unigram":
        model["vocab"] = _pieces(definition, closed, plain)
    else:
        model["vocab"] = _entries(definition, closed, plain)
        if unknown is not None:
            model["vocab"][_NOTHING] = unknown
            model["unk_token"] = _NOTHING
    bytes_reachable = model.get("byte_fallback") is True
    if model["type"] == "BPE":
        vocabulary = cast("dict[str, int]", model["vocab"])
        model["merges"] = _merges(model, vocabulary)
        bytes_reachable = bytes_reachable and model.get("ignore_merges") is True
    if bytes_reachable and any(map(BYTE_TOKEN.fullmatch, definition.tokens.values())):
        before = state.get("pre_tokenizer")
        steps = [_BYTE_SPLIT] if before is None else [before, _BYTE_SPLIT]
        state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    return state, "" if plain else _taken_prefix(state)


def _taken_prefix(state: State) -> str:
    """Take the step that puts something before the text out of the normalizer, so that texts can be cut."""
    steps = steps_of(state, "normalizer")
    if not steps or steps[0].get("type") != "Prepend":
        return ""
    state["normalizer"] = {"type": "Sequence", "normalizers": steps[1:]}
    return str(steps[0].get("prepend", ""))


def _entry(definition: Definition, token: int) -> dict[str, Any]:
    found = next(entry for entry in reversed(definition.state["added_tokens"]) if cast("State", entry)["id"] == token)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return flags | cast("State", found)


def _entries(definition: Definition, closed: set[int], plain: dict[int, Any]) -> dict[str, int]:
    """The vocabulary without the closed ids. The library numbers added tokens that the model lacks: plain ones join."""
    found = {text: token for token, text in definition.tokens.items() if token not in closed and token not in plain}
    return found | {added.content: token for token, added in plain.items()}


def _pieces(definition: Definition, closed: set[int], plain: dict[int, Any]) -> list[list[Any]]:
    """As `_entries`, for a vocabulary whose ids are its places."""
    pieces = [
        [_NOTHING if token in closed else text, score] for token, (text, score) in enumerate(definition.model["vocab"])
    ]
    for token, added in plain.items():
        pieces += [[_NOTHING, 0.0] for _ in range(token + 1 - len(pieces))]
        pieces[token] = [added.content, pieces[token][1]]
    return pieces


def _merges(model: dict[str, Any], vocabulary: dict[str, int]) -> list[list[str]]:
    """The merges whose parts and result are still there, and whose result is no byte token."""
    prefix = model.get("continuing_subword_prefix") or ""
    return [
        [left, right]
        for left, right in merges_of(model)
        if left in vocabulary
        and right in vocabulary
        and (whole := left + right.removeprefix(prefix)) in vocabulary
        and not (model.get("byte_fallback") and BYTE_TOKEN.fullmatch(whole))
    ]
