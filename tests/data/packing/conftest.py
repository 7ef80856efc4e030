"""Data whose every token tells where it stands, so that a test sees what went where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from vitruvius.data.packing.index import fingerprint_of
from vitruvius.data.packing.shards import DATA_SCHEMA, TokenShards, dtype_for
from vitruvius.data.packing.writing import SplitWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

np = pytest.importorskip("numpy")

EOS = 0
VOCAB = 2**31
EMPTY = {"documents": 0, "tokens": 0, "text_bytes": 0, "sources": {}, "shards": []}


def write_numbered(
    folder: Path,
    sources: Mapping[str, list[int]],
    *,
    shard_tokens: int = 10**9,
    weights: Mapping[str, float] | None = None,
) -> Path:
    """Data with documents of these lengths per source; the tokens of all of them are 1, 2, 3, ... in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SplitWriter(folder, "train", vocab_size=VOCAB, shard_tokens=shard_tokens, weights=weights)
    place = 1
    for source, lengths in sources.items():
        for number, length in enumerate(lengths):
            ids = np.arange(place, place + length)
            writer.add(ids, text_bytes=length, source=source, origin={"id": f"{source}/{number}"})
            place += length
    index = {
        "schema": DATA_SCHEMA,
        "vocab_size": VOCAB,
        "dtype": dtype_for(VOCAB),
        "eos": "<|endoftext|>",
        "eos_id": EOS,
        "tokenizer": {"file": "tokenizer.json", "sha256": "0" * 64},
        "splits": {"train": writer.close(), "validation": EMPTY},
    }
    index["fingerprint"] = fingerprint_of(index)
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def numbered(tmp_path_factory) -> Callable[..., TokenShards]:
    """Open such data: `numbered({"web": [3, 4], "code": [9]}, shard_tokens=5)`, or a list for data without sources."""

    def build(sources, **settings) -> TokenShards:
        named = sources if isinstance(sources, dict) else {"all": sources}
        return TokenShards.open(write_numbered(tmp_path_factory.mktemp("data"), named, **settings))

    return build
