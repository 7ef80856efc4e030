"""Preparing: every document accounted for, the same bytes every time, and the old data until the new is whole."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vitruvius.data import PrepareOptions, TokenShards, prepare, read_index, standard_library_sources, train_bpe
from vitruvius.data.job.kept import HASH_RANGE
from vitruvius.data.job.splitting import held_out_below
from vitruvius.data.reading.inputs import find_inputs
from vitruvius.errors import DataError, TooMuchBadDataError, UsageError

pytest.importorskip("tokenizers")
pytest.importorskip("numpy")

WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he")
SMALL = PrepareOptions(vocab=300)


def document(number: int, length: int = 60) -> str:
    choice = random.Random(number)
    return f"document {number}: " + " ".join(choice.choices(WORDS, k=length)) + "\n"


def jsonl(path: Path, numbers: range, extra: bytes = b"") -> Path:
    path.write_bytes(b"".join(json.dumps({"text": document(i)}).encode() + b"\n" for i in numbers) + extra)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def texts(folder: Path) -> list[str]:
    """Every document of both splits, read back."""
    found = []
    for split in ("train", "validation"):
        shards = TokenShards.open(folder, split)
        tokenizer = shards.tokenizer()
        found += [tokenizer.decode(shards.document(i).tolist()) for i in range(shards.documents)]
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder of all four kinds: 40 JSON lines, 2 texts, a page, 2 sources, and 9 bad records."""
    folder = tmp_path_factory.mktemp("corpus")
    bad = b'\n{"text": ""}\n{"text": 1}\n{"x": 1}\nnot json\n{"text": "\\ud800"}\n{"text": NaN}\n\xff\n{"text": "cut'
    jsonl(folder / "a.jsonl", range(20), bad)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(folder / "tmp", range(20, 40)).read_bytes(), mtime=0))
    (folder / "tmp").unlink()
    (folder / "c.txt").write_text("A text.\r\nWith lines.\r\n", newline="")
    (folder / "page.html").write_text("<title>no</title><p>A page &amp; its text.")
    (folder / "nested").mkdir()
    (folder / "nested" / "d.md").write_text("# A title\n")
    (folder / "nested" / "code.py").write_text("print('hello')\n")
    (folder / "nested" / "empty.py").write_text("")
    (folder / "nested" / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / ".hidden.txt").write_text("hidden")
    return folder


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    return prepare([corpus], tmp_path_factory.mktemp("out") / "data", PrepareOptions(vocab=300, max_bad_rate=1))


def test_documents_in_are_documents_out_and_dropped_by_reason(prepared):
    counts = json.loads((prepared.directory / "counts.json").read_text())
    assert counts["dropped"] == {
        "blank_line": 1,
        "empty": 2,
        "invalid_json": 1,
        "invalid_utf8": 1,
        "lone_surrogate": 1,
        "missing_field": 1,
        "nan_or_infinity": 1,
        "truncated_last_line": 1,
        "wrong_type": 1,
    }
    assert counts["documents_out"] == 44
    assert counts["documents_in"] == counts["documents_out"] + sum(counts["dropped"].values())
    assert counts["bad_documents"] == 7


def test_every_dropped_document_is_in_the_quarantine_with_its_place(prepared, corpus):
    rows = [json.loads(line) for line in (prepared.directory / "quarantine.jsonl").read_text().splitlines()]
    assert len(rows) == sum(prepared.counts["dropped"].values())
    content = (corpus / "a.jsonl").read_bytes()
    for row in rows:
        assert row.keys() == {"id", "file", "line", "byte_offset", "reason", "detail"}
        if row["file"].endswith("a.jsonl"):
            assert content[: row["byte_offset"]].count(b"\n") == row["line"] - 1
            assert row["byte_offset"] == 0 or content[row["byte_offset"] - 1 : row["byte_offset"]] == b"\n"


