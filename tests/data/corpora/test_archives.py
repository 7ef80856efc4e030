"""Reading Debian packages: what dpkg reads is read, and what is damaged or hostile is refused, in bounded memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvius.data.corpora.archives import BrokenArchiveError, Section, ar_members, tar_members, unpacked

PACK = {"": lambda content: content, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress}


def ar(**members):
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts.append(
            f"{name.replace('_', '-'):<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        )
        parts.append(b"\n" * (len(content) % 2))
    return b"".join(parts)


def tar(files, *, form=tarfile.GNU_FORMAT, links=()):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return stream.getvalue()


def section(content):
    return Section(io.BytesIO(content), len(content))


def read_tar(content):
    return [(member.name, member.kind, member.content.all(1 << 30)) for member in tar_members(section(content))]


@given(
    st.dictionaries(
        st.text("abc/.é", min_size=1, max_size=300).filter(lambda name: name.strip("/") == name),
        st.binary(max_size=2000),
        max_size=5,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_what_tarfile_writes_is_read_back(files, form):
    try:
        packed = tar(files, form=form)
    except ValueError:  # a name too long for ustar
        return
    assert read_tar(packed) == [(name, "file", content) for name, content in files.items()]


def test_links_devices_and_folders_are_named_and_never_followed():
    packed = tar({"a": b"text"}, links=[("b", "/etc/passwd"), ("c", "../../up")])
    assert read_tar(packed) == [("a", "file", b"text"), ("b", "link", b""), ("c", "link", b"")]


@pytest.mark.parametrize("suffix", PACK)
def test_each_compression_is_unpacked(suffix):
    content = bytes(range(256)) * 500
    stream = unpacked(section(PACK[suffix](content)), suffix)
    assert b"".join(iter(lambda: stream.read(1000), b"")) == content


def test_zstd_is_unpacked():
    zstandard = pytest.importorskip("zstandard")
    content = bytes(range(256)) * 500
    stream = unpacked(section(zstandard.compress(content)), ".zst")
    assert b"".join(iter(lambda: stream.read(1000), b"")) == content


def test_packed_streams_that_follow_one_another_are_one():
    stream = unpacked(section(lzma.compress(b"one ") + lzma.compress(b"two") + b"\0\0\0\0"), ".xz")
    assert b"".join(iter(lambda: stream.read(1000), b"")) == b"one two"


def read_all(stream):
    total = 0
    while piece := stream.read(1 << 16):
        total += len(piece)
    return total


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".bz2", ".zst"])
def test_a_bomb_stops_in_bounded_memory(suffix):
    pack = pytest.importorskip("zstandard").compress if suffix == ".zst" else PACK[suffix]
    inner = pack(bytes(2**20)) * 100
    tracemalloc.start()
    try:
        if len(inner) * 1000 < 100 * 2**20:
            with pytest.raises(BrokenArchiveError, match="times its size"):
                read_all(unpacked(section(inner), suffix))
        else:
            assert read_all(unpacked(section(inner), suffix)) == 100 * 2**20
        assert tracemalloc.get_traced_memory()[1] < 24 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".bz2", ".zst"])
def test_every_cut_and_every_flipped_byte_is_refused_or_harmless(suffix):
    if suffix == ".zst":
        zstandard = pytest.importorskip("zstandard")
        pack = zstandard.ZstdCompressor(write_checksum=True).compress
    else:
        pack = PACK[suffix]
    content = b"some text " * 50
    packed = pack(content)
    for cut in range(1, len(packed)):
        with pytest.raises(BrokenArchiveError):
            read_all(unpacked(section(packed[:cut]), suffix))
    for place in range(len(packed)):
        bad = bytearray(packed)
        bad[place] ^= 0x40
        stream = unpacked(section(bytes(bad)), suffix)
        try:
            found = b"".join(iter(lambda stream=stream: stream.read(100), b""))
        except BrokenArchiveError:
            continue
        assert found == content


def test_an_unknown_compression_is_refused():
    with pytest.raises(BrokenArchiveError, match=r"\.lz4"):
        unpacked(section(b""), ".lz4")


def test_members_of_ar_are_read_and_what_is_not_read_is_skipped():
    packed = ar(debian_binary=b"2.0\n", control=b"odd", data=b"even")
    assert [(part.name, part.size) for part in ar_members(io.BytesIO(packed))] == [
        ("debian-binary", 4), ("control", 3), ("data", 4),
    ]  # fmt: skip
    contents = [part.content.all(100) for part in ar_members(io.BytesIO(packed))]
    assert contents == [b"2.0\n", b"odd", b"even"]


@pytest.mark.parametrize(
    ("packed", "what"),
    [
        (b"", "no Debian package"),
        (b"PK\x03\x04", "no Debian package"),
        (b"!<arch>\n" + b"x" * 30, "header"),
        (b"!<arch>\n" + b"x" * 60, "header"),
        (ar(data=b"12345678")[:-4], "ends in the middle"),
        (ar(data=b"").replace(b"0         `", b"-1        `"), "number"),
        (ar(data=b"").replace(b"0         `", b"1e9       `"), "number"),
    ],
)
def test_a_damaged_ar_is_refused(packed, what):
    with pytest.raises(BrokenArchiveError, match=what):
        [part.content.all(100) for part in ar_members(io.BytesIO(packed))]


def header(name=b"name", size=b"00000000000\0", flag=b"0"):
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = flag
    block[257:265] = b"ustar  \0"
    block[148:156] = b"        "
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


END = bytes(1024)


@pytest.mark.parametrize(
    ("packed", "what"),
    [
        (b"", "last block"),
        (header()[:300], "middle of a header"),
        (header().replace(b"name", b"game") + END, "checksum"),
        (header(size=b"00000001000\0") + bytes(100), "middle of a file"),
        (header(size=b"99999999999\0") + END, "number"),
        (header(size=b"\x80" + b"\xff" * 11) + END, "middle of a file"),
        (header(flag=b"L", size=b"00000010001\0") + bytes(8192), "limit is 4,096"),
        (header(flag=b"x", size=b"00000000000\0") + END, "type"),
        (header(flag=b"S") + END, "type"),
        (header(), "last block"),
    ],
)
def test_a_damaged_tar_is_refused(packed, what):
    with pytest.raises(BrokenArchiveError, match=what):
        read_tar(packed)


@given(st.binary(max_size=1500), st.integers(0, 40))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_any_bytes_are_members_or_a_refusal(noise, keep):
    for content in (noise, (header() * 2)[: keep * 26] + noise):
        with contextlib.suppress(BrokenArchiveError):
            read_tar(content)
        with contextlib.suppress(BrokenArchiveError):
            [part.content.all(100) for part in ar_members(io.BytesIO(b"!<arch>\n" + content))]
