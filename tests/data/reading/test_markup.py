"""HTML to text: what a reader sees, block by block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.reading.markup import declared_encoding, html_text

PAGES = {
    "paragraphs are apart": ("<p>One</p><p>Two</p>", "One\n\nTwo\n"),
    "white space collapses": ("<p>a \n\t b\r\n c</p>", "a b c\n"),
    "inline tags do not split words": ("<p>in<b>divis</b>ible <i>word</i>s</p>", "indivisible words\n"),
    "a space between inline tags stays": ("<b>a</b> <i>b</i>", "a b\n"),
    "br is a line": ("a<br>b<br/>c", "a\nb\nc\n"),
    "items are lines": ("<ul><li>a<li>b</ul>c", "a\nb\n\nc\n"),
    "cells are apart": ("<table><tr><td>a</td><td>b</td></tr><tr><td>c<td>d</table>", "a\tb\nc\td\n"),
    "pre keeps its space": ("<pre>def f():\n    return  1\n</pre>", "def f():\n    return  1\n"),
    "entities become characters": ("<p>&lt;a&gt; &amp; &eacute; &#8364; &#x1F600;</p>", "<a> & é € \U0001f600\n"),
    "scripts are dropped": ("a<script>if (x < 1) alert('<p>no</p>')</script>b", "ab\n"),
    "styles are dropped": ("<style>p { color: red }</style><p>a", "a\n"),
    "titles and drawings are dropped": ("<title>t</title><svg><text>s</text></svg><p>a", "a\n"),
    "comments are dropped": ("a<!-- <p>no</p> -->b", "ab\n"),
    "a comment may be empty": ("a<!-->b<!---->c", "abc\n"),
    "a comment that never ends takes the rest": ("a<!-- b", "a\n"),
    "declarations are dropped": ("<!DOCTYPE html><?xml version='1.0'?></ >a", "a\n"),
    "quotes hide the end of a tag": ("<a title='>no' alt=\"no>\">a</a>", "a\n"),
    "a quote outside a value hides nothing": ("<a b' c>yes'</a>", "yes'\n"),
    "a tag that never ends takes the rest": ("a<b no", "a\n"),
    "a lone less-than is text": ("1 < 2 <3 << 4", "1 < 2 <3 << 4\n"),
    "the end of a script needs the whole name": ("a<script></scripts>no</SCRIPT >b", "ab\n"),
    "a drawing may end itself": ("a<svg/>b", "ab\n"),
    "drawings nest": ("<svg><svg></svg>no</svg>a", "a\n"),
    "a number that is no character": (
        "a&#99999999999999;b&#x" + "f" * 5000 + ";c&#" + "9" * 5000 + "d",
        "a\ufffdb\ufffdc\ufffdd\n",
    ),
    "an unclosed drawing ends with the element around it": ("<noscript><svg>x</noscript>b", "b\n"),
    "no text at all": ("<div><p> </p></div>", ""),
    "no markup at all": ("just text", "just text\n"),
    "a stray end tag is harmless": ("</pre></div>a  b", "a b\n"),
}


@pytest.mark.parametrize(("page", "text"), PAGES.values(), ids=PAGES.keys())
def test_a_page_reads_as_it_looks(page, text):
    assert html_text(page) == text


@given(st.text(alphabet=st.sampled_from("<>/ab&;#!-'\"= \nps"), max_size=80))
def test_any_input_gives_text_that_ends_with_one_newline(page):
    text = html_text(page)
    assert text == "" or (text.endswith("\n") and not text.endswith("\n\n"))


@pytest.mark.parametrize(
    "unit", ["<", "<a ", "<a b='", '<a b="', "<!--", "<!", "<?", "</", "<svg>", "<svg></noscript>", "&#"]
)
def test_a_megabyte_of_what_never_ends_is_read(unit):
    # A parser that starts again at each of them takes hours, which the suite's time limit turns into a failure.
    assert len(html_text(unit * (2**20 // len(unit)))) <= 2**20 + 1


def test_a_declared_encoding_is_found_in_both_forms():
    assert declared_encoding(b"<meta charset=koi8-r>") == "koi8-r"
    assert declared_encoding(b'<meta http-equiv="x" content="text/html; charset=ISO-8859-2">') == "iso8859-2"
    assert declared_encoding(b"<p>charset=koi8-r") is None
    assert declared_encoding(b" " * 2000 + b"<meta charset=koi8-r>") is None
