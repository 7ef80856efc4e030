"""Shards: damage has a file and an offset, and a stream reads the same across shards."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.packing.shards import BLOCK_BYTES, TokenShards, dtype_for, read_index
from vitruvius.data.packing.writing import SplitWriter, fingerprint_of
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

np = pytest.importorskip("numpy")

EOS = 0


def build(folder: Path, documents: list[list[int]], *, vocab_size: int = 300, shard_tokens: int = 10**9) -> Path:
    """Data with these documents in `train`; each must end with the separator to be valid."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SplitWriter(folder, "train", vocab_size=vocab_size, shard_tokens=shard_tokens)
    for ids in documents:
        writer.add(ids, text_bytes=len(ids) - 1)
    empty = {"documents": 0, "tokens": 0, "text_bytes": 0, "sources": {}, "shards": []}
    index = {
        "schema": "vitruvius.data/2",
        "vocab_size": vocab_size,
        "dtype": dtype_for(vocab_size),
        "eos": "<|endoftext|>",
        "eos_id": EOS,
        "tokenizer": {"file": "tokenizer.json", "sha256": "0" * 64},
        "splits": {"train": writer.close(), "validation": empty},
    }
    index["fingerprint"] = fingerprint_of(index)
    (folder / "index.json").write_text(json.dumps(index))
    return folder


DOCUMENTS = [[1, 2, 3, EOS], [4, EOS], [5, 6, 7, 8, 9, EOS], [EOS], [10, 11, EOS]]


@pytest.mark.parametrize("shard_tokens", [1, 4, 5, 100], ids=str)
@given(data=st.data())
def test_reading_across_shards_equals_reading_the_stream(tmp_path_factory, shard_tokens, data):
    shards = TokenShards.open(build(tmp_path_factory.mktemp("s"), DOCUMENTS, shard_tokens=shard_tokens))
    stream = list(chain.from_iterable(DOCUMENTS))
    start = data.draw(st.integers(0, len(stream)))
    stop = data.draw(st.integers(start, len(stream)))
    found = shards.read(start, stop)
    assert found.dtype == np.int64
    assert found.tolist() == stream[start:stop]


@pytest.mark.parametrize("shard_tokens", [1, 4, 5, 100], ids=str)
@given(data=st.data())
def test_every_token_knows_its_document_across_shards(tmp_path_factory, shard_tokens, data):
    stream = TokenShards.open(build(tmp_path_factory.mktemp("s"), DOCUMENTS, shard_tokens=shard_tokens)).stream
    owners = [number for number, document in enumerate(DOCUMENTS) for _ in document]
    edges = [0, 4, 6, 12, 13, 16]
    start = data.draw(st.integers(0, len(owners)))
    stop = data.draw(st.integers(start, len(owners)))
    assert stream.documents_at(start, stop).tolist() == owners[start:stop]
    for place in range(start, stop):
        number = owners[place]
        assert stream.document_of(place) == (number, edges[number], edges[number + 1])
    first = data.draw(st.integers(0, len(DOCUMENTS)))
    last = data.draw(st.integers(first, len(DOCUMENTS)))
    assert stream.starts(first, last).tolist() == edges[first : last + 1]


@pytest.mark.parametrize("shard_tokens", [1, 4, 100], ids=str)
def test_documents_come_back_with_their_separator(tmp_path, shard_tokens):
    shards = TokenShards.open(build(tmp_path, DOCUMENTS, shard_tokens=shard_tokens))
    assert [shards.document(i).tolist() for i in range(shards.documents)] == DOCUMENTS
    assert shards.document_starts.tolist() == [0, 4, 6, 12, 13, 16]
    assert (shards.tokens, shards.documents, shards.text_bytes) == (16, 5, 11)
    shards.validate()


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "<u2"), (65_537, "<u4")], ids=str)
def test_tokens_take_two_bytes_as_long_as_every_id_fits(tmp_path, vocab_size, dtype):
    last = vocab_size - 1
    shards = TokenShards.open(build(tmp_path, [[last, EOS]], vocab_size=vocab_size))
    assert shards.dtype == dtype
    assert shards.read(0, 2).tolist() == [last, EOS]
    shards.validate()


def test_the_files_are_raw_little_endian_integers(tmp_path):
    build(tmp_path, [[258, 1, EOS], [2, EOS]])
    assert (tmp_path / "train" / "shard-00000.bin").read_bytes() == b"\x02\x01\x01\x00\x00\x00\x02\x00\x00\x00"
    starts = (tmp_path / "train" / "shard-00000.idx").read_bytes()
    assert [int.from_bytes(starts[i : i + 8], "little") for i in (0, 8, 16)] == [0, 3, 5]


