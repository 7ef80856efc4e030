"""Tokenizers from files: every model type, folders, and files that are damaged or hostile."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.tokenization.tokenizer import END_OF_TEXT, Tokenizer, TrainOptions, load_tokenizer, train
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("tokenizers")

TEXTS = ["the quick brown fox jumps over the lazy dog, isn't it?\n" * 20, "Größe, naïveté, 日本語, \U0001f600\n" * 10]
BPE = train(TEXTS, TrainOptions(vocab_size=300))
STATE = json.loads(BPE.text)


def write(path: Path, state: Any) -> Path:
    path.write_text(json.dumps(state))
    return path


def sentencepiece_unigram() -> dict[str, Any]:
    letters = sorted(set("".join(TEXTS)) - {" ", "\n"})
    pieces = [["<unk>", 0.0], ["</s>", 0.0], ["▁", -2.0], *[[letter, -4.0] for letter in letters], ["▁the", -1.5]]
    return {
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}, {"id": 1, "content": "</s>", "special": True}],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            ],
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
    }


def bert() -> dict[str, Any]:
    options = TrainOptions(kind="wordpiece", vocab_size=200, specials=("[SEP]", "[CLS]"), case="lowered")
    state = json.loads(train(TEXTS, options).text)
    state["decoder"]["cleanup"] = True
    return state


def word_level() -> dict[str, Any]:
    return {
        "added_tokens": [{"id": 1, "content": "</s>", "special": True}],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "</s>": 1, "the": 2, "fox": 3}, "unk_token": "[UNK]"},
    }


@pytest.fixture(scope="module", params=[sentencepiece_unigram, bert, word_level], ids=lambda make: make.__name__)
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, Any]:
    """A tokenizer here and in the library."""
    from tokenizers import Tokenizer as Inner

    ours = Tokenizer(request.param())
    return ours, Inner.from_str(full(ours))


@given(words=st.lists(st.sampled_from(["the", "quick", "isn't", "it?", "Größe,", ",", ".", "!", "日本"]), max_size=8))
def test_decoding_is_what_the_library_makes_of_the_same_ids(both, words):
    ours, theirs = both
    ids = ours.encode(" ".join(words))
    assert ours.decode(ids) == theirs.decode(ids)
    stream = ours.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == ours.decode(ids)


def full(tokenizer: Tokenizer) -> str:
    """The tokenizer's own file with the fields that the library insists on."""
    state = json.loads(tokenizer.text)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return json.dumps(state | {"added_tokens": [flags | entry for entry in state["added_tokens"]]})


def test_a_stream_after_other_tokens_keeps_its_first_space():
    tokenizer = Tokenizer(sentencepiece_unigram())
    ids = tokenizer.encode("the fox")
    assert tokenizer.decode(ids) == "the fox"
    assert [tokenizer.stream().push(ids[0]), tokenizer.stream(after=ids).push(ids[0])] == ["the", " the"]


def test_kinds_are_named_by_what_they_are():
    kinds = [Tokenizer(make()).kind for make in (sentencepiece_unigram, bert, word_level)]
    assert kinds == ["unigram", "WordPiece", "whole words"]
    assert BPE.kind == "byte-level byte-pair encoding"


@pytest.mark.parametrize("eos", ["<e>", {"content": "<e>", "special": True}], ids=["text", "object"])
def test_a_folder_is_loaded_with_the_separator_its_config_names(tmp_path, eos):
    state = copy.deepcopy(STATE)
    state["added_tokens"].append({"id": 300, "content": "<e>", "special": True})
    write(tmp_path / "tokenizer.json", state)
    write(tmp_path / "tokenizer_config.json", {"eos_token": eos})
    loaded = load_tokenizer(tmp_path)
    assert (loaded.eos, loaded.eos_id) == ("<e>", 300)
    assert load_tokenizer(tmp_path, eos=END_OF_TEXT).eos_id == 0
    assert load_tokenizer(tmp_path / "tokenizer.json").eos == END_OF_TEXT


def test_a_folder_without_a_config_has_the_known_separator(tmp_path):
    BPE.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path).eos == END_OF_TEXT


def test_a_damaged_config_is_named(tmp_path):
    BPE.save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="no regular file"):
        load_tokenizer(tmp_path / "tokenizer.json")


def model(**changes: Any) -> dict[str, Any]:
    return {"model": STATE["model"] | changes}


def vocab(**more: Any) -> dict[str, Any]:
    return model(vocab=STATE["model"]["vocab"] | more)