def test_every_document_is_in_the_shards_exactly_once(prepared):
    expected = [document(i) for i in range(40)]
    expected += ["A text.\nWith lines.\n", "A page & its text.\n", "# A title\n", "print('hello')\n"]
    assert sorted(texts(prepared.directory)) == sorted(expected)


def test_files_that_no_kind_covers_are_passed_over_and_counted(prepared):
    assert prepared.passed_over == {".png": 1}
    assert prepared.files == 7


def test_the_index_counts_what_the_shards_hold(prepared):
    index = read_index(prepared.directory)
    assert index["schema"] == "vitruvius.data/2"
    assert index["dtype"] == "<u2"
    assert index["splits"]["train"]["documents"] + index["splits"]["validation"]["documents"] == 44
    for split in ("train", "validation"):
        shards = TokenShards.open(prepared.directory, split)
        shards.validate()
        ends = sum(int((shards.document(i) == shards.eos_id).sum()) for i in range(shards.documents))
        assert ends == shards.documents
        lengths = shards.tokenizer().byte_lengths
        assert int(lengths[shards.read(0, shards.tokens)].sum()) == shards.text_bytes


def test_the_output_is_the_same_bytes_for_any_order_of_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("bdac"):
        jsonl(Path(f"{name}.jsonl"), range(number * 10, number * 10 + 10), b"bad\n")
    arguments = ["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"]
    options = PrepareOptions(vocab=300, max_bad_rate=1)
    outputs = [tree(prepare(order, "out", options).directory) for order in (arguments, arguments[::-1], arguments * 2)]
    assert outputs[0] == outputs[1] == outputs[2]
    assert "index.json" in outputs[0]


def test_the_output_is_the_same_bytes_in_another_process_on_one_thread(prepared, corpus, tmp_path):
    code = f"""
from vitruvius.data import PrepareOptions, prepare
prepare([{str(corpus)!r}], {str(tmp_path / "again")!r}, PrepareOptions(vocab=300, max_bad_rate=1))
"""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert tree(tmp_path / "again") == tree(prepared.directory)


def test_a_file_reached_twice_counts_once(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(5))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    found = find_inputs([tmp_path, tmp_path / "a.jsonl", str(tmp_path / "link.jsonl")])
    assert len(found.files) == 1


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9], ids=str)
def test_the_held_out_share_is_close_to_what_was_asked_for(tmp_path, fraction):
    jsonl(tmp_path / "a.jsonl", range(200))
    done = prepare([tmp_path / "a.jsonl"], tmp_path / "out", PrepareOptions(vocab=300, held_out=fraction))
    assert abs(done.index["splits"]["validation"]["documents"] - fraction * 200) <= 1


def test_two_documents_are_enough_for_a_held_out_one(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(2))
    splits = prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL).index["splits"]
    assert (splits["train"]["documents"], splits["validation"]["documents"]) == (1, 1)


def test_one_document_is_never_held_out(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(1))
    splits = prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL).index["splits"]
    assert (splits["train"]["documents"], splits["validation"]["documents"]) == (1, 0)
    with pytest.raises(DataError, match="--document-bytes"):
        TokenShards.open(tmp_path / "out", "validation")


def test_nothing_is_held_out_when_nothing_is_asked_for(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(50))
    done = prepare([tmp_path / "a.jsonl"], tmp_path / "out", PrepareOptions(vocab=300, held_out=0))
    assert done.index["splits"]["validation"]["documents"] == 0
    assert not (tmp_path / "out" / "validation").exists()


