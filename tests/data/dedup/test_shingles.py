"""How texts become words, shingles and similarities."""

from __future__ import annotations

import re
import tracemalloc
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.dedup import words as words_module
from vitruvius.data.dedup.shingles import intersection, jaccard, shingles
from vitruvius.data.dedup.words import word_hashes

WORD = st.sampled_from(["a", "b", "cat", "Dog", "été", "x1", "ß", "日", "é"])


def same(a: str, b: str) -> bool:
    return np.array_equal(word_hashes(a), word_hashes(b))


# ----------------------------------------------------------------------------------------------------------------------
# What does not count


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The cat sat.", "the CAT  sat"),
        ("one two", "one\r\n\ttwo"),
        ("one two", "one\u00a0two\u3000"),
        ("foo_bar(baz)", "foo bar baz"),
        ("«Straße»", '"STRASSE"'),
        ("soft\u00adhyphen", "softhyphen"),
        ("zero\u200bwidth", "zerowidth"),
        ("tag\U000e0041ged", "tagged"),
        ("\ufefftext", "text"),
        ("café", "cafe\u0301"),
        ("ﬁne", "fine"),
        ("ＡＢＣ１", "abc1"),
        ("don\u2019t", "don't"),
        ("a — b", "a - b"),
        ("日本語。", "日本語"),
        ("ガ", "ｶﾞ"),
        ("か\u3099", "が"),
        ("हिन्दी। भाषा", "हिन्दी भाषा"),
        ("١٢٣، ٤", "١٢٣ ٤"),
        ("İ", "i̇"),
    ],
)
def test_case_punctuation_white_space_invisible_characters_and_compatible_forms_do_not_count(a: str, b: str):
    assert len(word_hashes(a)) > 0
    assert same(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("cafe", "café"),
        ("2023", "2024"),
        ("a b", "b a"),
        ("a b", "ab"),
        ("हिन्दी", "हन्द"),
        ("日本", "本日"),
        ("x 😀", "x 😁"),
        ("!!!", "???"),
        ("...", "... ..."),
    ],
)
def test_digits_accents_marks_symbols_and_order_count(a: str, b: str):
    assert not same(a, b)


def test_a_script_without_spaces_has_a_word_for_each_character():
    assert len(word_hashes("東京は日本の首都です")) == 10
    assert len(word_hashes("ภาษาไทย")) == 7
    assert len(word_hashes("Python は言語")) == 4
    assert len(word_hashes("한국어 문장")) == 2
    assert len(word_hashes("हिन्दी में")) == 2


def test_punctuation_alone_is_compared_by_its_runs():
    assert len(word_hashes("... --- ...")) == 3
    assert same("... --- ...", "  ...\n---\t... ")
    assert len(word_hashes(" \n\t\u2003")) == 0
    assert len(word_hashes("\u200b")) == 1
    assert len(shingles(" ", ngram=5)) == 0


@given(st.lists(WORD, max_size=40), st.sampled_from([" ", "\n", ", ", "\u2028", " \u200b- "]))
def test_words_are_what_stands_between_separators(parts: list[str], separator: str):
    assert len(word_hashes(separator.join(parts))) == len(parts)


@given(st.text())
def test_any_text_has_the_words_of_its_normal_form_and_of_its_lower_case(text: str):
    assert word_hashes(text).dtype == np.uint64
    if text.isascii():
        assert same(text, text.upper())
        expected = re.findall("[a-z0-9]+", text.lower())
        assert len(word_hashes(text)) == len(expected) or not expected
    assert (len(word_hashes(text)) == 0) == (not text.split())


def test_words_have_the_same_hashes_everywhere_and_always():
    assert word_hashes("The quick, brown fox").tolist() == [
        FIXED["the"],
        FIXED["quick"],
        FIXED["brown"],
        FIXED["fox"],
    ]
    assert word_hashes("Ünïcode 日本").tolist() == FIXED_UNICODE


FIXED = {
    "the": 3331141520948189790,
    "quick": 3889497168071291402,
    "brown": 13094878393734910084,
    "fox": 13218999603221225746,
}
FIXED_UNICODE = [10228366565776465443, 14673669960845880234, 1843846355533513506]


