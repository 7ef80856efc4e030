"""Memory does not grow with what is read: streams of three times the bound, each in a process of its own."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pa = pytest.importorskip("pyarrow")
zstandard = pytest.importorskip("zstandard")

BOUND = 32 << 20
# Of drawn words, because the same line again and again is a bomb.
_DRAW = random.Random(0)
_WORDS = [f"{_DRAW.randrange(36**4):04x}" for _ in range(3000)]
PIECE = b"".join(json.dumps({"text": " ".join(_DRAW.choices(_WORDS, k=250))}).encode() + b"\n" for _ in range(800))

_READ = """
import sys
from vitruvius.data.reading.inputs import find_inputs
from vitruvius.data.reading.options import ReadOptions
from vitruvius.data.reading.units import read_unit, units_of
units = units_of(find_inputs([sys.argv[1]]), unit_bytes=2**23)
# The size of text pieces is the reader's memory.
found = (one for unit in units for one in read_unit(unit, ReadOptions(document_bytes=2**20)))
total = len(next(found).text)
base = peak()
for one in found:
    total += len(one.text)
print(total, peak() - base)
"""


def write_table(path: Path, pieces: int) -> None:
    texts = pa.table({"text": [json.loads(line)["text"] for line in PIECE.splitlines()]})
    if path.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetWriter(path, texts.schema) as writer:
            for _ in range(pieces):
                writer.write_table(texts)
    else:
        with pa.ipc.new_stream(str(path), texts.schema) as writer:
            for _ in range(pieces):
                writer.write_table(texts)


PACK = {
    ".gz": lambda content: gzip.compress(content, 1),
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lambda content: lzma.compress(content, preset=0),
}


def write(path: Path, pieces: int) -> None:
    if path.suffix in {".parquet", ".arrow"}:
        write_table(path, pieces)
        return
    packed = PACK.get(path.suffix, bytes)(PIECE)
    with path.open("wb") as file:
        for _ in range(pieces):
            file.write(packed)


@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", pytest.param("a.jsonl.bz2", marks=pytest.mark.slow),
        pytest.param("a.jsonl.xz", marks=pytest.mark.slow), "a.txt", "a.txt.zst", "a.parquet", "a.arrow",
    ],
)  # fmt: skip
def test_a_stream_of_three_times_the_bound_is_read_within_it(measured, tmp_path, name):
    pieces = 3 * BOUND // len(PIECE)
    write(tmp_path / name, pieces)
    (line,) = measured(_READ, tmp_path / name)
    total, grown = map(int, line.split())
    assert total > 2.9 * BOUND
    assert grown < BOUND


def test_the_peak_is_the_processes_own(measured):
    ballast = bytearray(b"x" * (200 << 20))
    (line,) = measured("before = peak(); held = b'x' * (40 << 20); print(before, peak() - before)")
    before, grown = map(int, line.split())
    assert len(ballast) > before and 39 << 20 < grown < 60 << 20
