"""Tokenizers: text to ids and back exactly, and no control token out of ordinary text."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.tokenization.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer, train_bpe
from vitruvius.errors import DataError, UsageError

pytest.importorskip("tokenizers")

TEXTS = [
    "the quick brown fox jumps over the lazy dog\n" * 20,
    "def f(x):\n    return x + 12345\n" * 20,
    "Größe, naïveté, 日本語, \U0001f600\n" * 10,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 320)


@given(text=st.text())
def test_any_text_comes_back_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text())
def test_the_bytes_of_the_ids_are_the_bytes_of_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert int(tokenizer.byte_lengths[ids].sum() if ids else 0) == len(text.encode())


def test_the_separator_has_id_0_and_no_text(tokenizer):
    assert (tokenizer.eos, tokenizer.eos_id) == (END_OF_TEXT, 0)
    assert tokenizer.decode([0]) == ""


@pytest.mark.parametrize(
    "text",
    [END_OF_TEXT, f"a{END_OF_TEXT}b", f" {END_OF_TEXT}\n", END_OF_TEXT * 3],
    ids=["alone", "inside", "apart", "x3"],
)
def test_text_that_spells_the_separator_is_ordinary_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert 0 not in ids
    assert tokenizer.decode(ids) == text


def test_training_on_the_separators_spelling_does_not_make_it_reachable():
    trained = train_bpe([END_OF_TEXT * 1000, "a" + END_OF_TEXT], 300)
    assert trained.eos_id == 0
    assert 0 not in trained.encode(END_OF_TEXT)


def test_ids_are_below_the_vocabulary_size(tokenizer):
    assert tokenizer.vocab_size == 320
    assert len(tokenizer.token_bytes) == 320
    assert max(tokenizer.encode("".join(TEXTS))) < 320


def test_every_byte_is_a_token(tokenizer):
    assert {piece for piece in tokenizer.token_bytes if len(piece) == 1} == {bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize("vocab", [256, 0, -1], ids=str)
def test_a_vocabulary_without_room_for_the_bytes_is_refused(vocab):
    with pytest.raises(UsageError, match="257"):
        train_bpe(TEXTS, vocab)


def test_a_vocabulary_of_bytes_alone_works():
    trained = train_bpe(TEXTS, 257)
    assert trained.vocab_size == 257
    assert len(trained.encode("größe")) == 7


def test_the_order_of_texts_and_the_process_do_not_matter(tokenizer):
    code = f"""
from vitruvius.data.tokenization.tokenizer import train_bpe
print(train_bpe({TEXTS[::-1]!r}, 320).fingerprint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tokenizer.fingerprint


def test_a_saved_tokenizer_loads_as_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.token_bytes == tokenizer.token_bytes
    assert loaded.encode(TEXTS[2]) == tokenizer.encode(TEXTS[2])


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_a_stream_gives_the_text_and_never_half_a_character(tokenizer, text):
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + stream.finish() == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_a_stream_waits_for_the_last_byte_of_a_character(tokenizer):
    single = {piece[0]: token for token, piece in enumerate(tokenizer.token_bytes) if len(piece) == 1}
    stream = tokenizer.stream()
    assert [stream.push(single[byte]) for byte in "\U0001f600".encode()] == ["", "", "", "\U0001f600"]


def test_a_character_that_never_ends_becomes_one_replacement(tokenizer):
    single = {piece[0]: token for token, piece in enumerate(tokenizer.token_bytes) if len(piece) == 1}
    stream = tokenizer.stream()
    assert stream.push(single[0xF0]) == ""
    assert stream.finish() == "\ufffd"


def test_a_lone_surrogate_is_an_error_and_not_a_crash(tokenizer):
    with pytest.raises(DataError, match="lone surrogate"):
        tokenizer.encode("a\ud800")


LONG_WORDS = {
    "one letter": "a" * 1_000_000,
    "random letters": "".join(random.Random(0).choices("abcdefghij", k=1_000_000)),
    "spaces": " " * 1_000_000,
    "dashes": "-" * 1_000_000,
    "digits": "7" * 1_000_000,
}


@pytest.mark.parametrize("word", LONG_WORDS.values(), ids=LONG_WORDS.keys())
def test_a_word_of_a_million_characters_is_encoded_and_comes_back(tokenizer, word):
    assert tokenizer.decode(tokenizer.encode(word)) == word


@pytest.mark.parametrize("word", LONG_WORDS.values(), ids=LONG_WORDS.keys())
def test_training_on_a_word_of_a_million_characters_ends(word):
    # A trainer that sees the word whole needs many minutes, which the suite's time limit turns into a failure.
    assert train_bpe([TEXTS[0], word], 400).vocab_size <= 400


def test_cutting_long_words_loses_no_text():
    from vitruvius.data.tokenization.training import without_long_words

    text = "a b" * 10 + "x" * 1000 + "-" * 700 + "\n" * 513 + "end"
    pieces = list(without_long_words(text))
    assert "".join(pieces) == text
    assert max(len(word) for piece in pieces for word in piece.split()) <= 512


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"model": null}'], ids=repr)
def test_a_file_that_is_no_tokenizer_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json\n.*no tokenizer"):
        load_tokenizer(path)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json"):
        load_tokenizer(tmp_path / "none.json")


def test_a_tokenizer_without_a_separator_asks_for_its_name(tokenizer, tmp_path):
    state = json.loads(tokenizer.text.replace(END_OF_TEXT, "[DOC]"))
    (tmp_path / "t.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="--eos"):
        load_tokenizer(tmp_path / "t.json")
    assert load_tokenizer(tmp_path / "t.json", eos="[DOC]").eos_id == 0
