"""Statistics of whole folders: held against what was packed, and refused where a folder is damaged."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.account import tokens as token_module
from vitruvius.data.account.statistics import PARTS, statistics
from vitruvius.data.account.tokens import document_blocks, frequency_summary
from vitruvius.data.packing.index import shard_of
from vitruvius.data.packing.writing import SplitWriter
from vitruvius.data.tokenization.tokenizer import load_tokenizer
from vitruvius.errors import DataError, UsageError


def test_counts_by_split_and_source_add_up(folder):
    found = statistics(folder)
    assert [split["documents"] for split in found["splits"]] == [18, 6]
    assert [(source["name"], source["documents"]) for source in found["sources"]] == [("code", 7), ("web", 17)]
    for key in ("documents", "tokens", "text_tokens", "text_bytes"):
        assert sum(split[key] for split in found["splits"]) == found["whole"][key]
        assert sum(source[key] for source in found["sources"]) == found["whole"][key]
        for source in found["sources"]:
            assert sum(part[key] for part in source["splits"].values()) == source[key]
    whole = found["whole"]
    assert whole["text_tokens"] == whole["tokens"] - 24
    assert whole["bytes_per_token"] == whole["text_bytes"] / whole["text_tokens"]


def test_in_is_out_and_dropped_by_sort(folder):
    funnel = statistics(folder, skip=PARTS)["funnel"]
    assert funnel["documents_in"] == funnel["documents_out"] + sum(row["documents"] for row in funnel["dropped"])
    assert [(row["reason"], row["sort"], row["documents"]) for row in funnel["dropped"]] == [
        ("invalid_json", "damage", 1),
        ("blank_line", "harmless", 1),
        ("exact_duplicate", "duplicate", 4),
        ("near_duplicate", "duplicate", 3),
    ]
    assert all(row["meaning"] for row in funnel["dropped"])


def test_clusters_and_similarities_are_those_of_the_quarantine(folder):
    found = statistics(folder)["duplicates"]
    assert (found["near"]["clusters"], found["near"]["largest"]) == (2, 3)
    assert found["exact"]["sizes"] == [{"from": 5, "to": 8, "clusters": 1, "documents": 5}]
    assert found["jaccard"]["lowest"] == 0.81
    bins = {round(row["from"], 2): row["documents"] for row in found["jaccard"]["histogram"] if row["documents"]}
    assert bins == {0.8: 1, 0.98: 2}


def test_hosts_are_counted_without_www_and_what_is_no_address_apart(folder):
    hosts = statistics(folder)["hosts"]
    assert hosts["documents_without"] == 12
    assert hosts["top"] == [{"name": f"site{number}.org", "count": 4} for number in range(3)]
    assert (hosts["distinct"], hosts["short_by_at_most"]) == (3, 0)


def test_occurrences_of_tokens_are_those_in_the_shards(folder):
    found = statistics(folder)["tokens"]
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    for split in ("train", "validation"):
        files = sorted((folder / split).glob("*.bin"))
        counts = Counter(np.concatenate([np.fromfile(file, dtype="<u2") for file in files]).tolist())
        separators = counts.pop(tokenizer.eos_id)
        part = found[split]
        assert (part["separators"], part["text_tokens"]) == (separators, counts.total())
        assert (part["used"], part["unused"]) == (len(counts), tokenizer.vocab_size - 1 - len(counts))
        order = sorted(counts, key=lambda token: (-counts[token], token))
        assert [row["id"] for row in part["most_frequent"]] == order[:25]
        entropy = -sum(count / counts.total() * math.log2(count / counts.total()) for count in counts.values())
        assert part["entropy_bits"] == pytest.approx(entropy, abs=1e-12)
        assert part["ranks"][0]["count"] == counts[order[0]]
        assert part["ranks"][-1] == {"rank": len(order), "count": counts[order[-1]]}


def test_a_vocabulary_that_follows_the_law_has_its_exponent():
    counts = np.concatenate([[7], np.round(1e9 / np.arange(1, 128_256) ** 1.1)]).astype(np.int64)
    found = frequency_summary(counts, token_bytes=[b"x"] * len(counts), eos_id=0)
    assert found["zipf"]["exponent"] == pytest.approx(1.1, abs=1e-3)
    assert found["zipf"]["r_squared"] > 0.9999
    assert found["zipf"]["line_at_rank_1"] == pytest.approx(1e9, rel=0.01)
    assert found["unused"] == 0


def test_a_vocabulary_without_text_has_neither_law_nor_entropy():
    found = frequency_summary(np.zeros(300, dtype=np.int64), token_bytes=[b""] * 300, eos_id=0)
    assert (found["zipf"], found["entropy_bits"], found["used"], found["ranks"]) == (None, None, 0, [])
    assert (found["unused"], found["unused_special"], found["most_frequent"]) == (299, 299, [])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 20))
def test_blocks_hold_whole_documents_in_order(tmp_path_factory, lengths, block):
    folder = tmp_path_factory.mktemp("x")
    writer = SplitWriter(folder, "train", vocab_size=50, shard_tokens=10**6)
    documents = [[*range(1, length), 0] for length in lengths]
    for document in documents:
        writer.add(document, text_bytes=1)
    shard = shard_of(folder, writer.close()["shards"][0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_module, "BLOCK_TOKENS", block)
        found: list[list[int]] = []
        for tokens, sizes in document_blocks(shard, dtype="<u2", vocab_size=50):
            assert len(tokens) <= max(block, *sizes) or len(sizes) == 1
            assert len(tokens) == sizes.sum()
            found += [part.tolist() for part in np.split(tokens, np.cumsum(sizes)[:-1])]
    assert found == documents


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_and_a_single_document_are_told_too(make, split):
    found = statistics(make(**{split: [("one.txt", "a")]}))
    assert found["whole"]["documents"] == 1
    other = "validation" if split == "train" else "train"
    assert found["lengths"][other] is None
    assert found["lengths"][split]["quantiles"]["0.5"] == 2
    assert found["overlap"] is None
    assert found["hosts"]["counted"] == 0


def test_data_without_a_document_is_told_too(make, dropped):
    found = statistics(make(dropped=dropped))
    assert found["whole"] == {"documents": 0, "tokens": 0, "text_tokens": 0, "text_bytes": 0, "bytes_per_token": None}
    assert found["lengths"]["all"] is None
    assert found["funnel"]["documents_out"] == 0


def test_parts_can_be_left_out(folder, monkeypatch):
    monkeypatch.setattr("vitruvius.data.account.statistics.document_blocks", None)
    found = statistics(folder, skip=PARTS)
    assert [found[part] for part in PARTS] == [None] * 4
    assert found["lengths"]["all"]["documents"] == 24
    with pytest.raises(UsageError, match="no part 'everything'"):
        statistics(folder, skip=("everything",))
    with pytest.raises(UsageError, match="n-grams of 0"):
        statistics(folder, ngram=0)


def test_everything_is_plain_json_and_the_same_each_time(folder):
    first, second = statistics(folder), statistics(folder)
    assert json.loads(json.dumps(first, allow_nan=False)) == first == second


# ------------------------------------------------------------------------------------------------------------- damage


def swap_bytes(path):
    content = bytearray(path.read_bytes())
    content[:2], content[2:4] = content[2:4], content[:2]
    path.write_bytes(content)


def edit_json(name, change):
    def damage(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return damage


DAMAGES = {
    "no index": (lambda folder: (folder / "index.json").unlink(), "not prepared data"),
    "no counts": (lambda folder: (folder / "counts.json").unlink(), "the counts are missing"),
    "counts no JSON": (lambda folder: (folder / "counts.json").write_text("{"), "cannot be read"),
    "counts nested": (lambda folder: (folder / "counts.json").write_text("[" * 100_000), "cannot be read"),
    "counts a list": (lambda folder: (folder / "counts.json").write_text("[]"), "damaged"),
    "counts unbalanced": (edit_json("counts.json", lambda c: c.update(documents_in=3)), "3 in is not 24 out"),
    "counts negative": (edit_json("counts.json", lambda c: c["dropped"].update(blank_line=-1)), "dropped.blank_line"),
    "counts changed odd": (edit_json("counts.json", lambda c: c.update(changed={"a.b": "x"})), "changed.a.b"),
    "tokens gone": (lambda folder: (folder / "train/shard-00001.bin").unlink(), "missing"),
    "tokens short": (lambda folder: (folder / "train/shard-00001.bin").write_bytes(b"\0"), "1 bytes"),
    "tokens changed": (lambda folder: swap_bytes(folder / "train/shard-00000.bin"), "SHA-256"),
    "tokens too large": (
        lambda folder: (folder / "train/shard-00000.bin").write_bytes(
            b"\xff\xff" * ((folder / "train/shard-00000.bin").stat().st_size // 2)
        ),
        "token 65535 at byte 0 is not below the vocabulary size 300",
    ),
    "starts gone": (lambda folder: (folder / "train/shard-00000.idx").unlink(), "missing"),
    "origins gone": (lambda folder: (folder / "train/shard-00000.origins.jsonl.gz").unlink(), "missing"),
    "origins no gzip": (lambda folder: (folder / "train/shard-00000.origins.jsonl.gz").write_bytes(b"x"), "damaged"),
    "origins cut": (
        lambda folder: (folder / "train/shard-00000.origins.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a"}\n')),
        "1 origins, and the shard has",
    ),
    "origins a list": (
        lambda folder: (folder / "train/shard-00000.origins.jsonl.gz").write_bytes(gzip.compress(b"[]\n")),
        "line 1 is no JSON object",
    ),
    "tokenizer gone": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer is missing"),
    "tokenizer changed": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "differs"),
    "vocabulary endless": (
        edit_json("index.json", lambda index: index.update(vocab_size=2**62)),
        "the tokenizer has 300",
    ),
    "separator another": (edit_json("index.json", lambda index: index.update(eos_id=5)), "with the separator 5"),
    "quarantine gone": (lambda folder: (folder / "quarantine.jsonl").unlink(), "quarantine is missing"),
    "quarantine cut": (lambda folder: (folder / "quarantine.jsonl").write_text('{"reason": "x"'), "line 1 is not JSON"),
    "quarantine nested": (lambda folder: (folder / "quarantine.jsonl").write_text("[" * 100_000), "line 1"),
    "quarantine short": (lambda folder: (folder / "quarantine.jsonl").write_text(""), "0 rows of 'blank_line'"),
    "quarantine other": (
        lambda folder: (folder / "quarantine.jsonl").write_text('{"reason": 7}\n{"reason": "\\u001b[2J"}\n'),
        "rows of ''",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_with_the_place(folder, damage):
    hurt, message = DAMAGES[damage]
    hurt(folder)
    with pytest.raises(DataError) as caught:
        statistics(folder)
    assert message in str(caught.value)
    assert caught.value.where.startswith(str(folder))
    assert caught.value.fix


def test_a_row_without_an_end_is_not_read_into_memory(folder, monkeypatch):
    monkeypatch.setattr("vitruvius.data.account.folder.LONGEST_ROW", 100)
    (folder / "quarantine.jsonl").write_text('{"detail": "' + "x" * 1000)
    with pytest.raises(DataError, match="line 1 is over 100 bytes"):
        statistics(folder)
