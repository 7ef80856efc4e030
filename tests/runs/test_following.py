"""Following a log: what is new once, all again when it is another file, never half a line."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import RunError
from vitruvius.runs.following import Following
from vitruvius.runs.lines import LineLog


def test_only_what_is_new_is_told(tmp_path):
    log, following = LineLog(tmp_path / "a.jsonl"), Following(tmp_path / "a.jsonl")
    assert following.news().rows == ()
    log.append({"step": 1})
    log.append({"step": 2})
    assert [row["step"] for row in following.news().rows] == [1, 2]
    assert following.news().rows == ()
    log.append({"step": 3})
    news = following.news()
    assert [row["step"] for row in news.rows] == [3]
    assert not news.is_anew


def test_a_missing_file_has_no_rows_and_may_come(tmp_path):
    following = Following(tmp_path / "later.jsonl")
    assert following.news().rows == ()
    (tmp_path / "later.jsonl").write_text('{"step": 1}\n')
    news = following.news()
    assert (len(news.rows), news.is_anew) == (1, False)


def test_a_log_that_was_written_again_is_read_from_its_start(tmp_path):
    log, following = LineLog(tmp_path / "a.jsonl"), Following(tmp_path / "a.jsonl")
    for step in range(1, 6):
        log.append({"step": step})
    following.news()
    log.keep(lambda row: row["step"] <= 3)  # as a run that is resumed or rewound
    log.append({"step": 4, "again": True})
    news = following.news()
    assert news.is_anew
    assert [row["step"] for row in news.rows] == [1, 2, 3, 4]
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n')  # cut in place
    assert [row["step"] for row in following.news().rows] == [1]


@given(cuts=st.lists(st.integers(0, 400), max_size=8))
def test_wherever_a_look_cuts_the_bytes_every_row_comes_once(cuts, tmp_path_factory):
    path = tmp_path_factory.mktemp("cuts") / "a.jsonl"
    rows = [{"step": number, "text": "ü\u2028" * (number % 5)} for number in range(12)]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    following, seen = Following(path), []
    for cut in [*sorted(cut for cut in cuts if cut <= len(whole)), len(whole)]:
        with path.open("ab") as file:
            file.write(whole[file.tell() : cut])
        seen += following.news().rows
    assert seen == rows


@pytest.mark.parametrize("line", [b"[1]", b"nonsense", b'{"a":', b"\xff\xfe", b"[" * 5000, b""])
def test_a_whole_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(RunError) as caught:
        Following(path).news()
    assert caught.value.where.endswith("a.jsonl:2")


def test_a_pipe_in_the_place_of_a_log_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(RunError, match="not a regular file"):
        Following(tmp_path / "pipe.jsonl").news()
