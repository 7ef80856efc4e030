"""Pages: by their mark, as UTF-8, or as they declare, and never by a codec that no browser knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.reading.charsets import declared_charset, decoded_page


def page(charset: str, text: str = "café") -> str:
    return f'<html><head><meta charset="{charset}"></head><p>{text}'


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_mark_says_more_than_a_declaration(codec):
    content = page("koi8-r").encode(codec)
    if codec == "utf-16-be":
        content = b"\xfe\xff" + content
    assert decoded_page(content) == page("koi8-r")


def test_utf_8_says_more_than_a_declaration():
    assert decoded_page(page("iso-8859-1").encode()) == page("iso-8859-1")


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("iso-8859-1", "cp1252", "“café” €"), ("latin1", "cp1252", "€"), ("us-ascii", "cp1252", "é"),
        ("windows-1251", "cp1251", "привет"), ("KOI8-R", "koi8-r", "привет"), ("shift_jis", "cp932", "日本語①"),
        ("euc-jp", "euc_jp", "日本語"), ("gb2312", "gb18030", "中文"), ("gbk", "gb18030", "中文"),
        ("big5", "big5hkscs", "中文"), ("euc-kr", "cp949", "한국어"), ("iso-8859-15", "iso8859-15", "€"),
        ("windows-1253", "cp1253", "αβγ"), ("macintosh", "mac-roman", "é"),
    ],
)  # fmt: skip
def test_a_page_that_is_not_utf_8_is_read_as_it_declares(charset, codec, text):
    assert decoded_page(page(charset, text).encode(codec)) == page(charset, text)


@pytest.mark.parametrize(
    "head",
    [
        b'<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-2">', b"<META CHARSET=iso-8859-2 />",
        b'<?xml version="1.0" encoding="iso-8859-2"?>', b"<meta charset = 'ISO-8859-2' >",
    ],
)  # fmt: skip
def test_a_declaration_is_found_in_each_form(head):
    assert declared_charset(b"\n" + head) == "iso8859-2"


@pytest.mark.parametrize(
    "charset",
    [
        "utf-7", "punycode", "idna", "unicode_escape", "raw_unicode_escape", "base64", "rot13", "utf-16", "none",
        "mbcs", "zlib",
    ],
)  # fmt: skip
def test_no_codec_of_pythons_own_is_used(charset):
    assert declared_charset(page(charset).encode()) is None
    assert decoded_page(page(charset).encode("latin-1")) is None


def test_bytes_that_windows_left_free_are_kept():
    assert decoded_page(b"<meta charset=latin1>\x81") == "<meta charset=latin1>\x81"


def test_a_declaration_too_far_down_does_not_count():
    assert declared_charset(b" " * 1024 + b"<meta charset=koi8-r>") is None


@given(st.binary())
def test_any_bytes_are_a_page_or_none(content):
    found = decoded_page(content)
    assert found is None or isinstance(found, str)