def test_equal_documents_fall_into_the_same_split(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(30))
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    prepare([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "out", PrepareOptions(vocab=300, held_out=0.3))
    sides = []
    for split in ("train", "validation"):
        shards = TokenShards.open(tmp_path / "out", split)
        sides.append({bytes(shards.document(i)) for i in range(shards.documents)})
    assert not sides[0] & sides[1]


def test_another_seed_holds_out_other_documents(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(100))
    held = []
    for seed in (0, 1, 0):
        options = PrepareOptions(vocab=300, held_out=0.1, seed=seed)
        shards = TokenShards.open(prepare([tmp_path / "a.jsonl"], tmp_path / "out", options).directory, "validation")
        tokenizer = shards.tokenizer()
        held.append({tokenizer.decode(shards.document(i).tolist()) for i in range(shards.documents)})
    assert held[0] != held[1]
    assert held[0] == held[2]


def test_the_threshold_takes_the_wanted_number_of_documents():
    places = np.array([random.Random(number).randrange(HASH_RANGE) for number in range(1000)], dtype=np.uint64)
    for fraction in (0.001, 0.05, 0.999):
        threshold = held_out_below([places[:300], places[300:]], fraction)
        below = int((places < np.uint64(threshold)).sum())
        assert abs(below - fraction * 1000) <= 15 * fraction * (1 - fraction) + 1


def test_held_out_text_does_not_train_the_tokenizer(tmp_path):
    # A word that only one document has becomes a token exactly when that document is in the training split.
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text(
            document(number) + f" {'abcdefghij'[number % 10] * 9}zq{number:02} " * 200
        )
    prepare([tmp_path], tmp_path / "out", PrepareOptions(vocab=2000, held_out=0.1))
    shards = TokenShards.open(tmp_path / "out", "validation")
    train = TokenShards.open(tmp_path / "out", "train")
    assert shards.documents == 2
    assert shards.text_bytes / shards.tokens < train.text_bytes / train.tokens


def test_a_loaded_tokenizer_is_used_as_it_is(tmp_path):
    tokenizer = train_bpe([document(i) for i in range(50)], 280)
    tokenizer.save(tmp_path / "mine.json")
    jsonl(tmp_path / "a.jsonl", range(50))
    done = prepare([tmp_path / "a.jsonl"], tmp_path / "out", PrepareOptions(tokenizer=tmp_path / "mine.json"))
    assert done.index["vocab_size"] == 280
    assert TokenShards.open(tmp_path / "out").tokenizer().fingerprint == tokenizer.fingerprint


def test_small_shards_hold_the_same_stream(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(40))
    streams = []
    for shard_tokens in (10**9, 100, 1):
        options = PrepareOptions(vocab=300, shard_tokens=shard_tokens)
        shards = TokenShards.open(prepare([tmp_path / "a.jsonl"], tmp_path / "out", options).directory)
        streams.append((shards.read(0, shards.tokens).tolist(), shards.document_starts.tolist()))
        shards.validate()
    assert len(shards.shards) == shards.documents
    assert streams[0] == streams[1] == streams[2]


# ----------------------------------------------------------------------------------------------------------------------
# Too much bad data, and what stays as it was


def test_too_much_bad_data_leaves_counts_and_quarantine_and_no_index(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(10), b"bad\n")
    with pytest.raises(TooMuchBadDataError, match=r"1 of 11 documents are bad \(9\.09%: invalid_json 1\)") as caught:
        prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL)
    assert caught.value.exit_code == 3
    assert sorted(tree(tmp_path / "out")) == ["counts.json", "quarantine.jsonl"]
    counts = json.loads((tmp_path / "out" / "counts.json").read_text())
    assert (counts["documents_in"], counts["documents_out"], counts["dropped"]) == (11, 10, {"invalid_json": 1})


@pytest.mark.parametrize(("rate", "accepted"), [(0.01, True), (0.0099, False)], ids=["at the limit", "above it"])
def test_the_limit_itself_is_allowed(tmp_path, rate, accepted):
    jsonl(tmp_path / "a.jsonl", range(99), b"bad\n")
    options = PrepareOptions(vocab=300, max_bad_rate=rate)
    try:
        prepare([tmp_path / "a.jsonl"], tmp_path / "out", options)
    except TooMuchBadDataError:
        assert not accepted
    else:
        assert accepted


