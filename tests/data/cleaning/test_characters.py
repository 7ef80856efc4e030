"""Characters that hide go, each kind by its own setting; white space gets one form; indentation stays."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.cleaning.unicode import Unicode
from vitruvius.data.cleaning.whitespace import Whitespace
from vitruvius.data.document import Document

CODE = "def f():\n\tif x:\n\t    return  'a b'  + \"\\u200b\"\n\n\n# end\n"


def _text(step, text):
    return step.rewritten(Document(id="d", file="f", line=1, byte_offset=0, text=text)).document.text


HIDDEN = {
    "controls": ("a\x00\x08b\x7fc\x9f", "abc", 4),
    "terminal escapes": ("\x1b[1;31mred\x1b[0m", "red", 11),
    "zero_width": ("a\u200bb\ufeffc\u2060", "abc", 3),
    "soft_hyphens": ("hy\xadphen", "hyphen", 1),
    "tags": ("hi\U000e0068\U000e0069", "hi", 2),
    "bidi": ("if admin\u202e\u2066 x\u2069", "if admin x", 3),
    "noncharacters": ("a\ufffe\ufdd0\U0001ffffb", "ab", 3),
}


@pytest.mark.parametrize(("name", "case"), HIDDEN.items(), ids=HIDDEN)
def test_what_hides_goes_and_is_counted(name, case, document):
    text, shown, count = case
    name = "controls" if name == "terminal escapes" else name
    done = Unicode().rewritten(document(text))
    assert (done.document.text, dict(done.changes)) == (shown, {name: count})
    assert Unicode(**{name: "keep"}).rewritten(document(text)).changes == {}


KEPT = {"joiners": "\u0645\u06cc\u200c\u062e", "direction_marks": "\u200fa\u200e", "replacements": "a\ufffd"}


@pytest.mark.parametrize(("name", "text"), KEPT.items(), ids=KEPT)
def test_what_some_texts_need_stays_unless_told(name, text, document):
    assert Unicode().rewritten(document(text)).document.text == text
    done = Unicode(**{name: "remove"}).rewritten(document(text))
    assert sum(done.changes.values()) == done.changes[name] == len(text) - len(done.document.text)


def test_a_family_of_emoji_stays_one():
    assert (
        _text(Unicode(), "\U0001f468\u200d\U0001f469\u200d\U0001f466") == "\U0001f468\u200d\U0001f469\u200d\U0001f466"
    )


def test_the_normal_form_is_the_named_one(document):
    assert _text(Unicode(), "e\u0301 \ufb01 \u2460") == "\xe9 \ufb01 \u2460"
    assert _text(Unicode(normalize="nfkc"), "e\u0301 \ufb01 \u2460") == "\xe9 fi 1"
    assert _text(Unicode(normalize="keep"), "e\u0301") == "e\u0301"
    assert Unicode().rewritten(document("e\u0301")).changes == {"normalized": 1}


def test_nothing_changes_what_is_plain(document):
    for step in (Unicode(), Whitespace()):
        done = step.rewritten(document(CODE))
        assert done.document.text == CODE
        assert done.changes == {}


@pytest.mark.parametrize(
    "marks", ["\u0301\u0323", "\u0344", "\uff9e", "\u0f73\u0f75", "\U0001d165\u0323", "\u0315\u0300\u05ae\u0358"]
)
def test_half_a_million_accents_on_one_letter_are_cut(marks, document):
    # Ordering them takes quadratic time, hours for so many.
    for form in ("nfc", "nfkc"):
        done = Unicode(normalize=form).rewritten(document("a" + marks * 250_000 + "b"))
        assert len(done.document.text) < 100
        assert done.changes["marks"] == 250_000 * len(marks) - 30


@given(st.text(max_size=60))
def test_a_text_that_went_through_is_left_alone(text):
    for step in (Unicode(), Unicode(normalize="nfkc", joiners="remove", replacements="remove"), Whitespace()):
        once = _text(step, text)
        assert _text(step, once) == once


@given(st.text(max_size=60))
def test_nothing_but_the_normal_form_changes_visible_characters(text):
    kept = _text(Unicode(normalize="keep"), text)
    assert unicodedata.is_normalized("NFC", _text(Unicode(), text))
    visible = [c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Cn", "Cs")]
    if "\x1b" not in text:
        assert [c for c in kept if unicodedata.category(c) not in ("Cc", "Cf", "Cn", "Cs")] == [
            c for c in visible if c != "\u180e"
        ]


SPACES = {
    "line_ends": ("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h", "a\nb\nc\nd\ne\nf\ng\nh", 7),
    "trailing": ("a  \n\t\nb\t\nc", "a\n\nb\nc", 3),
    "empty_lines": ("a\n\n\n\n\n\nb", "a\n\n\nb", 3),
    "ends": ("\n \n  a\n\n\n", "  a\n", 5),
}


@pytest.mark.parametrize(("name", "case"), SPACES.items(), ids=SPACES)
def test_white_space_gets_one_form(name, case, document):
    text, plain, count = case
    done = Whitespace().rewritten(document(text))
    assert done.document.text == plain
    assert done.changes[name] == count or name == "ends"
    off = {"empty_lines": None}.get(name, "keep")
    assert name not in Whitespace(**{name: off}).rewritten(document(text)).changes


def test_exotic_spaces_become_plain_where_asked(document):
    assert Whitespace().rewritten(document("a\xa0b\u3000c")).changes == {}
    done = Whitespace(spaces="plain").rewritten(document("a\xa0b\u3000c\td"))
    assert (done.document.text, dict(done.changes)) == ("a b c\td", {"spaces": 2})


@pytest.mark.parametrize(
    "text", [" " * 10**6, "\n" * 10**6, " \n" * 10**6, "a " * 10**6, " a" * 10**6, "\t \t" * 10**6]
)
def test_a_million_blanks_take_no_time(text):
    assert len(_text(Whitespace(), text + "x")) <= len(text) + 1