def normalizer(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}}


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def split(pattern: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [step, STATE["pre_tokenizer"]["pretokenizers"][1]]}}


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "an id of 2^31-1": (vocab(x=2**31 - 1), "2,147,483,647"),
    "a negative id": (vocab(x=-1), "token id -1"),
    "an id that is no integer": (vocab(x=1.5), "1.5"),
    "one id for two tokens": (vocab(xyz=5), "the id 5 belongs"),
    "a token with a lone surrogate": (vocab(**{"\ud800": 300}), "lone surrogate"),
    "a token of 100,000 characters": (vocab(**{"x" * 100_000: 300}), "100,000 characters"),
    "merges of what is not there": (model(merges=[["zzz", "a"]]), "zzz"),
    "merges whose result is not there": (model(merges=[["~", "~"]]), "~~"),
    "merges of nothing": (model(merges=[["", "a"]]), "merge 0"),
    "merges that are no pairs": (model(merges=[["a"]]), "no pair"),
    "merges with three parts": (model(merges=["a b c"]), "no pair"),
    "merges that are no list": (model(merges={"a": "b"}), "merges"),
    "random merges": (model(dropout=0.1), "dropout"),
    "an unknown model": (model(type="Morpheme"), "Morpheme"),
    "a vocabulary that is a list": (model(vocab=[["a", 1]]), "vocabulary"),
    "an empty vocabulary": ({"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}, "no tokens"),
    "an added token without an id": ({"added_tokens": [{"content": "<e>"}]}, "no id"),
    "an added token with id 2^40": ({"added_tokens": [{"id": 2**40, "content": "<e>"}]}, "1,099,511,627,776"),
    "an added token with two ids": (
        {"added_tokens": [{"id": 1, "content": "<e>"}, {"id": 2, "content": "<e>"}]},
        "ids 1 and 2",
    ),
    "a pattern that backtracks": (split("(a+)+$"), "far too long"),
    "a pattern with two ways to match": (split("(a|aa)+$"), "far too long"),
    "a pattern that does not compile": (split("(a"), "no regular expression"),
    "a pattern of 100,000 characters": (split("a" * 100_000), "100,000 characters"),
    "a normalizer that makes text a million times longer": (normalizer(replace("a", "a" * 10**6)), "longer"),
    "normalizers that double a text 20 times": (normalizer(*[replace("a", "aa")] * 20), "1,048,576 times longer"),
    "1,000 normalizers": (normalizer(*[replace("a", "b")] * 1_000), "1,000 steps"),
    "a table of replacements that is damaged": (
        normalizer({"type": "Precompiled", "precompiled_charsmap": "////fw=="}),
        "precompiled_charsmap",
    ),
    "a decoder of an unknown kind": ({"decoder": {"type": "CTC"}}, "CTC"),
    "a decoder that strips ends": (
        {"decoder": {"type": "Strip", "content": " ", "start": 0, "stop": 1}},
        "Strip",
    ),
}


@pytest.mark.slow
def test_a_pattern_that_costs_a_high_power_of_the_text_is_stopped(tmp_path):
    path = write(tmp_path / "tokenizer.json", STATE | split("a*a*a*a*a*b"))
    with pytest.raises(DataError, match="far too long"):
        load_tokenizer(path)


@pytest.mark.parametrize(("change", "said"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_with_something_wrong_is_an_error_that_says_what(tmp_path, change, said):
    path = write(tmp_path / "tokenizer.json", STATE | change)
    with pytest.raises(DataError) as caught:
        load_tokenizer(path)
    assert said in str(caught.value)
    assert "tokenizer.json" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"model": ' * 100_000,
        b'{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}',
        b'{"model": {"type": "Unigram", "vocab": [["a", NaN]], "unk_id": 0}}',
        b'{"model": {"type": "Unigram", "vocab": [["a", 1e400]], "unk_id": 0}}',
        b'{"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}, "added_tokens": []}',
        b'{"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "b"}}',
        b'{"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "max_input_chars_per_word": 99999999}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}}',
        b'{"model": 3}',
        b"\x80\x04\x95",
    ],
    ids=lambda content: content[:60].decode("latin-1"),
)
def test_bytes_that_are_no_tokenizer_are_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        load_tokenizer(path)


def test_a_hostile_pattern_leaves_nothing_on_standard_error(tmp_path):
    path = write(tmp_path / "tokenizer.json", STATE | split("(a+)+$"))
    code = f"""
from vitruvius.data.tokenization.tokenizer import load_tokenizer
from vitruvius.errors import DataError
try:
    load_tokenizer({str(path)!r})
except DataError as error:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_ids_with_holes_are_fine(tmp_path):
    loaded = load_tokenizer(write(tmp_path / "tokenizer.json", STATE | vocab(zzz=5_000)))
    assert loaded.vocab_size == 5_001
    assert loaded.token_bytes[4_999] == b""
    assert loaded.decode(loaded.encode(TEXTS[1])) == TEXTS[1]


def test_merges_as_texts_and_as_pairs_are_the_same():
    texts = Tokenizer(STATE | model(merges=[" ".join(pair) for pair in STATE["model"]["merges"]]))
    assert texts.encode(TEXTS[0]) == BPE.encode(TEXTS[0])


@given(data=st.data())
def test_a_file_with_a_random_change_loads_or_is_refused(data):
    state = copy.deepcopy(STATE)
    place: Any = state
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(st.sampled_from([None, -1, 2**63, "", "a", [], {}, True, 1.5, [[]], {"type": "BPE"}]))
        break
    try:
        loaded = Tokenizer(state)
    except DataError:
        return
    assert all(token < loaded.vocab_size for token in loaded.encode("the quick \U0001f600 fox"))