def test_blank_lines_and_empty_documents_are_no_sign_of_damage(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(10), b'\n\n{"text": ""}\n')
    done = prepare([tmp_path / "a.jsonl"], tmp_path / "out", PrepareOptions(vocab=300, max_bad_rate=0))
    assert done.counts["dropped"] == {"blank_line": 2, "empty": 1}


def test_earlier_data_stays_when_the_new_is_too_bad(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(10))
    prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL)
    before = tree(tmp_path / "out")
    (tmp_path / "bad.jsonl").write_text("bad\n")
    with pytest.raises(TooMuchBadDataError, match=r"out\.rejected/quarantine\.jsonl"):
        prepare([tmp_path / "bad.jsonl"], tmp_path / "out", SMALL)
    assert tree(tmp_path / "out") == before
    assert sorted(tree(tmp_path / "out.rejected")) == ["counts.json", "quarantine.jsonl"]


def test_data_takes_the_place_of_earlier_data_and_of_evidence(tmp_path):
    (tmp_path / "bad.jsonl").write_text("bad\n")
    with pytest.raises(TooMuchBadDataError):
        prepare([tmp_path / "bad.jsonl"], tmp_path / "out", SMALL)
    first = prepare([jsonl(tmp_path / "a.jsonl", range(10))], tmp_path / "out", SMALL)
    second = prepare([jsonl(tmp_path / "b.jsonl", range(30))], tmp_path / "out", SMALL)
    assert first.index["fingerprint"] != second.index["fingerprint"] == read_index(tmp_path / "out")["fingerprint"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "bad.jsonl", "out"]


def test_no_document_left_is_an_error_that_says_so(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no document is left of 2"):
        prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL)


@pytest.mark.parametrize("stray", ["notes.txt", "train/notes.txt", "validation/shard-1.bin"])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path, stray):
    jsonl(tmp_path / "a.jsonl", range(10))
    (tmp_path / "out" / stray).parent.mkdir(parents=True)
    (tmp_path / "out" / stray).write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL)
    assert tree(tmp_path / "out") == {stray: b"mine"}


def test_a_file_in_the_place_of_the_output_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="not a folder"):
        prepare([jsonl(tmp_path / "a.jsonl", range(3))], tmp_path / "out", SMALL)


@pytest.mark.parametrize("out", [".", "..", "/", "../here"], ids=["here", "above", "root", "here by name"])
def test_the_working_folder_is_never_replaced(tmp_path, monkeypatch, out):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    jsonl(tmp_path / "a.jsonl", range(3))
    with pytest.raises(DataError, match="choose a folder of its own"):
        prepare([tmp_path / "a.jsonl"], out, SMALL)


