"""Data that is damaged on the disk is named with its file and place before anything is learned from it."""

from __future__ import annotations

import shutil

import pytest

from vitruvius.errors import DataError


def test_a_corrupt_shard_is_named_with_its_file_and_place(dense, run_of, data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    shard = max(
        (path for path in copy.rglob("*") if path.is_file() and "train" in str(path)), key=lambda p: p.stat().st_size
    )
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0x10
    shard.write_bytes(content)
    with pytest.raises(DataError) as caught:
        run_of(dense, data=copy)
    assert shard.name in str(caught.value)
    assert any(character.isdigit() for character in caught.value.what)
    assert "byte" in caught.value.what
