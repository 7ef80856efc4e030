"""Compressed files: whole, in several members, damaged, hostile, and never more in memory than stated."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.documents import InputFile, ReadOptions, read_file
from vitruvius.data.reading.streams import opened

if TYPE_CHECKING:
    from pathlib import Path

zstandard = pytest.importorskip("zstandard")

PACK = {
    ".gz": lambda content: gzip.compress(content, mtime=0),
    # Without a checksum, which its command line writes too, damage to zstd's literals goes unnoticed.
    ".zst": lambda content: zstandard.ZstdCompressor(write_checksum=True).compress(content),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
PACKINGS = pytest.mark.parametrize("suffix", PACK)


def found_in(path: Path, content: bytes | None = None, **options) -> list[str | Refusal]:
    if content is not None:
        path.write_bytes(content)
    file = InputFile(name=path.name, path=path, kind="jsonl")
    found = read_file(file, ReadOptions(**options))
    return [one if isinstance(one, Refusal) else one.text for one in found]


def jsonl(count: int, first: int = 0) -> bytes:
    # Of random letters, so that damage anywhere in the packed bytes is damage to some line.
    draw = random.Random(first)
    rows = ({"text": f"{i} " + "".join(draw.choices("abcdefghijklmnop", k=60))} for i in range(first, first + count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def texts(content: bytes) -> list[str]:
    return [json.loads(line)["text"] for line in content.splitlines()]


@PACKINGS
def test_every_packing_is_read_through(tmp_path, suffix):
    content = jsonl(3000)
    assert found_in(tmp_path / f"a.jsonl{suffix}", PACK[suffix](content)) == texts(content)


@PACKINGS
def test_members_one_after_the_other_are_one_stream(tmp_path, suffix):
    parts = [b'{"text": "ha', b'lf"}\n', b"", jsonl(50), b'{"text": "last"}']
    packed = b"".join(PACK[suffix](part) for part in parts)
    assert found_in(tmp_path / f"a.jsonl{suffix}", packed) == texts(b"".join(parts))


@PACKINGS
@settings(max_examples=25)
@given(cut=st.floats(0, 0.999), seed=st.integers(0, 10))
def test_a_cut_file_loses_its_rest_and_nothing_before(tmp_path_factory, suffix, cut, seed):
    content = jsonl(40, seed) + jsonl(40, seed + 100)
    packed = PACK[suffix](content)
    path = tmp_path_factory.mktemp("cut") / f"a.jsonl{suffix}"
    *good, refused = found_in(path, packed[: int(cut * len(packed))])
    assert isinstance(refused, Refusal) and refused.reason == "corrupt_stream" and refused.detail
    assert good == texts(content)[: len(good)]
    assert len("".join(map(str, good))) <= refused.byte_offset <= len(content)


@PACKINGS
def test_damage_near_the_end_of_a_large_file_costs_only_what_follows_it(tmp_path, suffix):
    # Each decoder would take several megabytes at once, and keep them to itself when it stumbles.
    content = jsonl(20_000)
    packed = PACK[suffix](content)
    place = int(len(packed) * 0.9)
    damaged = packed[:place] + b"\xff\xff\xff\xff\xff\xff" + packed[place + 6 :]
    *good, refused = found_in(tmp_path / f"a.jsonl{suffix}", damaged)
    assert isinstance(refused, Refusal) and refused.reason == "corrupt_stream"
    # A block of bzip2 has 900,000 bytes and gives nothing before it is whole; those of zstd have 128 KiB.
    block = {".bz2": 900_000, ".zst": 2 << 17}.get(suffix, 1000)
    assert refused.byte_offset > 0.9 * len(content) - block - 0.01 * len(content)
    whole = int((0.9 * len(content) - block - 0.01 * len(content)) / len(content) * 20_000)
    assert good[:whole] == texts(content)[:whole]


@PACKINGS
def test_a_second_member_that_is_damaged_costs_nothing_of_the_first(tmp_path, suffix):
    first, second = jsonl(100), jsonl(100, 100)
    packed = PACK[suffix](second)
    damaged = packed[: len(packed) // 2] + b"\xff" * 40 + packed[len(packed) // 2 + 40 :]
    *good, refused = found_in(tmp_path / f"a.jsonl{suffix}", PACK[suffix](first) + damaged)
    assert isinstance(refused, Refusal) and refused.reason == "corrupt_stream"
    assert good[:100] == texts(first)
    assert refused.byte_offset >= len(first)


@PACKINGS
@settings(max_examples=40)
@given(st.data())
def test_damage_anywhere_is_a_refusal_or_harmless_but_never_an_error(tmp_path_factory, suffix, data):
    packed = bytearray(PACK[suffix](jsonl(60)))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = found_in(tmp_path_factory.mktemp("flip") / f"a.jsonl{suffix}", bytes(packed))
    assert all(isinstance(one, (str, Refusal)) for one in found)


@PACKINGS
def test_an_empty_file_or_something_else_by_that_name_is_one_refusal(tmp_path, suffix):
    for content in (b"", b"no such format, though it says so", b"\0" * 100):
        (refused,) = found_in(tmp_path / f"a.jsonl{suffix}", content)
        assert isinstance(refused, Refusal)
        assert (refused.reason, refused.byte_offset) == ("corrupt_stream", 0)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_zeros_after_the_last_member_are_padding(tmp_path, suffix):
    assert found_in(tmp_path / f"a.jsonl{suffix}", PACK[suffix](jsonl(3)) + b"\0" * 512) == texts(jsonl(3))


@PACKINGS
def test_other_bytes_after_the_last_member_are_damage(tmp_path, suffix):
    *good, refused = found_in(tmp_path / f"a.jsonl{suffix}", PACK[suffix](jsonl(3)) + b"rest that is none")
    assert good == texts(jsonl(3))
    assert isinstance(refused, Refusal) and refused.reason == "corrupt_stream"


def test_skippable_frames_of_zstd_are_passed_over(tmp_path):
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    packed = skipped + PACK[".zst"](jsonl(2)) + skipped + PACK[".zst"](jsonl(2, 2)) + skipped
    assert found_in(tmp_path / "a.jsonl.zst", packed) == texts(jsonl(4))[:2] + texts(jsonl(2, 2))
    empty = b"\x5f\x2a\x4d\x18" + (0).to_bytes(4, "little")
    large = b"\x50\x2a\x4d\x18" + (200_000).to_bytes(4, "little") + bytes(200_000)
    packed = empty + large + PACK[".zst"](jsonl(2)) + empty
    assert found_in(tmp_path / "a.jsonl.zst", packed) == texts(jsonl(2))


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("content", [b"", b"x", bytes(10**6), random.Random(0).randbytes(400_000), jsonl(5000)])
def test_zstd_frames_of_every_shape_are_read_through(tmp_path, checksum, sized, content):
    inner = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=sized).compressobj(
        **({"size": len(content)} if sized else {})
    )
    (tmp_path / "a.zst").write_bytes((inner.compress(content) + inner.flush()) * 2)
    with opened(tmp_path / "a.zst") as stream:
        assert stream.read() == content * 2


def test_a_zstd_window_over_the_limit_is_refused_and_one_at_the_limit_is_read(tmp_path):
    def packed(log: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=True)
        inner = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return inner.compress(jsonl(5)) + inner.flush()

    assert found_in(tmp_path / "a.jsonl.zst", packed(20), window_bytes=2**20) == texts(jsonl(5))
    (refused,) = found_in(tmp_path / "a.jsonl.zst", packed(21), window_bytes=2**20)
    assert isinstance(refused, Refusal) and refused.reason == "too_much_memory"
    assert "1,048,576" in refused.detail


def test_xz_that_needs_more_memory_than_the_limit_is_refused(tmp_path):
    packed = lzma.compress(jsonl(5), preset=9)
    assert found_in(tmp_path / "a.jsonl.xz", packed) == texts(jsonl(5))
    (refused,) = found_in(tmp_path / "a.jsonl.xz", packed, window_bytes=2**20)
    assert isinstance(refused, Refusal) and refused.reason == "too_much_memory"


def bomb(suffix: str, size: int) -> bytes:
    """A good line and `size` spaces, packed piece by piece."""
    if suffix == ".gz":
        inner = zlib.compressobj(wbits=31)
    elif suffix == ".zst":
        inner = zstandard.ZstdCompressor().compressobj()
    else:
        inner = bz2.BZ2Compressor() if suffix == ".bz2" else lzma.LZMACompressor()
    pieces = [inner.compress(b'{"text": "good"}\n')]
    pieces += [inner.compress(b" " * 2**20) for _ in range(size >> 20)]
    return b"".join([*pieces, inner.flush()])


@PACKINGS
def test_a_bomb_stops_at_the_stated_ratio_and_floor(tmp_path, suffix):
    packed = bomb(suffix, 24 << 20)
    path = tmp_path / f"a.jsonl{suffix}"
    good, refused = found_in(path, packed, bomb_floor_bytes=1 << 20, bomb_ratio=50)
    assert good == "good"
    assert isinstance(refused, Refusal) and refused.reason == "decompression_bomb"
    assert refused.byte_offset == max(1 << 20, 50 * int(refused.detail.split()[0].replace(",", "")))
    assert "50 times" in refused.detail
    # A floor above it, or a ratio above its own, lets it through.
    for allowed in ({"bomb_floor_bytes": 32 << 20}, {"bomb_floor_bytes": 1, "bomb_ratio": 10**6}):
        assert [getattr(one, "reason", one) for one in found_in(path, **allowed)] == ["good", "too_long"]


def test_what_is_only_well_compressed_is_no_bomb(tmp_path):
    content = b"".join(
        json.dumps({"text": f"line {i}: " + "the same words " * 20}).encode() + b"\n" for i in range(5000)
    )
    packed = gzip.compress(content, 9)
    assert 20 < len(content) / len(packed) < 200
    assert len(found_in(tmp_path / "a.jsonl.gz", packed, bomb_floor_bytes=1)) == 5000


_RSS = """
import sys
from pathlib import Path
from vitruvius.data.reading.documents import InputFile, ReadOptions, read_file
from vitruvius.data.reading.streams import opened
from vitruvius.data.reading.libraries import library
library("zstandard")
base = peak()
file = InputFile(name="a", path=Path(sys.argv[1]), kind=sys.argv[2])
options = ReadOptions(bomb_ratio=int(sys.argv[3]))
print([getattr(one, "reason", None) or one.text for one in read_file(file, options)])
print(peak() - base)
"""


@PACKINGS
@pytest.mark.parametrize("ratio", [200, 10**9], ids=["stopped", "read to its end"])
def test_a_line_of_256_megabytes_of_zeros_never_gets_into_memory(measured, tmp_path, suffix, ratio):
    packed = zeros(suffix, 2**28)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed)
    found, grown = measured(_RSS, path, "jsonl", ratio)
    assert found == "['good', 'decompression_bomb']" if ratio == 200 else "['good', 'too_long']"
    assert int(grown) < 64 << 20


def zeros(suffix: str, size: int) -> bytes:
    """A good line and `size` zeros, in members of 64 MiB, of which only one is packed."""
    pack = PACK[suffix]
    return pack(b'{"text": "good"}\n') + pack(bytes(2**26)) * (size >> 26)


def test_the_smallest_zstd_blocks_do_not_unpack_to_much_at_once(measured, tmp_path):
    # Four bytes for 128 KiB, which no compressor writes at this rate for long: 16 KiB of blocks are 512 MiB.
    head = b"\x28\xb5\x2f\xfd" + bytes([0x00, (27 - 10) << 3])
    block = (128 * 1024 << 3 | 1 << 1).to_bytes(3, "little") + b" "
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(PACK[".zst"](b'{"text": "good"}\n') + head + block * 4096 + b"\x01\x00\x00")
    found, grown = measured(_RSS, path, "jsonl", 10**9)
    assert found == "['good', 'too_long']"
    # The window (128 MiB), one bite (64 MiB), and the line's limit (16 MiB).
    assert int(grown) < (128 + 64 + 64) << 20
