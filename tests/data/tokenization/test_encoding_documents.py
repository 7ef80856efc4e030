"""Documents of any length are encoded whole, in pieces and word by word, and nothing of it shows in the ids."""

from __future__ import annotations

import itertools
import json
import random
import re
import sysconfig
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.tokenization import documents, patterns, words
from vitruvius.data.tokenization.documents import cut, library_ids
from vitruvius.data.tokenization.sealing import sealed
from vitruvius.data.tokenization.tokenizer import Tokenizer, TrainOptions, train

tokenizers = pytest.importorskip("tokenizers")
np = pytest.importorskip("numpy")

TEXTS = [
    "the quick brown fox jumps over the lazy dog, isn't it? I'LL 12345\n" * 20,
    "def f(x):\n    return x + 12345\n\n\n" * 20,
    "Größe, naïveté, 日本語, \U0001f600 \u0301\n" * 10,
]


def splitting(*patterns_: str, **more: Any) -> Tokenizer:
    """A byte-level tokenizer with other word splits."""
    state = json.loads(train(TEXTS, TrainOptions(vocab_size=400)).text)
    steps = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns_]
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return Tokenizer(state | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, last]}} | more)


def sentencepiece() -> Tokenizer:
    vocabulary = {"<unk>": 0, "</s>": 1} | {f"<0x{byte:02X}>": 2 + byte for byte in range(256)}
    for text in ["▁", *"abcdefghijklmnopqrstuvwxyz", "th", "▁th", "▁the", "▁the▁", "he", "▁▁", "▁▁▁▁"]:
        vocabulary[text] = len(vocabulary)
    merges = ["▁ ▁", "▁▁ ▁▁", "t h", "▁ th", "h e", "▁th e", "▁the ▁"]
    marks = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    return Tokenizer(
        {
            "normalizer": {"type": "Sequence", "normalizers": marks},
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "byte_fallback": True, "vocab": vocabulary, "merges": merges},
        }
    )


MAKERS = {
    "llama3": lambda: train(TEXTS, TrainOptions(vocab_size=400)),
    "gpt2": lambda: train(TEXTS, TrainOptions(vocab_size=400, words="gpt2", digits="runs")),
    "single digits": lambda: train(TEXTS, TrainOptions(vocab_size=400, digits="single")),
    "unigram": lambda: train(TEXTS, TrainOptions(kind="unigram", vocab_size=400)),
    "wordpiece": lambda: train(TEXTS, TrainOptions(kind="wordpiece", vocab_size=400)),
    "gpt-4o": lambda: splitting(patterns.GPT4O),
    "digits first": lambda: splitting(patterns.SINGLE, patterns.GPT2),
    "deepseek": lambda: splitting(patterns.TRIPLES, patterns.HAN_KANA, patterns.DEEPSEEK_V3),
    "bloom": lambda: splitting(patterns.BLOOM),
    "composed": lambda: splitting(patterns.QWEN2, normalizer={"type": "NFC"}),
    "sentencepiece": sentencepiece,
}


@pytest.fixture(scope="module", params=MAKERS.values(), ids=MAKERS.keys())
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param()


@pytest.fixture(scope="module")
def library(tokenizer: Tokenizer) -> Any:
    """The library's tokenizer, which gets each text whole."""
    state, before = sealed(tokenizer.definition)
    if before:
        state |= {"normalizer": tokenizer.definition.state["normalizer"]}
    return tokenizers.Tokenizer.from_str(json.dumps(state))


PARTS = st.one_of(
    st.sampled_from(
        ["a", "Bc", "the", "x's", "'LL", " ", "  ", "\n", "\n\n", "\r\n", "\t", "!", "...", "7", "1234", "é", "e\u0301"]
    ),
    st.sampled_from(["日本", "\u00a0", "\u0301", "½", "٣", "\u200b", "_", "-", "/", "\U0001f600", "ſ", "\x1c", "\x85"]),
    st.text(max_size=3),
)
ANY = st.lists(PARTS, max_size=60).map("".join)


