"""Pairs: every record has one fate, groups stay on one side, nothing leaks, and the same inputs give the same bytes."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.cli import main
from vitruvius.data import TokenShards
from vitruvius.data.pairs.options import PairOptions
from vitruvius.data.pairs.preparing import prepare_pairs
from vitruvius.data.pairs.reading import Pair
from vitruvius.data.pairs.splitting import Splitter, folded
from vitruvius.errors import DataError, TooMuchBadDataError, UsageError

pytest.importorskip("tokenizers")
GROUPED = PairOptions(source="q", target="a", group="page", vocab=300, held_out=0.3)


def rows(count=60):
    return [
        {"q": f"question number {i} of {i * 7}", "a": f"answer_{i % 9}", "page": f"page {i // 4}"} for i in range(count)
    ]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def texts(folder, split):
    shards = TokenShards.open(folder, split)
    tokenizer = shards.tokenizer()
    documents = [tokenizer.decode(shards.document(number).tolist()) for number in range(shards.documents)]
    return list(zip(documents[::2], documents[1::2], strict=True))


def test_every_pair_comes_out_once_source_and_target_in_turn(tmp_path):
    made = prepare_pairs([write(tmp_path / "in.jsonl", rows())], tmp_path / "out", GROUPED)
    found = texts(tmp_path / "out", "train") + texts(tmp_path / "out", "validation")
    assert sorted(found) == sorted((row["q"], row["a"]) for row in rows())
    assert made.counts["documents_in"] == made.counts["documents_out"] == 60
    TokenShards.open(tmp_path / "out", "train").validate()


def test_a_group_is_on_one_side_alone(tmp_path):
    prepare_pairs([write(tmp_path / "in.jsonl", rows())], tmp_path / "out", GROUPED)
    page = {row["q"]: row["page"] for row in rows()}
    train, held_out = (
        {page[source] for source, _ in texts(tmp_path / "out", split)} for split in ("train", "validation")
    )
    assert train and held_out and not train & held_out


def test_equal_pairs_stay_once_and_a_held_out_source_is_never_trained_on(tmp_path):
    doubled = [row | {"page": f"copy {row['page']}", "q": f"  {row['q'].upper()} "} for row in rows()[::3]]
    other = [row | {"page": f"other {row['page']}", "a": "another"} for row in rows()]
    made = prepare_pairs([write(tmp_path / "in.jsonl", [*rows(), *doubled, *other])], tmp_path / "out", GROUPED)
    assert made.counts["dropped"]["exact_duplicate"] == len(doubled)
    assert made.counts["dropped"]["source_in_training"] > 0
    trained = {folded(source) for source, _ in texts(tmp_path / "out", "train")}
    assert not trained & {folded(source) for source, _ in texts(tmp_path / "out", "validation")}
    listed = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert len(listed) == sum(made.counts["dropped"].values())
    assert made.counts["documents_in"] == made.counts["documents_out"] + len(listed)


def test_the_same_pairs_give_the_same_bytes_for_any_order_of_files_and_compressed(tmp_path):
    first, second = write(tmp_path / "a.jsonl", rows()[:30]), write(tmp_path / "b.jsonl", rows()[30:])
    made = [
        prepare_pairs(names, tmp_path / out, GROUPED).index["fingerprint"]
        for out, names in (("one", [first, second]), ("two", [second, first]))
    ]
    (tmp_path / "z").mkdir()
    with gzip.open(tmp_path / "z" / "c.jsonl.gz", "wb") as file:
        file.write(first.read_bytes() + second.read_bytes())
    made.append(prepare_pairs([tmp_path / "z"], tmp_path / "three", GROUPED).index["fingerprint"])
    assert len(set(made)) == 1
    for name in ("train/shard-00000.bin", "counts.json", "tokenizer.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


HOSTILE = {
    b'{"q": "a", "page": "p"}': "missing_field",
    b'{"q": "a", "a": 3, "page": "p"}': "wrong_type",
    b'{"q": " ", "a": "b", "page": "p"}': "empty",
    b'{"q": "a\\u0000", "a": "b", "page": "p"}': "binary",
    b'{"q": "\\ud800", "a": "b", "page": "p"}': "lone_surrogate",
    b'{"q": "a", "a": NaN, "page": "p"}': "nan_or_infinity",
    b'["q", "a"]': "not_an_object",
    b"\xff\xfe\x00": "binary",
    b"{": "invalid_json",
    b"  ": "blank_line",
    b"[" * 5000: "invalid_json",
}


def test_bad_records_are_refused_one_by_one_with_their_place(tmp_path):
    path = tmp_path / "in.jsonl"
    good = [json.dumps(row).encode() for row in rows(20)]
    path.write_bytes(b"\n".join([*good, *HOSTILE, b'{"q": "cut sho']))
    options = PairOptions(source="q", target="a", group="page", vocab=300, max_bad_rate=1)
    made = prepare_pairs([path], tmp_path / "out", options)
    listed = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in listed] == [*HOSTILE.values(), "truncated_last_line"]
    assert [row["line"] for row in listed] == list(range(21, 21 + len(HOSTILE) + 1))
    assert made.counts["documents_out"] == 20


def test_too_much_damage_stops_with_evidence_and_leaves_earlier_data(tmp_path):
    path = write(tmp_path / "in.jsonl", rows())
    prepare_pairs([path], tmp_path / "out", GROUPED)
    before = (tmp_path / "out" / "index.json").read_bytes()
    path.write_bytes(path.read_bytes() + b"no json\n" * 5)
    with pytest.raises(TooMuchBadDataError, match="5 of 65"):
        prepare_pairs([path], tmp_path / "out", GROUPED)
    assert (tmp_path / "out" / "index.json").read_bytes() == before
    assert (tmp_path / "out.rejected" / "quarantine.jsonl").read_text().count("invalid_json") == 5


def test_what_is_no_pairs_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"no pair|no document"):
        prepare_pairs([write(tmp_path / "in.jsonl", [])], tmp_path / "out", GROUPED)
    with pytest.raises(DataError, match="no such file"):
        prepare_pairs([tmp_path / "absent.jsonl"], tmp_path / "out", GROUPED)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    with pytest.raises(DataError, match="other files"):
        prepare_pairs([write(tmp_path / "in.jsonl", rows())], tmp_path / "mine", GROUPED)
    with pytest.raises(UsageError, match="both 'q'"):
        PairOptions(source="q", target="q")
    with pytest.raises(UsageError, match="out of range"):
        PairOptions(held_out=float("nan"))


@given(
    st.lists(st.tuples(*[st.text("ab \n", min_size=1, max_size=3)] * 3), max_size=30),
    st.floats(0, 0.9),
    st.integers(0, 3),
)
def test_no_split_of_any_pairs_leaks(records, fraction, seed):
    whole, kept = Splitter(seed), []
    for number, (source, target, group) in enumerate(records):
        pair = Pair(id=str(number), file="f", line=1, byte_offset=0, source=source, target=target, group=group)
        keeper = whole.add(pair)
        if keeper is None:
            kept.append(pair)
        else:
            twin = records[int(keeper)]
            assert (folded(twin[0]), twin[1]) == (folded(source), target)
    sides = whole.split(fraction)
    assert len(sides) == len(kept)
    for what in (lambda pair: folded(pair.source), lambda pair: folded(pair.group)):
        trained = {what(pair) for pair, side in zip(kept, sides, strict=True) if side == "train"}
        held_out = {what(pair) for pair, side in zip(kept, sides, strict=True) if side == "validation"}
        assert not trained & held_out


def test_the_command_says_what_it_did(tmp_path, capsys):
    path = write(tmp_path / "in.jsonl", rows())
    words = [
        "data",
        "pairs",
        str(path),
        "--out",
        str(tmp_path / "out"),
        "--source",
        "q",
        "--target",
        "a",
        "--vocab",
        "300",
    ]
    assert main.run(words) == 0
    said = capsys.readouterr()
    assert "60 of 60 pairs" in said.out
    assert "train.objective=seq2seq" in said.err
    assert main.run([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "vitruvius.data-pairs/1"
    assert document["splits"]["train"]["pairs"] + document["splits"]["validation"]["pairs"] == 60
    assert main.run([*words, "--target", "absent", "--max-bad-rate", "0.5"]) == 3
    assert "missing_field" in capsys.readouterr().err


def test_what_tells_about_prepared_data_reads_pairs_too(tmp_path, capsys):
    path = write(tmp_path / "in.jsonl", [*rows(), *rows()[:2]])
    prepare_pairs([path], tmp_path / "out", GROUPED)
    for verb in ("stats", "sample"):
        assert main.run(["data", verb, str(tmp_path / "out"), "--json"]) == 0, capsys.readouterr().err
        json.loads(capsys.readouterr().out)
