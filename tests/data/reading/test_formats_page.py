"""The page on formats says what the readers do."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from vitruvius.data.reading.documents import InputFile, ReadOptions, read_file
from vitruvius.data.reading.export import FORMS
from vitruvius.data.reading.inputs import SUFFIXES
from vitruvius.data.reading.jsonl import DEPTH
from vitruvius.data.reading.options import KINDS
from vitruvius.data.reading.reasons import DAMAGE, HARMLESS
from vitruvius.data.reading.units import UNIT_BYTES
from vitruvius.data.reading.unpacking import PACKING_SUFFIXES

PAGE = (Path(__file__).parents[3] / "docs" / "data" / "formats.md").read_text(encoding="utf-8")


def test_every_reason_is_in_the_table_with_its_weight():
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| (yes|no) \|$", PAGE, re.MULTILINE))
    assert rows == dict.fromkeys(HARMLESS, "no") | dict.fromkeys(DAMAGE, "yes")


def test_every_kind_suffix_and_form_is_named():
    for name in (*SUFFIXES, *PACKING_SUFFIXES, *(f".{form}" for form in FORMS)):
        assert f"`{name}`" in PAGE
    for kind in set(KINDS) - {"hf"}:
        assert f"| `{kind}` |" in PAGE
    assert "`hf:NAME_OR_PATH[:CONFIG][@SPLIT]`" in PAGE


def test_the_limits_are_those_of_the_options():
    options = ReadOptions()
    said = {
        "limit": (options.limit, "`--line-bytes` (16 MiB)", 16 << 20),
        "document_bytes": (options.document_bytes, "`--document-bytes` (16 MiB)", 16 << 20),
        "bomb_floor_bytes": (options.bomb_floor_bytes, "the larger of 64 MiB", 64 << 20),
        "bomb_ratio": (options.bomb_ratio, "200 times the compressed bytes", 200),
        "window_bytes": (options.window_bytes, "over 128 MiB", 128 << 20),
        "table_bytes": (options.table_bytes, "unpack to over 2 GiB", 2 << 30),
        "batch_bytes": (options.batch_bytes, "record batch over 256 MiB", 256 << 20),
    }
    numbers = {field.name for field in fields(ReadOptions) if isinstance(getattr(options, field.name), int)}
    assert said.keys() == numbers
    for value, text, stated in said.values():
        assert value == stated and text in PAGE
    assert f"over {DEPTH:,} lists" in PAGE
    assert f"about {UNIT_BYTES >> 20} MiB" in PAGE


STRANGE = {
    "zero-width": "a\u200b\u200c\u200d\u2060b",
    "tags": "a\U000e0041\U000e007f",
    "bidirectional controls": "a\u202e\u2066\u2069\u200fb",
    "a mark in the middle": "a\ufeffb",
    "escapes": "a\x1b[31mb\x07",
    "decomposed": "e\u0301",
    "a lone carriage return": "a\rb",
    "the last character": "a\U0010ffff\ufffe",
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
@pytest.mark.parametrize("kind", ["jsonl", "text", "source", "html", "parquet", "arrow"])
def test_what_is_only_strange_is_kept_in_every_format(tmp_path, kind, text):
    import json

    path = tmp_path / "a"
    if kind in {"parquet", "arrow"}:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import feather, parquet

        table = pa.table({"text": [text]})
        if kind == "parquet":
            parquet.write_table(table, path)
        else:
            feather.write_feather(table, path)
    else:
        path.write_bytes(json.dumps({"text": text}).encode() if kind == "jsonl" else text.encode())
    (found,) = read_file(InputFile(name="a", path=path, kind=kind), ReadOptions())
    assert found.text == text