@given(text=ANY)
def test_pieces_put_together_are_the_whole(tokenizer, library, text):
    (whole,) = library_ids(library, [text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE", 4)
        patch.setattr(documents, "BATCH", 16)
        found = list(tokenizer.encode_documents([text, text[: len(text) // 2], "", text]))
    assert [ids.tolist() for ids in (found[0], found[2], found[3])] == [whole.tolist(), [], whole.tolist()]


@given(text=ANY)
def test_cutting_loses_nothing(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE", 3)
        for at in (documents.AT_WORDS, documents.AT_LINES, None):
            assert "".join(cut(text, at)) == text


def test_where_long_texts_are_cut_is_known(tokenizer, request):
    name = request.node.callspec.id
    assert tokenizer.cuts == ("lines" if name == "sentencepiece" else "words")


@pytest.mark.parametrize(
    "state",
    [
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "a b"}, "content": "c"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}},
    ],
    ids=["strip", "across", "pattern"],
)
def test_nothing_is_cut_where_a_normalizer_could_see_it(state):
    assert splitting(patterns.LLAMA3, **state).cuts == "never"


def test_nothing_is_cut_where_the_words_are_not_known():
    assert splitting(r"[^x]+|x+").cuts == "never"
    assert splitting(patterns.SINGLE).cuts == "never"


PLANS = [
    [patterns.GPT2],
    [patterns.LLAMA3],
    [patterns.QWEN2],
    [patterns.LLAMA3_RUNS],
    [patterns.GPT4O],
    [patterns.TEKKEN],
    [patterns.SINGLE, patterns.GPT2],
    [patterns.TRIPLES, patterns.GPT2],
]
LETTERS = "aSlL' \n\r\t!12é中\u0301½٣ſ\x1c\x85\u00a0\u200bǅ"


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: " then ".join(part[:12] for part in plan))
def test_words_are_cut_as_the_library_cuts_them(plan):
    ours = re.compile(words.joined_pattern(list(plan)) or "")
    split = tokenizers.pre_tokenizers.Split
    theirs = tokenizers.pre_tokenizers.Sequence([split(tokenizers.Regex(part), "isolated") for part in plan])
    draw = random.Random(0)
    every = words.every_character()
    samples = ["".join(each) for size in (1, 2, 3) for each in itertools.product(LETTERS, repeat=size)]
    samples += ["".join(draw.choices(LETTERS, k=draw.randrange(4, 16))) for _ in range(3_000)]
    samples += ["".join(draw.choices(every, k=30)) for _ in range(1_000)]
    different = [text for text in samples if ours.findall(text) != [word for word, _ in theirs.pre_tokenize_str(text)]]
    assert different == []


def test_words_that_are_not_remembered_are_encoded_all_the_same(monkeypatch):
    text = " ".join(f"word{number} " + "x" * number for number in range(100))
    expected = train(TEXTS, TrainOptions(vocab_size=300)).encode(text)
    monkeypatch.setattr(words, "MOST_REMEMBERED", 5)
    monkeypatch.setattr(words, "LONGEST_REMEMBERED", 3)
    found = train(TEXTS, TrainOptions(vocab_size=300))
    assert [found.encode(text), found.encode(text)] == [expected, expected]


def test_a_document_of_over_131072_tokens_is_encoded_whole(tokenizer, library):
    text = "".join(TEXTS) * 220
    (found,) = tokenizer.encode_documents([text])
    assert len(found) > 131_072
    assert found.dtype == np.uint32
    assert np.array_equal(found, library_ids(library, [text])[0])


def test_the_result_is_the_callers_to_change():
    (found,) = train(TEXTS, TrainOptions(vocab_size=300)).encode_documents(["abc"])
    found[0] = 7


def test_texts_are_taken_one_after_the_other_as_ids_are_asked_for(monkeypatch):
    monkeypatch.setattr(documents, "BATCH", 100)
    taken: list[int] = []

    def texts():
        for number in range(1_000):
            taken.append(number)
            yield "some words here"

    ids = train(TEXTS, TrainOptions(vocab_size=300)).encode_documents(texts())
    next(ids)
    assert len(taken) < 20


def test_python_memory_does_not_grow_with_the_document():
    tokenizer = train(TEXTS, TrainOptions(vocab_size=300))
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("a*.py"))
    text = "".join(file.read_text(encoding="utf-8") for file in sources)[:80_000]

    def peak(times: int) -> int:
        document = text * times
        tracemalloc.start()
        for _ in tokenizer.encode_documents([document]):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found - 16 * len(document)  # the ids, the pieces of the text, and the ids put together

    peak(2)
    assert peak(24) < peak(6) + 1_000_000


def test_a_lone_surrogate_is_named_wherever_it_is():
    from vitruvius.errors import DataError

    tokenizer = train(TEXTS, TrainOptions(vocab_size=300))
    for text in ("a\ud800", "\U0001f600 a\udfff", "x " * 30_000 + "\ud800"):
        with pytest.raises(DataError, match="lone surrogate"):
            list(tokenizer.encode_documents(["fine", text]))
