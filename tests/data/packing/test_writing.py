"""The writer: one source a shard, the same bytes every time, and an origin for every document."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc

import pytest

from vitruvius.data.packing import writing
from vitruvius.data.packing.index import MOST_SOURCES, fingerprint_of, read_index
from vitruvius.data.packing.shards import TokenShards
from vitruvius.data.packing.writing import SplitWriter
from vitruvius.errors import DataError

np = pytest.importorskip("numpy")


def rewrite(folder, change):
    """The index with a change made to it, still valid JSON."""
    index = json.loads((folder / "index.json").read_text())
    change(index["splits"]["train"])
    (folder / "index.json").write_text(json.dumps(index))


def test_a_shard_holds_one_source_however_documents_come(tmp_path):
    writer = SplitWriter(tmp_path, "train", vocab_size=300, shard_tokens=6)
    for number in range(12):
        writer.add([number + 1, 5, 0], text_bytes=2, source=("web", "code", "docs")[number % 3])
    entry = writer.close()
    assert [shard["source"] for shard in entry["shards"]] == ["web", "code", "docs", "web", "code", "docs"]
    assert entry["sources"] == {
        name: {"weight": None, "documents": 4, "tokens": 12, "text_bytes": 8} for name in ("code", "docs", "web")
    }
    for shard in entry["shards"]:
        with gzip.open(tmp_path / shard["origins_file"]) as file:
            assert {json.loads(line)["source"] for line in file} == {shard["source"]}
    assert [shard["tokens_file"][-9:-4] for shard in entry["shards"]] == [f"{number:05}" for number in range(6)]


def test_arrays_and_lists_give_the_same_files(tmp_path):
    entries = []
    for name, form in (("list", list), ("u2", lambda ids: np.array(ids, "<u2")), ("i8", np.array)):
        (tmp_path / name).mkdir()
        writer = SplitWriter(tmp_path / name, "train", vocab_size=300, shard_tokens=100)
        for ids in ([7, 1, 0], [0], [299, 0]):
            writer.add(form(ids), text_bytes=1)
        entries.append(writer.close())
    assert entries[0] == entries[1] == entries[2]


def test_hashes_are_those_of_the_files(tmp_path):
    writer = SplitWriter(tmp_path, "train", vocab_size=70_000, shard_tokens=10**9)
    for number in range(3):
        # Two of them are longer than the buffer, and together they are longer than a block.
        writer.add(np.full(700_000, number + 1), text_bytes=1, origin={"id": f"d{number}"})
    (shard,) = writer.close()["shards"]
    for key in ("tokens", "starts", "origins"):
        content = (tmp_path / shard[f"{key}_file"]).read_bytes()
        digest = shard["sha256" if key == "tokens" else f"{key}_sha256"]
        assert hashlib.sha256(content).hexdigest() == digest
        if key == "tokens":
            blocks = [content[i : i + 2**22] for i in range(0, len(content), 2**22)]
            assert [hashlib.sha256(block).hexdigest() for block in blocks] == shard["blocks"]
        if key == "origins":
            assert len(content) == shard["origins_bytes"]


def test_equal_documents_give_equal_bytes(tmp_path, numbered):
    first, second = (numbered({"a": [3, 4], "b": [5]}) for _ in range(2))
    for one, other in zip(first.shards, second.shards, strict=True):
        assert one.origins_path.read_bytes() == other.origins_path.read_bytes()
        assert one.sha256 == other.sha256
    # No name and no time in the header.
    assert first.shards[0].origins_path.read_bytes()[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


def test_the_fingerprint_knows_tokens_sources_and_weights_and_not_where_documents_came_from(tmp_path):
    def of(**changes):
        settings = {"source": "web", "weights": {"web": 1.0}, "origin": {"id": "a"}, "ids": [1, 0]} | changes
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        writer = SplitWriter(folder, "train", vocab_size=9, shard_tokens=9, weights=settings["weights"])
        writer.add(settings["ids"], text_bytes=1, source=settings["source"], origin=settings["origin"])
        index = {"schema": "s", "vocab_size": 9, "dtype": "<u2", "eos": "e", "eos_id": 0, "tokenizer": {}}
        return fingerprint_of({**index, "splits": {"train": writer.close()}, "recipe": changes.get("recipe")})

    known = of()
    assert of(origin={"id": "b", "url": "u"}) == known
    assert of(recipe="web") == known
    others = [of(ids=[2, 0]), of(source="code", weights={"code": 1.0}), of(weights={"web": 2.0}), of(weights=None)]
    assert len({known, *others}) == 5


@pytest.mark.parametrize("name", ["", "../x", "a b", "é", "-x", "a" * 65, "a.b", "\x1b[31m"])
def test_what_cannot_be_a_name_is_refused(tmp_path, name):
    writer = SplitWriter(tmp_path, "train", vocab_size=9, shard_tokens=9)
    with pytest.raises(DataError, match="cannot name a source"):
        writer.add([1, 0], text_bytes=1, source=name)
    with pytest.raises(DataError, match="cannot name a source"):
        SplitWriter(tmp_path, "train", vocab_size=9, shard_tokens=9, weights={name: 1})


def test_more_sources_than_files_can_be_open_are_refused(tmp_path):
    writer = SplitWriter(tmp_path, "train", vocab_size=9, shard_tokens=1)
    for number in range(MOST_SOURCES):
        writer.add([0], text_bytes=0, source=f"s{number}")
    with pytest.raises(DataError, match=f"more than {MOST_SOURCES} sources"):
        writer.add([0], text_bytes=0, source="one-more")
    assert len(writer.close()["sources"]) == MOST_SOURCES


def test_memory_does_not_grow_with_the_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_BUFFER_BYTES", 2**12)

    def peak(documents):
        folder = tmp_path / str(documents)
        folder.mkdir()
        writer = SplitWriter(folder, "train", vocab_size=300, shard_tokens=10**9)
        ids = np.array([1, 0])
        tracemalloc.start()
        for number in range(documents):
            writer.add(ids, text_bytes=1, origin={"id": f"file-{number}.txt", "url": None})
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert writer.close()["documents"] == documents
        return found

    peak(100)
    # The starts of the larger one alone are 80 KB.
    assert peak(10_000) < peak(2000) + 2**15


# ----------------------------------------------------------------------------------------------------------------------
# Origins


def test_every_document_has_its_origin(tmp_path):
    writer = SplitWriter(tmp_path, "train", vocab_size=300, shard_tokens=4)
    writer.add([1, 0], text_bytes=7, source="web", origin={"id": "a.html", "url": "http://a/", "file": "not kept"})
    writer.add([1, 2, 0], text_bytes=9, source="web", origin={"id": "b\udcff.html", "url": None})
    writer.add([3, 0], text_bytes=1, source="web")
    index = {"vocab_size": 300, "dtype": "<u2", "eos_id": 0, "fingerprint": "0", "splits": {"train": writer.close()}}
    shards = TokenShards(tmp_path, "train", index)
    assert [list(shards.origins(number)) for number in range(2)] == [
        [
            {"id": "a.html", "url": "http://a/", "source": "web", "text_bytes": 7, "tokens": 2},
            {"id": "b\udcff.html", "source": "web", "text_bytes": 9, "tokens": 3},
        ],
        [{"id": None, "source": "web", "text_bytes": 1, "tokens": 2}],
    ]


def test_a_document_is_found_by_its_id(numbered):
    shards = numbered({"code": [3, 4], "web": [5, 6]}, shard_tokens=4)
    found = shards.find("web/1")
    assert (found.document, found.row["tokens"], found.row["source"]) == (3, 6, "web")
    assert shards.document(found.document).tolist() == list(range(13, 19))
    assert shards.shards[found.shard].source == "web"
    assert shards.find("web/2") is None


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda content: content[:-9], "cannot be read"),
        (lambda content: content[:20] + b"\xff" * 20 + content[40:], "cannot be read"),
        (lambda content: b"plain text", "cannot be read"),
        (lambda content: gzip.compress(b"[1]\n"), "row 1 of the origins cannot be read"),
        (lambda content: gzip.compress(b"{}\n"), "1 rows of origins for 3 documents"),
        (lambda content: gzip.compress(b"{}\n" * 4), "4 rows of origins for 3 documents"),
        (lambda content: gzip.compress(b"[" * 100_000), "row 1 of the origins cannot be read"),
        (lambda content: gzip.compress(b" " * 2**26), "row 1 of the origins cannot be read"),
    ],
    ids=["cut", "damaged", "not packed", "a list", "too few", "too many", "deep", "a long line"],
)
def test_damaged_origins_are_an_error_that_names_the_file(numbered, damage, what):
    shards = numbered([5, 6, 7])
    path = shards.shards[0].origins_path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=what) as caught:
        list(shards.origins(0))
    assert str(path) in str(caught.value)


def test_opening_compares_origins_with_the_index(numbered):
    shards = numbered([5, 6, 7])
    path = shards.shards[0].origins_path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    TokenShards.open(shards.directory, verify="sizes")
    with pytest.raises(DataError, match=r"origins\.jsonl\.gz\n.*SHA-256"):
        TokenShards.open(shards.directory)
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match="ends at byte"):
        TokenShards.open(shards.directory, verify="sizes")


def test_validate_finds_origins_of_other_documents(numbered):
    shards, other = numbered([5, 6]), numbered([6, 5])
    path = shards.shards[0].origins_path
    path.write_bytes(other.shards[0].origins_path.read_bytes())
    with pytest.raises(DataError, match=r"origins\.jsonl\.gz\n.*differs"):
        shards.validate()


# ----------------------------------------------------------------------------------------------------------------------
# The index


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda train: train["sources"].pop("web"), "the source 'web'"),
        (lambda train: train["sources"]["web"].update(weight=1), "some of splits.train.sources have a weight"),
        (lambda train: train["sources"]["web"].update(weight=-1), "sources.web.weight is -1"),
        (lambda train: train["sources"]["web"].update(weight="1"), 'sources.web.weight is "1"'),
        (lambda train: train["sources"]["web"].update(weight=True), "sources.web.weight is true"),
        (lambda train: train["sources"]["web"].pop("tokens"), "sources.web.tokens is missing"),
        (lambda train: train["sources"]["web"].update(documents=9), "sources.web has 9 documents"),
        (lambda train: train["sources"].update({"a b": train["sources"]["web"]}), "a key of splits.train.sources"),
        (lambda train: [source.update(weight=0) for source in train["sources"].values()], "a weight above 0"),
        (lambda train: train.update(text_bytes=1), "splits.train has 1 text_bytes"),
        (lambda train: train.update(tokens=1), "splits.train has 1 tokens"),
        (lambda train: train["shards"][0].update(source="../x"), "shards.0.source"),
        (lambda train: train["shards"][0].update(tokens=99), "sources.code has 5 tokens, and its shards have 99"),
        (lambda train: train["shards"][0].update(blocks=[]), "shards.0.blocks"),
        (lambda train: train["shards"][0].update(origins_file="/etc/passwd"), "shards.0.origins_file"),
        (lambda train: train["shards"][0].update(tokens_file="train/../../x.bin"), "shards.0.tokens_file"),
        (lambda train: train["shards"][0].update(origins_bytes=-1), "shards.0.origins_bytes"),
        (lambda train: train.update(sources=[]), "splits.train.sources is \\[\\]"),
    ],
)
def test_an_index_whose_parts_do_not_fit_is_damaged(numbered, change, what):
    folder = numbered({"code": [5], "web": [7]}).directory
    rewrite(folder, change)
    with pytest.raises(DataError, match=what) as caught:
        read_index(folder)
    assert "index.json" in str(caught.value)


def test_data_of_an_earlier_version_is_told_apart(numbered):
    folder = numbered([5]).directory
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace("vitruvius.data/2", "vitruvius.data/1"))
    with pytest.raises(DataError, match=r"'vitruvius.data/1', this version reads 'vitruvius.data/2'"):
        read_index(folder)