# ----------------------------------------------------------------------------------------------------------------------
# Shingles


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall("[a-z0-9]+", text.lower())
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 6))
def test_similarity_is_that_of_the_sets_of_word_tuples(a: list[str], b: list[str], ngram: int):
    left, right = " ".join(a), " ".join(b)
    sets = ngrams(left, ngram), ngrams(right, ngram)
    hashed = shingles(left, ngram=ngram), shingles(right, ngram=ngram)
    assert [len(one) for one in hashed] == [len(one) for one in sets]
    assert intersection(*hashed) == len(sets[0] & sets[1])
    union = len(sets[0] | sets[1])
    assert jaccard(*hashed) == (len(sets[0] & sets[1]) / union if union else 0.0)


def test_shingles_are_sorted_and_each_is_there_once():
    found = shingles("a b c " * 50, ngram=2)
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == 3


def test_a_text_shorter_than_a_shingle_is_compared_as_a_whole():
    assert jaccard(shingles("Hello, world", ngram=5), shingles("hello world!", ngram=5)) == 1.0
    assert jaccard(shingles("hello world", ngram=5), shingles("hello", ngram=5)) == 0.0
    assert jaccard(shingles("a b c d", ngram=5), shingles("a b c d e", ngram=5)) == 0.0


def test_shingles_have_the_same_hashes_everywhere_and_always():
    assert shingles("to be or not to be that", ngram=5).tolist() == FIXED_SHINGLES
    assert shingles("to be", ngram=5).tolist() == FIXED_SHORT


FIXED_SHINGLES = [825337163412216845, 1123368328453544287, 5851065557520321835]
FIXED_SHORT = [8973345915405106981]


# ----------------------------------------------------------------------------------------------------------------------
# Hostile texts


HOSTILE = {
    "one word": "x" * 1_000_000,
    "one word that is not ASCII": "é" * 1_000_000,
    "combining marks": "a" + "\u0300\u0323" * 500_000,
    "marks between spaces": ("a" + "\u0300\u0323" * 100 + " ") * 5_000,
    "punctuation": "!?" * 500_000,
    "spaced punctuation": "! " * 500_000,
    "spaces": " " * 1_000_000,
    "invisible": "\u200b" * 1_000_000,
    "ideographs": "日本" * 500_000,
    "expanding": "\ufdfa" * 200_000,
    "dotted capital I": "İ" * 500_000,
    "short words": "a é " * 250_000,
    "distinct words": " ".join(map(str, range(170_000))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_linear_in_the_length(name: str):
    """A quadratic step over a million characters would run into the limit that every test has."""
    text = HOSTILE[name]
    found = shingles(text, ngram=5)
    assert (len(found) == 0) == (not text.split())


def test_a_long_text_is_cut_without_losing_or_changing_words():
    text = " ".join(f"word{number}" for number in range(30_000))
    whole = word_hashes(text)
    single = np.concatenate([word_hashes(word) for word in text.split()])
    assert np.array_equal(whole, single)
    runs = "... --- " * 30_000
    assert np.array_equal(word_hashes(runs), np.tile(word_hashes("... ---"), 30_000))


@pytest.mark.slow
def test_a_long_text_takes_little_more_memory_than_itself():
    text = "ab cd " * 1_000_000
    tracemalloc.start()
    try:
        assert len(word_hashes(text)) == 2_000_000
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_the_table_of_known_words_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(words_module, "_CACHED_WORDS", 100)
    first = word_hashes(" ".join(f"v{number}" for number in range(1000)))
    assert len(words_module._hashes) <= 100
    assert np.array_equal(first, word_hashes(" ".join(f"v{number}" for number in range(1000))))
    word_hashes("y" * 1000)
    assert b"y" * 1000 not in words_module._hashes


def test_normal_forms_are_those_of_unicode_for_ordinary_words():
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert same(unicodedata.normalize(form, "Ελληνικά Việt Nam"), "ελληνικά việt nam")