@pytest.mark.parametrize("change", [-1, 1], ids=["short", "long"])
@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_a_file_of_another_length_is_named_with_the_place(tmp_path, change, suffix):
    build(tmp_path, DOCUMENTS)
    path = tmp_path / "train" / f"shard-00000.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"\0")
    at = min(len(content), len(content) + change)
    with pytest.raises(DataError, match=rf"shard-00000\.{suffix}\n.* at byte {at}:"):
        TokenShards.open(tmp_path, verify="sizes")


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_a_missing_file_is_named(tmp_path, suffix):
    build(tmp_path, DOCUMENTS)
    (tmp_path / "train" / f"shard-00000.{suffix}").unlink()
    with pytest.raises(DataError, match=rf"shard-00000\.{suffix}\n.*missing"):
        TokenShards.open(tmp_path)


@given(position=st.integers(0, 31), bit=st.integers(0, 7))
def test_one_flipped_bit_is_found_when_opening(tmp_path_factory, position, bit):
    folder = build(tmp_path_factory.mktemp("s"), DOCUMENTS)
    path = folder / "train" / "shard-00000.bin"
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00000\.bin\n.*between bytes 0 and 32"):
        TokenShards.open(folder)


def test_damage_in_a_large_shard_has_the_address_of_its_block(tmp_path):
    build(tmp_path, [[1] * 3_000_000 + [EOS], [2] * 3_000_000 + [EOS]])
    path = tmp_path / "train" / "shard-00000.bin"
    TokenShards.open(tmp_path)
    with path.open("r+b") as file:
        file.seek(BLOCK_BYTES + 5)
        file.write(b"\xff")
    with pytest.raises(DataError, match=rf"between bytes {BLOCK_BYTES:,} and {2 * BLOCK_BYTES:,}"):
        TokenShards.open(tmp_path)
    TokenShards.open(tmp_path, verify="sizes")


def test_the_recorded_hash_is_that_of_the_whole_file(tmp_path):
    import hashlib

    build(tmp_path, [[1] * 3_000_000 + [EOS], [2, EOS]])
    (shard,) = TokenShards.open(tmp_path).shards
    assert shard.sha256 == hashlib.sha256(shard.tokens_path.read_bytes()).hexdigest()
    assert len(shard.blocks) == 2


@pytest.mark.parametrize("vocab_size", [300, 70_000], ids=str)
def test_validate_names_the_first_token_past_the_vocabulary(tmp_path, vocab_size):
    item = 2 if vocab_size <= 65_536 else 4
    shards = TokenShards.open(build(tmp_path, [[1, 2, EOS], [vocab_size, EOS]], vocab_size=vocab_size))
    with pytest.raises(DataError, match=rf"shard-00000\.bin\n.*token {vocab_size} at byte {3 * item} "):
        shards.validate()


def test_validate_refuses_a_token_of_two_to_the_31(tmp_path):
    shards = TokenShards.open(build(tmp_path, [[2**31 - 1, EOS]], vocab_size=70_000))
    with pytest.raises(DataError, match="token 2147483647 at byte 0"):
        shards.validate()


def test_validate_names_a_document_that_nothing_ends(tmp_path):
    shards = TokenShards.open(build(tmp_path, [[1, EOS], [2, 3]]))
    with pytest.raises(DataError, match="document 1 does not end with the separator, near token 3"):
        shards.validate()


def test_validate_names_an_empty_document(tmp_path):
    shards = TokenShards.open(build(tmp_path, [[1, EOS], [], [2, EOS]]))
    with pytest.raises(DataError, match=r"shard-00000\.idx\n.*byte 16 is out of order"):
        shards.validate()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema": "vitruvius.data/9"}', "\x00"], ids=repr)
def test_a_damaged_index_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(DataError, match=r"index\.json"):
        read_index(tmp_path)


def test_an_index_that_lacks_a_key_is_an_error_that_names_it(tmp_path):
    index = read_index(build(tmp_path, DOCUMENTS))
    for key in index.keys() - {"schema", "settings", "eos", "tokenizer"}:
        less = {name: value for name, value in index.items() if name != key}
        (tmp_path / "index.json").write_text(json.dumps(less))
        with pytest.raises(DataError, match=key):
            TokenShards.open(tmp_path)


def test_a_folder_without_an_index_is_no_data(tmp_path):
    with pytest.raises(DataError, match=r"no index\.json"):
        TokenShards.open(tmp_path)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="no split 'test'"):
        TokenShards.open(build(tmp_path, DOCUMENTS), "test")


def test_the_fingerprint_depends_on_the_tokens_and_not_on_where_they_lie(tmp_path):
    prints = [
        TokenShards.open(build(tmp_path / name, documents)).fingerprint
        for name, documents in {"a": DOCUMENTS, "b": DOCUMENTS, "c": DOCUMENTS[::-1]}.items()
    ]
    assert prints[0] == prints[1] != prints[2]
