"""The characters of a page of HTML, by the rules of the Encoding Standard (https://encoding.spec.whatwg.org)."""

from __future__ import annotations

import codecs
import re
from typing import Final

_MARKS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_DECLARED: Final = re.compile(
    rb"""<meta\s[^>]*?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)|^\s*<\?xml\s[^>]*?encoding\s*=\s*["']([A-Za-z0-9_.:-]+)""",
    re.IGNORECASE,
)
_PEEK_BYTES: Final = 1024

# What browsers read where a page says something close to it; UTF-7, punycode and the like are not on the list, because
# Python would decode them and no browser does.
_WIDER: Final = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs",
}  # fmt: skip
_NAMES: Final = """
    cp866 cp874 cp932 cp949 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258
    iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-10 iso8859-13 iso8859-14 iso8859-15
    iso8859-16 koi8-r koi8-u mac-roman mac-cyrillic big5hkscs euc_jp gb18030 iso2022_jp
"""
_KNOWN: Final = frozenset(_NAMES.split())


def declared_charset(page: bytes) -> str | None:
    """The Python codec for the character set that a page declares in its first 1,024 bytes, or None."""
    found = _DECLARED.search(page[:_PEEK_BYTES])
    if found is None:
        return None
    try:
        name = codecs.lookup((found[1] or found[2]).decode("ascii")).name
    except LookupError:
        return None
    name = _WIDER.get(name, name)
    return name if name in _KNOWN else None


def decoded_page(content: bytes) -> str | None:
    """A page as text: by its byte-order mark, else as UTF-8, else as what it declares; None when none of these fits."""
    for mark, codec in _MARKS:
        if content.startswith(mark):
            return _decoded(content[len(mark) :], codec)
    page = _decoded(content, "utf-8")
    if page is None and (declared := declared_charset(content)):
        page = _decoded(content, declared)
        if page is None and declared == "cp1252":
            # Five bytes that Windows left free stand for themselves.
            page = content.decode("latin-1")
    return page


def _decoded(content: bytes, codec: str) -> str | None:
    try:
        return content.decode(codec)
    except ValueError:
        return None
