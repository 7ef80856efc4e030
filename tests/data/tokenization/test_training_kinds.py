"""Training: BPE, Unigram and WordPiece, the same everywhere, on any words, with the losses they state."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import unicodedata
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.tokenization.tokenizer import Tokenizer, TrainOptions, load_tokenizer, train
from vitruvius.data.tokenization.unigram import _log as logarithm  # pyright: ignore[reportPrivateUsage]
from vitruvius.data.tokenization.unigram import unigram_pieces
from vitruvius.errors import DataError, UsageError

pytest.importorskip("tokenizers")
np = pytest.importorskip("numpy")

TEXTS = [
    "the quick brown fox jumps over the lazy dog, isn't it? The end of 1984.\n" * 20,
    "def f(x):\n    return x + 12345\n" * 20,
    "Größe, naïveté, 日本語, \U0001f600\n" * 10,
]
KINDS = ("bpe", "unigram", "wordpiece")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind: Any) -> Tokenizer:
    return train(TEXTS, TrainOptions(kind=kind, vocab_size=330))


def test_the_order_of_texts_the_process_and_the_threads_do_not_matter(kind, tokenizer):
    code = f"""
from vitruvius.data.tokenization.tokenizer import TrainOptions, train
print(train({TEXTS[::-1]!r}, TrainOptions(kind={kind!r}, vocab_size=330)).fingerprint)
"""
    for threads in (1, 3):
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(threads)}
        environment |= {"TOKENIZERS_PARALLELISM": "true"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == tokenizer.fingerprint


def test_the_vocabulary_is_no_larger_than_asked_and_the_separator_is_first(tokenizer):
    assert tokenizer.vocab_size <= 330
    assert (tokenizer.eos, tokenizer.eos_id) == ("<|endoftext|>", 0)


def test_what_was_saved_loads_as_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("".join(TEXTS)) == tokenizer.encode("".join(TEXTS))


def test_the_library_reads_what_is_saved_and_gives_the_same_ids(tokenizer, tmp_path):
    from tokenizers import Tokenizer as Inner

    tokenizer.save(tmp_path / "tokenizer.json")
    theirs = Inner.from_file(str(tmp_path / "tokenizer.json"))
    text = "".join(TEXTS)
    assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
    assert theirs.get_vocab_size() == tokenizer.vocab_size


@pytest.mark.parametrize("lossless", ["bpe", "unigram"])
@given(text=st.text())
def test_byte_level_tokenizers_give_any_text_back_exactly(lossless, text):
    assert BYTES[lossless].decode(BYTES[lossless].encode(text)) == text


BYTES = {kind: train(TEXTS, TrainOptions(kind=kind, vocab_size=300)) for kind in ("bpe", "unigram")}


@given(words=st.lists(st.sampled_from(["the", "fox", "jumps", "naïveté", "12345", ",", "?", "The"]), max_size=12))
def test_word_piece_keeps_words_and_loses_the_white_space_between_them(words):
    tokenizer = WORD_PIECE
    assert tokenizer.decode(tokenizer.encode("\n\t ".join(words))) == " ".join(words)


WORD_PIECE = train(TEXTS, TrainOptions(kind="wordpiece", vocab_size=330))


def test_word_piece_counts_what_it_cannot_spell_as_unknown():
    assert WORD_PIECE.unk_id is not None
    ids = WORD_PIECE.encode("the \u0639\u0631 fox")
    assert ids.count(WORD_PIECE.unk_id) == 1
    assert WORD_PIECE.decode(ids) == "the fox"


def test_word_piece_lowered_drops_capitals_and_accents():
    lowered = train(TEXTS, TrainOptions(kind="wordpiece", vocab_size=330, case="lowered"))
    assert lowered.decode(lowered.encode("The NAÏVETÉ")) == "the naivete"


def test_a_word_over_100_characters_comes_back_in_parts_and_is_not_unknown():
    word = "thequick" * 40
    ids = WORD_PIECE.encode(word)
    assert WORD_PIECE.unk_id not in ids
    assert WORD_PIECE.decode(ids).replace(" ", "") == word


def test_word_piece_has_room_for_merges_however_many_characters_there_are():
    many = ["".join(chr(0x4E00 + place) for place in range(3_000)), "the fox " * 500]
    tokenizer = train(many, TrainOptions(kind="wordpiece", vocab_size=300))
    assert tokenizer.vocab_size <= 300
    assert len(tokenizer.encode("the fox")) <= 4


@pytest.mark.parametrize("digits", ["triples", "single", "runs"])
@pytest.mark.parametrize("words", ["llama3", "gpt2"])
def test_digits_are_grouped_as_asked(words, digits):
    tokenizer = train(["1234567 " * 500 + "x1234567 " * 500], TrainOptions(vocab_size=400, words=words, digits=digits))
    longest = max(len(piece.strip()) for piece in tokenizer.token_bytes if piece.strip().isdigit())
    assert longest == {"triples": 3, "single": 1, "runs": 7}[digits]


def test_special_tokens_have_the_first_ids_and_no_text(kind):
    specials = ("<|end|>", "<|user|>", "<|assistant|>")
    tokenizer = train(TEXTS, TrainOptions(kind=kind, vocab_size=330, specials=specials))
    assert tokenizer.eos == "<|end|>"
    assert [tokenizer.definition.added[token].content for token in range(3)] == list(specials)
    assert tokenizer.decode([0, 1, 2]) == ""
    assert not {0, 1, 2} & set(tokenizer.encode("".join(specials)))


LONG = {
    "one letter": "a" * 1_000_000,
    "random letters": "".join(random.Random(0).choices("abcdefghij", k=250_000)),
    "spaces": " " * 1_000_000,
    "dashes": "-" * 250_000,
    "Han": "".join(random.Random(0).choices("日本語漢字", k=60_000)),
}


@pytest.mark.parametrize("word", LONG.values(), ids=LONG.keys())
def test_training_with_a_very_long_word_ends(kind, word):
    # Where the cost grows with the square of a word this takes hours, which the suite's time limit makes a failure.
    tokenizer = train([TEXTS[0], word], TrainOptions(kind=kind, vocab_size=400))
    assert tokenizer.vocab_size <= 400
    ids = tokenizer.encode(word)
    if kind != "wordpiece":
        assert tokenizer.decode(ids) == word
    elif not word.isspace():
        assert tokenizer.decode(ids).replace(" ", "") == word


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vocab_size": 256}, "257"),
        ({"vocab_size": 2**25}, "too large"),
        ({"kind": "morphemes"}, "morphemes"),
        ({"words": "spaces"}, "llama3, gpt2"),
        ({"digits": "pairs"}, "triples"),
        ({"case": "upper"}, "kept"),
        ({"specials": ()}, "--special"),
        ({"specials": ("a", "a")}, "different"),
        ({"specials": ("",)}, "empty"),
        ({"specials": ("\ud800",)}, "--special"),
        ({"kind": "wordpiece", "vocab_size": 2}, "too small"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_meant_is_an_error_that_names_it(options, said):
    with pytest.raises(UsageError) as caught:
        TrainOptions(**options)
    assert said in str(caught.value)


def test_a_text_with_a_lone_surrogate_is_an_error(kind):
    with pytest.raises(DataError, match="text 1 holds a lone surrogate"):
        train(["fine", "a\ud800"], TrainOptions(kind=kind, vocab_size=300))


@pytest.mark.parametrize("texts", [[], [""], [" \n"]], ids=repr)
def test_without_words_there_is_still_a_tokenizer(kind, texts):
    tokenizer = train(texts, TrainOptions(kind=kind, vocab_size=300))
    assert tokenizer.decode(tokenizer.encode("")) == ""
    if kind != "wordpiece":
        assert tokenizer.decode(tokenizer.encode("any text é")) == "any text é"


# ----------------------------------------------------------------------------------------------------------------------
# Unigram


def test_unigram_pieces_are_the_substrings_that_explain_the_words():
    counts = Counter({b" the": 1_000, b" fox": 800, b" foxes": 200, b" then": 100})
    pieces = dict(unigram_pieces(counts, 262))
    assert {b" the", b" fox"} <= pieces.keys()
    assert len(pieces) == 262
    assert {bytes([byte]) for byte in range(256)} <= pieces.keys()


def test_expected_counts_are_those_of_all_segmentations():
    from vitruvius.data.tokenization.unigram import _Lattice, _Words  # pyright: ignore[reportPrivateUsage]

    lattice = _Lattice(_Words(Counter({b"abab": 3, b"aab": 2})), 300)
    likelihood = lattice.first_guess()
    names = {lattice._bytes(piece): piece for piece in range(lattice.none)}  # pyright: ignore[reportPrivateUsage]
    found = lattice.expected(likelihood)

    expected: Counter[bytes] = Counter()
    for word, count in ((b"abab", 3), (b"aab", 2)):
        ways = [(pieces, np.prod([likelihood[names[piece]] for piece in pieces])) for pieces in segmented(word, names)]
        total = sum(chance for _, chance in ways)
        for pieces, chance in ways:
            for piece in pieces:
                expected[piece] += count * chance / total
    assert {name: found[piece] for name, piece in names.items() if found[piece]} == pytest.approx(dict(expected))


def segmented(word: bytes, names: dict[bytes, int]) -> list[list[bytes]]:
    if not word:
        return [[]]
    return [
        [word[:size], *rest]
        for size in range(1, len(word) + 1)
        if word[:size] in names
        for rest in segmented(word[size:], names)
    ]


def test_the_logarithm_is_right_to_the_last_digits():
    values = np.array([1e-300, 1e-9, 0.1, 0.5, 0.7, 0.7071067811865476, 1.0, 2.0, 1234.5])
    assert np.max(np.abs(logarithm(values) - np.log(values)) / np.maximum(1, np.abs(np.log(values)))) < 1e-14
    assert logarithm(np.array([0.0]))[0] == -np.inf


def test_unigram_needs_no_more_tokens_than_the_librarys_own():
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, pre_tokenizers, trainers

    names = "".join(unicodedata.name(chr(code), "").title() + "\n" for code in range(0x20, 0x2000))
    ours = train([names], TrainOptions(kind="unigram", vocab_size=600))
    theirs: Any = Inner(models.Unigram())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.UnigramTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator([names], trainer)
    assert len(ours.encode(names)) < 1.02 * len(theirs.encode(names).ids)
