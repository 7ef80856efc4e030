"""Files as streams: what changes while it is read is named, what is no file is refused at once, lines are bounded."""

from __future__ import annotations

import errno
import gzip
import importlib.util
import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.reading.documents import InputFile, ReadOptions, read_file
from vitruvius.data.reading.libraries import library
from vitruvius.data.reading.streams import Span, lines, opened
from vitruvius.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

LINE = b'{"text": "a"}\n'


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


CHANGES = {
    "grown": (lambda path: path.open("ab").write(b"x"), "it grew from"),
    "cut": (lambda path: os.truncate(path, 5), "it was cut from"),
    "emptied": (lambda path: os.truncate(path, 0), "it was cut from"),
    "written in place": (lambda path: os.utime(path, ns=(1, 1)), "it was written to"),
    "replaced by one of the same size and time": (replaced, "it was replaced by another file"),
    "deleted": (lambda path: path.unlink(), "it was deleted"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("kind", ["jsonl", "gzip", "text", "source", "html", "parquet", "arrow"])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, change, said, kind):
    path = tmp_path / f"a.{kind}"
    if kind in {"parquet", "arrow"}:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = pa.table({"text": ["a"] * 5000})
        if kind == "parquet":
            parquet.write_table(table, path, row_group_size=10)
        else:
            with pa.ipc.new_stream(str(path), table.schema) as writer:
                writer.write_table(table, max_chunksize=10)
    elif kind == "gzip":
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(10**5))))
    else:
        path.write_bytes(LINE * 5000)
    found = read_file(InputFile(name="the file", path=path, kind="jsonl" if kind == "gzip" else kind), ReadOptions())
    next(found)
    change(path)
    with pytest.raises(DataError, match=f"the file\n.*changed while it was read: {said}"):
        list(found)


@pytest.mark.parametrize("kind", ["text", "parquet"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    places = [tmp_path / "pipe", tmp_path / "folder", tmp_path / "loop", tmp_path / "gone"]
    devices = [one for one in ("/dev/zero", "/dev/null") if os.path.exists(one)]  # noqa: PTH110
    assert devices or sys.platform == "win32"
    for place in [*places, *(tmp_path / one for one in devices)]:
        with pytest.raises(DataError, match=r"not a regular file|cannot be read"):
            list(read_file(InputFile(name="x", path=place, kind=kind), ReadOptions()))


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    path = tmp_path / "secret.txt"
    path.write_bytes(b"text")

    def denied(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(DataError, match=r"secret\.txt\n.*Permission denied"):
        list(read_file(InputFile(name="secret.txt", path=path, kind="text"), ReadOptions()))


def test_a_file_that_is_left_alone_is_read_without_a_word(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"text")
    with opened(path) as stream:
        assert stream.read() == b"text"


@given(
    st.binary(max_size=200).map(lambda raw: raw.replace(b"\1", b"\n")),
    st.integers(0, 220),
    st.integers(0, 220),
    st.integers(1, 20),
)
def test_lines_of_a_span_are_those_that_begin_in_it(content, start, stop, limit):
    every = list(lines(io.BytesIO(content), limit=limit))
    assert b"".join(content[one.offset : one.offset + one.length] for one in every) == content
    assert all(one.content is None or one.content == content[one.offset : one.offset + one.length] for one in every)
    assert all((one.content is None) == (len(content[one.offset :].split(b"\n", 1)[0]) > limit) for one in every)
    span = Span(start=start, stop=stop)
    found = list(lines(io.BytesIO(content), limit=limit, span=span))
    assert [one.offset for one in found] == [one.offset for one in every if start <= one.offset < stop]
    assert span.lines == len(found) and [one.number for one in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize(
    ("name", "kind", "module"),
    [
        ("a.jsonl.zst", "jsonl", "zstandard"), ("a.parquet", "parquet", "pyarrow"), ("a.arrow", "arrow", "pyarrow"),
        ("hf:a", "hf", "datasets"),
    ],
)  # fmt: skip
def test_a_missing_package_is_said_with_the_extra_that_brings_it(tmp_path, monkeypatch, name, kind, module):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    library.cache_clear()
    (tmp_path / "a").write_bytes(b"a")
    path = tmp_path / name
    path.write_bytes(b"a")
    with pytest.raises(MissingExtraError, match=rf"{module} is not installed"):
        list(read_file(InputFile(name=name, path=path, kind=kind), ReadOptions()))


def test_reading_lines_imports_no_table_library():
    code = """
import sys
from vitruvius.data.reading.units import units_of
from vitruvius.data.reading.inputs import find_inputs
from vitruvius.data.reading.finding import read_one
units_of(find_inputs(["python-stdlib"]))
print([name for name in ("numpy", "pyarrow", "datasets", "zstandard", "orjson", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
