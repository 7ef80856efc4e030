"""Text never becomes a control token, whatever it spells and however the tokenizer was made."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.tokenization.pieces import byte_alphabet
from vitruvius.data.tokenization.tokenizer import Tokenizer, TrainOptions, train

pytest.importorskip("tokenizers")

TEXTS = ["<s> the quick brown fox [SEP] jumps </s> over 0x0A\n" * 30, "Grüße, naïveté, 日本語 \U0001f600\n" * 10]
CONTROL = ("<s>", "</s>", "<|im_start|>", "[SEP]", "<unk>")


def added(names: dict[str, int], *, special: str = "special") -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": token, "content": name, "special": special == "special"} | flags for name, token in names.items()]


def byte_level() -> Tokenizer:
    return train(TEXTS, TrainOptions(vocab_size=330, specials=CONTROL))


def byte_level_whose_merges_lead_to_control() -> Tokenizer:
    """Pairs that add up to `<s>`, and words that are taken whole."""
    vocabulary = {letter: place for place, letter in enumerate(sorted(byte_alphabet()))}
    vocabulary |= {"<s": 256, "<s>": 257, "</s>": 258}
    return Tokenizer(
        {
            "added_tokens": added({"<s>": 257, "</s>": 258}),
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "ignore_merges": True, "vocab": vocabulary, "merges": ["< s", "<s >"]},
        }
    )


def unigram_with_byte_fallback() -> Tokenizer:
    """Like T5's: control tokens are pieces of the vocabulary with the best score of all, and so are bytes."""
    pieces: list[list[Any]] = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0]]
    pieces += [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    pieces += [[letter, -3.0] for letter in "▁abcdefghijklmnopqrstuvwxyz<>/"]
    return Tokenizer(
        {
            "added_tokens": added({"<unk>": 0, "<s>": 1, "</s>": 2}),
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                ],
            },
            "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": True},
        }
    )


def sentencepiece_bpe() -> Tokenizer:
    """Like Llama 2's: no word split, bytes as tokens, and merges that lead to control tokens and to a byte."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for text in [*"▁abcdefghijklmnopqrstuvwxyz<>/0AX", "<0", "<0x", "<0x0", "<0x0A", "<s", "</", "</s"]:
        vocabulary[text] = len(vocabulary)
    merges = ["< 0", "<0 x", "<0x 0", "<0x0 A", "<0x0A >", "< s", "<s >", "< /", "</ s", "</s >"]
    return Tokenizer(
        {
            "added_tokens": added({"<unk>": 0, "<s>": 1, "</s>": 2}),
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                ],
            },
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                ],
            },
            "model": {
                "type": "BPE",
                "unk_token": "<unk>",
                "byte_fallback": True,
                "vocab": vocabulary,
                "merges": merges,
            },
        }
    )


def word_piece() -> Tokenizer:
    return train(TEXTS, TrainOptions(kind="wordpiece", vocab_size=200, specials=("[SEP]", "[CLS]")))


def word_piece_split_at_spaces_alone() -> Tokenizer:
    """The words `[UNK]` and `[SEP]` are in the vocabulary, and nothing sets their brackets apart."""
    vocabulary = {"[UNK]": 0, "[SEP]": 1, "a": 2, "##b": 3}
    return Tokenizer(
        {
            "added_tokens": added({"[SEP]": 1}),
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": vocabulary,
            },
        }
    )


MAKERS = (
    byte_level,
    byte_level_whose_merges_lead_to_control,
    unigram_with_byte_fallback,
    sentencepiece_bpe,
    word_piece,
    word_piece_split_at_spaces_alone,
)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param()


def control(tokenizer: Tokenizer) -> set[int]:
    """The ids no text may become: all added tokens but the one for what cannot be spelled."""
    return set(tokenizer.definition.added) - {tokenizer.unk_id}


parts = st.one_of(
    st.sampled_from([*CONTROL, "[CLS]", "[UNK]", "<0x0A>", "<", "s>", " ", "\n", "a", "[", "]"]), st.text()
)


@given(text=st.lists(parts, max_size=12).map("".join))
def test_no_text_becomes_a_control_token(tokenizer, text):
    assert not control(tokenizer) & set(tokenizer.encode(text))


@pytest.mark.parametrize("name", [*CONTROL, "[CLS]", "[UNK]"])
def test_a_control_tokens_spelling_is_ordinary_text(tokenizer, name):
    for text in (name, f"a{name}b", f"a {name} b", name * 3):
        assert not control(tokenizer) & set(tokenizer.encode(text))


@pytest.mark.parametrize(
    "make", [byte_level, byte_level_whose_merges_lead_to_control, unigram_with_byte_fallback, sentencepiece_bpe]
)
@given(text=st.lists(parts, max_size=8).map("".join).filter(lambda text: "▁" not in text))
def test_what_spells_a_control_token_or_a_byte_comes_back_as_it_was(make, text):
    found = CACHE.setdefault(make, make())
    if make is unigram_with_byte_fallback:
        text = text.strip(" ")
    assert found.decode(found.encode(text)) == text


CACHE: dict[Any, Tokenizer] = {}


def test_an_added_token_that_is_not_special_is_not_found_in_text_either():
    base = byte_level()
    state = base.definition.state
    more = added({"<tool_call>": 330, "  ": 331}, special="no")
    found = Tokenizer(state | {"added_tokens": [*state["added_tokens"], *more]})
    ids = found.encode("a<tool_call>b")
    assert 330 not in ids
    assert found.decode(ids) == "a<tool_call>b"
    assert found.decode([330]) == "<tool_call>"


def test_an_added_token_of_white_space_is_text_and_keeps_its_id():
    state = byte_level().definition.state
    more = added({"    ": 331}, special="no")
    found = Tokenizer(state | {"added_tokens": [*state["added_tokens"], *more]})
    assert found.vocab_size == 332
    assert found.encode("x    y").count(331) == 1
    assert found.decode(found.encode("x    y")) == "x    y"


def test_the_unknown_is_a_token_that_text_cannot_spell():
    found = word_piece_split_at_spaces_alone()
    assert found.encode("ab z") == [2, 3, 0]
    assert found.unk_id == 0
    assert found.encode("[SEP]") == [0]  # not 1: it is a word that the vocabulary cannot spell
