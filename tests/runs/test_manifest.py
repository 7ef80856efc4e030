"""Manifests: any difference between what was written and what is there has a name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import CorruptCheckpointError
from vitruvius.runs import verify_manifest, write_manifest

if TYPE_CHECKING:
    from pathlib import Path


def checkpoint(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (path / "state.json").write_text("{}")
    (path / "nested").mkdir()
    (path / "nested" / "optimizer").write_bytes(b"moments")
    (path / "empty").touch()
    write_manifest(path)
    return path


@pytest.fixture
def written(tmp_path):
    return checkpoint(tmp_path / "step-1")


def test_what_was_written_verifies(written):
    listed = verify_manifest(written)["files"]
    assert sorted(listed) == ["empty", "model.safetensors", "nested/optimizer", "state.json"]
    assert listed["model.safetensors"]["bytes"] == 2048


def test_the_manifest_has_the_sha256_of_each_file(written):
    # Of no bytes, as FIPS 180-4 gives it.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert json.loads((written / "manifest.json").read_text())["files"]["empty"]["sha256"] == empty


def test_a_missing_file_is_named(written):
    (written / "nested" / "optimizer").unlink()
    with pytest.raises(CorruptCheckpointError, match=r"nested/optimizer\n.*missing"):
        verify_manifest(written)


def test_an_extra_file_is_named(written):
    (written / "nested" / "extra").touch()
    with pytest.raises(CorruptCheckpointError, match=r"nested/extra\n.*does not list"):
        verify_manifest(written)


def test_another_size_is_named_with_both(written):
    (written / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors\n.*5 bytes.*2,048"):
        verify_manifest(written)


def test_a_folder_without_a_manifest_was_not_completely_written(written):
    (written / "manifest.json").unlink()
    with pytest.raises(CorruptCheckpointError, match="no manifest"):
        verify_manifest(written)


def test_a_link_in_the_place_of_a_file_is_refused(written):
    elsewhere = written.parent / "elsewhere"
    (written / "state.json").rename(elsewhere)
    (written / "state.json").symlink_to(elsewhere)
    with pytest.raises(CorruptCheckpointError, match=r"state\.json\n.*not a regular file"):
        verify_manifest(written)


@given(data=st.data())
def test_one_flipped_bit_anywhere_is_found_and_the_file_is_named(tmp_path_factory, data):
    folder = checkpoint(tmp_path_factory.mktemp("bits") / "step-1")
    files = ["model.safetensors", "state.json", "nested/optimizer", "manifest.json"]
    path = folder / data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpointError) as caught:
        verify_manifest(folder)
    # A flip in a name or hash inside the manifest breaks the manifest itself, before any file is blamed.
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b'{"schema": "vitruvius.manifest/1", "files": []}', b"\xff"],
    ids=["empty", "no keys", "a list", "files is a list", "not UTF-8"],
)
def test_a_file_that_is_no_manifest_is_refused(written, content):
    (written / "manifest.json").write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=r"manifest\.json"):
        verify_manifest(written)
