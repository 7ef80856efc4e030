"""HTML to text: what a reader sees, block by block, and the main part of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.cleaning.boilerplate import LEAST_CHARACTERS, main_text
from vitruvius.data.cleaning.pages import html_text, read_blocks

PAGES = {
    "paragraphs are apart": ("<p>One</p><p>Two</p>", "One\n\nTwo\n"),
    "white space collapses": ("<p>a \n\t b\r\n c</p>", "a b c\n"),
    "inline tags do not split words": ("<p>in<b>divis</b>ible <i>word</i>s</p>", "indivisible words\n"),
    "a space between inline tags stays": ("<b>a</b> <i>b</i>", "a b\n"),
    "br is a line": ("a<br>b<br/>c", "a\nb\nc\n"),
    "items are lines": ("<ul><li>a<li>b</ul>c", "a\nb\n\nc\n"),
    "cells are apart": ("<table><tr><td>a</td><td>b</td></tr><tr><td>c<td>d</table>", "a\tb\nc\td\n"),
    "pre keeps its space": ("<pre>def f():\n    return  1\n</pre>", "def f():\n    return  1\n"),
    "pre does not keep the newline it starts with": ("a<pre>\n  b</pre>", "a\n\n  b\n"),
    "highlighted code keeps its space": ("<pre><span>a</span> = <b>1</b>\n  c</pre>", "a = 1\n  c\n"),
    "entities become characters": ("<p>&lt;a&gt; &amp; &eacute; &#8364; &#x1F600;</p>", "<a> & é € \U0001f600\n"),
    "an entity does not go on behind a tag": ("&amp<b>;</b>", "&;\n"),
    "scripts are dropped": ("a<script>if (x < 1) alert('<p>no</p>')</script>b", "ab\n"),
    "styles are dropped": ("<style>p { color: red }</style><p>a", "a\n"),
    "titles and drawings are dropped": ("<title>t</title><svg><text>s</text></svg><p>a", "a\n"),
    "comments are dropped": ("a<!-- <p>no</p> -->b", "ab\n"),
    "a comment may be empty": ("a<!-->b<!---->c", "abc\n"),
    "a comment that never ends takes the rest": ("a<!-- b", "a\n"),
    "a script ends with its own end tag": ("a<script>'</style>' '</title>'</script>b<TITLE></script></title>", "ab\n"),
    "a comment in a script does not hide its end": ("<script><!-- </script> -->a", "-->a\n"),
    "declarations are dropped": ("<!DOCTYPE html><?xml version='1.0'?></ >a", "a\n"),
    "quotes hide the end of a tag": ("<a title='>no' alt=\"no>\">a</a>", "a\n"),
    "a quote outside a value hides nothing": ("<a b' c>yes'</a>", "yes'\n"),
    "a tag that never ends takes the rest": ("a<b no", "a\n"),
    "a lone less-than is text": ("1 < 2 <3 << 4", "1 < 2 <3 << 4\n"),
    "the end of a script needs the whole name": ("a<script></scripts>no</SCRIPT >b", "ab\n"),
    "a name that starts like a script is another": ("a<scripty>b</scripty>", "ab\n"),
    "a drawing may end itself": ("a<svg/>b", "ab\n"),
    "drawings nest": ("<svg><svg></svg>no</svg>a", "a\n"),
    "a number that is no character": (
        "a&#99999999999999;b&#x" + "f" * 5000 + ";c&#" + "9" * 5000 + "d",
        "a\ufffdb\ufffdc\ufffdd\n",
    ),
    "half a surrogate pair and NUL are no characters": ("a&#xd800;b&#0;", "a\ufffdb\ufffd\n"),
    "an unclosed drawing ends with the element around it": ("<noscript><svg>x</noscript>b", "b\n"),
    "so it does in a block": ("<div>a<svg>x</div>b", "a\n\nb\n"),
    "what is hidden is not seen": ("a<div hidden>no<div>no</div></div>b<span hidden>no</span>c", "a\n\nbc\n"),
    "what may be found is seen": ("<div hidden=until-found>a</div>", "a\n"),
    "a title of hidden is none": ('<b title="hidden">a</b>', "a\n"),
    "no text at all": ("<div><p> </p></div>", ""),
    "an empty pre is none": ("<pre>\n</pre>", ""),
    "no markup at all": ("just text", "just text\n"),
    "a stray end tag is harmless": ("</pre></div>a  b", "a b\n"),
    "names have no case": ("<P>a</P><PRE> b</PRE><SCRIPT>no</SCRIPT>", "a\n\n b\n"),
}


@pytest.mark.parametrize(("page", "text"), PAGES.values(), ids=PAGES.keys())
def test_a_page_reads_as_it_looks(page, text):
    assert html_text(page) == text


def test_a_large_page_reads_like_the_same_in_parts():
    # Pages over a mebibyte take another way through the tags.
    part = "<p>a <b>b</b> &amp; c<pre>x\n y</pre><table><tr><td>1<td>2</table><!-- no --><div hidden>no</div>"
    once = html_text(part)
    assert html_text(part * 12_000) == "\n".join([once] * 12_000)


@given(st.text(alphabet=st.sampled_from("<>/ab&;#!-'\"= \nps"), max_size=80))
def test_any_input_gives_text_that_ends_with_one_newline(page):
    text = html_text(page)
    assert text == "" or (text.endswith("\n") and not text.endswith("\n\n"))
    assert main_text(page) is None


@given(st.text(alphabet=st.sampled_from("abc \n\tx.<>&"), max_size=60))
def test_text_survives_being_written_as_html(text):
    import html

    words = text.split()
    assert html_text(f"<p>{html.escape(text)}</p>").split() == words


@pytest.mark.parametrize(
    "unit",
    [
        "<", "<a ", "<a b='", '<a b="', "<!--", "<!", "<?", "</", "<svg>", "<svg></noscript>", "&#", "<div>",
        "<ul><li>",
        "<b><i><u><font><a><p>", "<p><b a=1>", "<table><tr><td>", "<dl><dd>", "<div hidden>", "<main>", "<nav>",
        "<td>x", "<a href=x>y<li>", "<script>", "<script></scrip", "<!-", "->", '<div class="nav-x a-nav">', "=", "\"'",
        "<pre>\n",
        "&amp", "&notit;", "</p>", "<br>", "hidden ",
    ],
)  # fmt: skip
def test_half_a_megabyte_of_what_never_ends_is_read(unit):
    # A parser that starts again at each of them takes hours, which the suite's time limit turns into a failure; one
    # that builds the tree of the standard makes gigabytes of some.
    page = unit * (2**19 // len(unit))
    assert len(html_text(page)) <= 2**20
    assert len(html_text("<div " + page)) <= 2**20
    main = main_text(page)
    assert main is None or len(main) <= 2**20


SENTENCE = "This is a sentence of the article, and it has more than enough words to be one of its paragraphs. "
LINKS = "".join(f"<li><a href=/{n}>Another page {n}</a></li>" for n in range(12))
FRAME = {
    "nav by its tag": f"<nav><ul>{LINKS}</ul></nav>",
    "nav by its role": f'<div role="navigation">{LINKS}<div>Another page</div></div>',
    "a footer": "<footer>Another page, all rights reserved</footer>",
    "a side bar by its class": f'<div class="left sidebar-first">{LINKS}</div>',
    "a list of links": f"<ul>{LINKS}</ul>",
    "a form": "<form>Another page <input name=q> <button>Search</button></form>",
    "a cookie notice": '<div id="cookie-banner"><p>Another page uses cookies to be better for you and us.</p></div>',
}


@pytest.mark.parametrize("frame", FRAME.values(), ids=FRAME.keys())
def test_the_main_text_is_free_of(frame):
    article = f"<h1>Title</h1><p>{SENTENCE * 2}</p><p>{SENTENCE * 3}</p><pre>x = 1</pre><p>{SENTENCE}</p>"
    for page in (f"<body>{frame}<div>{article}</div>{frame}", f"<body>{frame}<main>{article}</main>{frame}"):
        text = main_text(page)
        assert text is not None
        assert "Another page" not in text
        assert text.count(SENTENCE.strip()) == 6
        assert "Title" in text
        assert "x = 1" in text


def test_a_page_that_is_all_frame_has_no_main_text():
    assert main_text(f"<body><nav>{SENTENCE * 9}</nav><footer>{SENTENCE}</footer>") is None
    assert main_text("<p>" + "word " * (LEAST_CHARACTERS // 5 - 1)) is None


def test_a_wrapper_that_names_the_side_bar_is_not_it():
    text = main_text(f'<body class="has-sidebar"><div class="with-sidebar no-footer"><p>{SENTENCE * 4}</p></div>')
    assert text == (SENTENCE * 4).strip() + "\n"


def test_the_rows_of_a_table_are_judged_together():
    rows = "".join(f"<tr><td>name {n}<td>{n}<td>kind</tr>" for n in range(20))
    text = main_text(f"<p>{SENTENCE * 3}</p><table>{rows}</table><p>{SENTENCE}</p>")
    assert text is not None
    assert text.count("kind") == 20


def test_the_words_of_a_page_are_those_that_a_tree_builder_finds():
    lexbor = pytest.importorskip("selectolax.lexbor")
    page = (
        "<!doctype html><title>T</title><body><nav><ul><li><a href=x>One</a><li>Two</ul></nav><main><h1>A &amp; B</h1>"
        "<p>Some <em>words</em> here<p>more<table><tr><th>k<td>v<tr><td>1<td>2</table>"
        "<dl><dt>t<dd>d</dl><pre>\n a  b\n</pre>"
        "<blockquote>q<br>r</blockquote></main><footer>&copy; 2024</footer>"
    ) * 3
    tree = lexbor.LexborHTMLParser(page)
    for title in tree.css("title"):
        title.decompose()
    theirs = tree.body.text(separator=" ")
    assert Counter(html_text(page).split()) == Counter(theirs.split())


def test_a_block_knows_where_it_stands():
    page = "<h2>a</h2><article><li>b <a href=x>link</a><pre>c</pre></article>d"
    found = [(block.text, block.element, block.linked, block.in_main) for block in read_blocks(page)]
    assert found == [("a", "h2", 0, False), ("b link", "li", 4, True), ("c", "pre", 0, True), ("d", "", 0, False)]
