"""GGUF: headers read strictly, and the tokenizers in them."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.tokenization.gguf import Header, read_header
from vitruvius.data.tokenization.tokenizer import Tokenizer, TrainOptions, load_tokenizer, train
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("tokenizers")

TEXTS = ["the quick brown fox jumps over the lazy dog in 1984\n" * 20, "Größe, naïveté, 日本語, \U0001f600\n" * 10]


def text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(content)) + content


def value(of: Any) -> bytes:
    """A value with its type before it."""
    match of:
        case bool():
            return struct.pack("<IB", 7, of)
        case int():
            return struct.pack("<II", 4, of)
        case float():
            return struct.pack("<If", 6, of)
        case str():
            return struct.pack("<I", 8) + text(of)
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(of)}f", 9, 6, len(of), *of)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(of)}i", 9, 5, len(of), *of)
        case bytes():
            return struct.pack("<IIQ", 9, 0, len(of)) + of
        case _:
            return struct.pack("<IIQ", 9, 8, len(of)) + b"".join(map(text, of))


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(metadata: dict[str, Any], tensors: tuple[bytes, ...] = (), weights: int = 0, *, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    body = head + b"".join(text(key) + value(of) for key, of in metadata.items()) + b"".join(tensors)
    return body + b"\0" * (-len(body) % 32) + b"\0" * weights


def header(path: Path, content: bytes) -> Header:
    (path / "m.gguf").write_bytes(content)
    return read_header(path / "m.gguf")


GOOD = file(
    {"general.name": "x", "a.count": 3, "a.list": [1, 2, 3], "a.words": ["b", "ü"], "a.yes": True, "a.part": 0.5},
    (tensor("one", (32, 2), 0, 0), tensor("two", (64,), 2, 256)),
    weights=256 + 36,
)


def test_metadata_and_places_of_tensors_are_read(tmp_path):
    found = header(tmp_path, GOOD)
    assert (found.version, found.text("general.name"), found.whole("a.count")) == (3, "x", 3)
    assert list(found.numbers("a.list") or ()) == [1, 2, 3]
    assert (found.texts("a.words"), found.truth("a.yes", "false")) == (["b", "ü"], True)
    one, two = found.tensors
    assert (one.shape, one.type, one.offset, one.bytes) == ((32, 2), "F32", found.data_start, 256)
    assert (two.type, two.offset, two.bytes) == ("Q4_0", found.data_start + 256, 36)
    assert found.data_start + 256 + 36 == len(GOOD)


def test_a_file_cut_anywhere_is_an_error_that_names_it(tmp_path):
    for kept in range(len(GOOD)):
        with pytest.raises(DataError, match=r"m\.gguf"):
            header(tmp_path, GOOD[:kept])


@given(flips=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_file_with_changed_bytes_is_read_or_refused(tmp_path_factory, flips):
    content = bytearray(GOOD)
    for place, byte in flips:
        content[place] = byte
    try:
        found = header(tmp_path_factory.getbasetemp(), bytes(content))
    except DataError:
        return
    assert all(place.offset + (place.bytes or 0) <= len(content) for place in found.tensors)


def counts(tensors: int, entries: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "2^63 entries": (counts(0, 2**63), "9,223,372,036,854,775,808 metadata entries"),
    "2^63 tensors": (counts(2**63, 0), "9,223,372,036,854,775,808 tensors"),
    "more entries than bytes": (counts(0, 1000), "1,000 metadata entries"),
    "a key of 2^60 bytes": (counts(0, 1) + struct.pack("<Q", 2**60) + b"\0" * 99, "1,152,921,504,606,846,976 bytes"),
    "a list of 2^63": (counts(0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**63) + b"\0" * 99, "elements of"),
    "a list longer than the file": (
        counts(0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**20) + b"\0" * 99,
        "1,048,576 elements",
    ),
    "lists in lists": (
        counts(0, 1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9 + b"\0" * 99,
        "list in a list",
    ),
    "an unknown type": (counts(0, 1) + text("k") + struct.pack("<I", 99) + b"\0" * 99, "unknown type 99"),
    "a truth of 2": (counts(0, 1) + text("k") + struct.pack("<IB", 7, 2) + b"\0" * 99, "truth value of 2"),
    "a tensor past the end": (file({}, (tensor("t", (2**20,), 0, 0),), 64), "past the end"),
    "a tensor of 2^63": (file({}, (tensor("t", (2**63,), 0, 0),), 64), "past the end"),
    "an offset of 2^63": (file({}, (tensor("t", (1,), 0, 2**63),), 64), "past the end"),
    "tensors over each other": (
        file({}, (tensor("t", (16,), 0, 0), tensor("u", (16,), 0, 32)), 128),
        "over each other",
    ),
    "tensors of one name": (file({}, (tensor("t", (8,), 0, 0), tensor("t", (8,), 0, 32)), 64), "one name"),
    "an odd offset": (file({}, (tensor("t", (1,), 0, 3),), 64), "no multiple of 32"),
    "half a block": (file({}, (tensor("t", (16,), 2, 0),), 64), "no whole blocks"),
    "99 dimensions": (file({}, (tensor("t", (1,) * 99, 0, 0),), 64), "99 dimensions"),
    "an alignment of 0": (file({"general.alignment": 0}), "general.alignment"),
    "one key twice": (counts(0, 2) + (text("k") + value(1)) * 2 + b"\0" * 64, "twice"),
    "version 1": (file({}, version=1), "version 1"),
    "big-endian": (file({}, version=0x03000000), "big-endian"),
    "another format": (b"PK\3\4" + b"\0" * 99, "no GGUF"),
    "nothing": (b"", "4 bytes"),
}


@pytest.mark.parametrize(("content", "said"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_header_is_an_error_that_says_what(tmp_path, content, said):
    with pytest.raises(DataError, match=r"m\.gguf") as caught:
        header(tmp_path, content)
    assert said in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------------
# Tokenizers


def tokens_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """A byte-level tokenizer as the metadata of a GGUF file."""
    model = tokenizer.definition.model
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    added = tokenizer.definition.added
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in added else 1 for token in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_id,
    }


BPE = train(TEXTS, TrainOptions(vocab_size=340, specials=("<|begin|>", "<|end|>")))
METADATA = tokens_of(BPE)


def load(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    (path / "m.gguf").write_bytes(file(metadata))
    return load_tokenizer(path / "m.gguf")


@pytest.mark.parametrize("sample", [*TEXTS, "", " a  b\n\n c 1234567 <|end|>", "\u0661\u0662\u0663 x's X'S"])
def test_a_byte_level_tokenizer_encodes_as_the_one_it_was_made_from(tmp_path, sample):
    loaded = load(tmp_path, METADATA)
    assert (loaded.eos, loaded.eos_id, loaded.vocab_size) == ("<|begin|>", 0, BPE.vocab_size)
    assert loaded.encode(sample) == BPE.encode(sample)
    assert loaded.decode(loaded.encode(sample)) == sample


def test_it_is_kept_as_a_tokenizer_json_that_is_the_same(tmp_path):
    loaded = load(tmp_path, METADATA)
    loaded.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json", eos=loaded.eos)
    assert again.fingerprint == loaded.fingerprint
    assert again.encode(TEXTS[0]) == loaded.encode(TEXTS[0])


def sentencepiece(**more: Any) -> dict[str, Any]:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    scored = {"▁": -9.0, "t": -9.1, "h": -9.2, "e": -9.3, "▁t": -1.0, "he": -0.5, "▁the": -2.0, "th": -3.0}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*pieces, *scored],
        "tokenizer.ggml.scores": [*[0.0] * len(pieces), *scored.values()],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(scored)],
        "tokenizer.ggml.eos_token_id": 2,
    } | more


def test_pieces_are_merged_by_their_scores_and_other_characters_become_bytes(tmp_path):
    loaded = load(tmp_path, sentencepiece())
    pieces = [loaded.token_bytes[token] for token in loaded.encode("the é")]
    # "he" has a better score than "▁t", which leads to "▁the" all the same; "th" is never made.
    assert pieces == [b" the", b" ", b"\xc3", b"\xa9"]
    assert loaded.decode(loaded.encode(" the  é\n")) == " the  é\n"
    assert loaded.kind == "byte-pair encoding with byte fallback"


def test_the_library_reads_what_is_saved_and_gives_the_same_ids(tmp_path):
    from tokenizers import Tokenizer as Inner

    for metadata in (METADATA, sentencepiece(), sentencepiece(**{"tokenizer.ggml.model": "t5"})):
        loaded = load(tmp_path, metadata)
        loaded.save(tmp_path / "tokenizer.json")
        theirs = Inner.from_file(str(tmp_path / "tokenizer.json"))
        for sample in (TEXTS[0], "the the é", " the  fox"):
            assert theirs.encode(sample, add_special_tokens=False).ids == loaded.encode(sample)


def test_without_the_space_before_a_text_the_first_space_is_kept(tmp_path):
    loaded = load(tmp_path, sentencepiece(**{"tokenizer.ggml.add_space_prefix": False}))
    assert [loaded.decode(loaded.encode(sample)) for sample in ("the", " the")] == ["the", " the"]
    assert loaded.token_bytes[loaded.encode("the")[0]] == b"t"


def test_a_unigram_takes_the_likeliest_pieces(tmp_path):
    metadata = sentencepiece(**{"tokenizer.ggml.model": "t5"})
    loaded = load(tmp_path, metadata)
    # -1.0 and -0.5 are better than -2.0.
    assert [loaded.token_bytes[token] for token in loaded.encode("the")] == [b" t", b"he"]
    assert loaded.decode(loaded.encode("the é")) == "the é"


def test_word_pieces_have_their_marks_turned_around(tmp_path):
    tokens = ["[UNK]", "[SEP]", "▁the", "▁t", "h", "e", "▁,"]
    loaded = load(
        tmp_path,
        {
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [2, 3, 1, 1, 1, 1, 1],
            "tokenizer.ggml.eos_token_id": 1,
        },
    )
    assert loaded.encode("Thé, th") == [2, 6, 3, 4]  # accents go with the capitals
    assert loaded.decode([2, 6, 3, 4]) == "the , th"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no tokenizer": ({"general.name": "x"}, "no tokenizer"),
    "an unknown kind": (METADATA | {"tokenizer.ggml.model": "rwkv"}, "rwkv"),
    "an unknown split": (METADATA | {"tokenizer.ggml.pre": "klingon"}, "klingon"),
    "no tokens": ({"tokenizer.ggml.model": "gpt2"}, "no tokens"),
    "a token twice": (
        METADATA | {"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1]},
        "both 'a'",
    ),
    "too few types": (METADATA | {"tokenizer.ggml.token_type": [1]}, "1 entries for 322"),
    "no merges": ({k: v for k, v in METADATA.items() if "merges" not in k}, "no merges"),
    "an eos of 2^31-1": (METADATA | {"tokenizer.ggml.eos_token_id": 2**31 - 1}, "2,147,483,647"),
    "tokens that are numbers": (METADATA | {"tokenizer.ggml.tokens": [1, 2]}, "no list of texts"),
    "a token that is not UTF-8": (sentencepiece(**{"tokenizer.ggml.tokens": ["a", "\udcff"] + ["x"] * 265}), "both"),
    "tokens of 1,025 characters": (
        sentencepiece(**{"tokenizer.ggml.tokens": [f"{place:x<1025}" for place in range(267)]}),
        "1,025 characters",
    ),
    "tokens of five million characters": (
        sentencepiece(**{"tokenizer.ggml.tokens": [f"{place:x<20000}" for place in range(267)]}),
        "5,340,000 characters",
    ),
    "an unknown of its own": (sentencepiece(**{"tokenizer.ggml.unknown_token_id": 9_999}), "9,999"),
}


@pytest.mark.parametrize(("metadata", "said"), BAD.values(), ids=BAD.keys())
def test_a_tokenizer_with_something_wrong_is_an_error_that_says_what(tmp_path, metadata, said):
    with pytest.raises(DataError) as caught:
        load(tmp_path, metadata)
    assert said in str(caught.value)


def test_random_headers_end_in_an_error_or_a_header(tmp_path):
    draw = random.Random(0)
    whole = bytearray(file(METADATA))
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.randrange(1, 30)):
            content[draw.randrange(min(len(content), 4_000))] = draw.randrange(256)
        (tmp_path / "m.gguf").write_bytes(content)
        try:
            load_tokenizer(tmp_path / "m.gguf", eos="<|begin|>")
        except DataError as error:
            assert "m.gguf" in str(error)