def test_a_killed_process_leaves_the_earlier_data_and_the_next_run_tidies_up(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(10))
    prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL)
    before = tree(tmp_path / "out")
    code = f"""
import os, signal
from vitruvius.data import PrepareOptions, prepare
def die(stage, done, total):
    if stage == "encoding" and done:
        os.kill(os.getpid(), signal.SIGKILL)
prepare([{str(tmp_path / "a.jsonl")!r}], {str(tmp_path / "out")!r}, PrepareOptions(vocab=270), progress=die)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert tree(tmp_path / "out") == before
    assert (tmp_path / "out.work" / "encode" / "00000.json").exists()
    prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out"]
    assert tree(tmp_path / "out") == before


def test_data_between_two_renames_is_found_again(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(10))
    prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL)
    before = tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.previous")
    with pytest.raises(DataError, match="no such file"):
        prepare([tmp_path / "none"], tmp_path / "out", SMALL)
    assert tree(tmp_path / "out") == before


# ----------------------------------------------------------------------------------------------------------------------
# What may be named


def test_what_does_not_exist_is_named_and_the_corpora_are_listed(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt\n.*\n.*python-stdlib"):
        prepare([tmp_path / "none.txt"], tmp_path / "out", SMALL)


def test_a_folder_without_a_file_to_read_says_what_it_found(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    with pytest.raises(DataError, match=r"found 1 \.png"):
        prepare([tmp_path / "in"], tmp_path / "out", SMALL)


def test_output_inside_an_input_is_not_read_back(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(10), b"bad\n")
    options = PrepareOptions(vocab=300, max_bad_rate=1)
    first = prepare([tmp_path], tmp_path / "out", options)
    (tmp_path / "out.rejected").mkdir()
    (tmp_path / "out.rejected" / "quarantine.jsonl").write_text("{}\n")
    assert prepare([tmp_path], tmp_path / "out", options).counts == first.counts


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may list every folder")
def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(10))
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(DataError, match="locked"):
        find_inputs([tmp_path])


def test_the_kind_decides_what_is_taken_from_a_folder(corpus):
    names = {
        kind: {Path(file.name).name for file in find_inputs([corpus], kind=kind).files}
        for kind in ("text", "jsonl", "html", "source")
    }
    assert names == {
        "text": {"c.txt", "d.md"},
        "jsonl": {"a.jsonl", "b.jsonl.gz"},
        "html": {"page.html"},
        "source": {"code.py", "empty.py"},
    }


def test_a_named_file_with_an_unknown_suffix_is_text(tmp_path):
    (tmp_path / "README").write_text("hello")
    (found,) = find_inputs([tmp_path / "README"]).files
    assert found.kind == "text"


def test_the_suffixes_of_source_files_can_be_chosen(tmp_path):
    for name in ("a.c", "b.h", "c.py"):
        (tmp_path / name).write_text("x")
    found = find_inputs([tmp_path], kind="source", extensions=("c", ".h"))
    assert [Path(file.name).name for file in found.files] == ["a.c", "b.h"]


def test_a_folder_that_has_the_name_of_a_corpus_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python-stdlib").mkdir()
    (tmp_path / "python-stdlib" / "mine.py").write_text("x = 1\n")
    assert [file.name for file in find_inputs(["python-stdlib"]).files] == ["python-stdlib/mine.py"]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"vocab": 100}, "--vocab"),
        ({"max_bad_rate": -0.1}, "--max-bad-rate"),
        ({"max_bad_rate": float("nan")}, "--max-bad-rate"),
        ({"held_out": 1.0}, "--held-out"),
        ({"document_bytes": 0}, "--document-bytes"),
    ],
    ids=["vocab", "negative rate", "NaN rate", "everything held out", "empty documents"],
)
def test_an_option_out_of_range_is_named(options, option):
    with pytest.raises(UsageError, match=option):
        PrepareOptions(**options)


def test_the_standard_library_sample_is_sorted_bounded_and_without_tests():
    files = standard_library_sources(1_000_000)
    assert files == sorted(files)
    assert 800_000 < sum(path.stat().st_size for path in files) <= 1_000_000
    left_out = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages"}
    library = Path(os.__file__).resolve().parent
    assert not any(left_out & set(path.resolve().relative_to(library).parts) for path in files)
    assert standard_library_sources(500_000) == sorted(set(standard_library_sources(500_000)) & set(files))


def test_the_text_of_a_document_that_spells_the_separator_does_not_end_it(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one<|endoftext|>two"}) + "\n" + json.dumps({"text": "b"}))
    prepare([tmp_path / "a.jsonl"], tmp_path / "out", SMALL)
    assert sorted(texts(tmp_path / "out")) == ["b", "one<|endoftext|>two"]


def test_a_name_that_is_not_utf8_fits_into_the_quarantine(tmp_path):
    jsonl(tmp_path / "a.jsonl", range(10))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.jsonl")).write_text("bad\n")
    prepare([tmp_path], tmp_path / "out", PrepareOptions(vocab=300, max_bad_rate=1))
    (row,) = map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    assert row["file"].endswith("b\\udcff.jsonl")
