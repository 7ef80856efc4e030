from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import PatternError
from vitruvius.patterns import (
    NAMED,
    Pattern,
    block,
    causal,
    dilated,
    everything,
    global_,
    parse,
    sinks,
    sliding,
    stride2d,
)

WORDS = [*NAMED, "window", "every", "offset", "=", "&", "|", "(", ")", ",", "4", "12", "0", "4k", "-", " ", "é", "\n"]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("causal", causal),
        ("  causal\n & sliding(4096)", causal & sliding(4_096)),
        ("sliding(4_096)", sliding(4_096)),
        ("sliding(window=8)", sliding(8)),
        ("dilated(1024, every=4)", dilated(1_024, 4)),
        ("dilated(every=4, window=1024)", dilated(1_024, 4)),
        ("global(128)", global_(128)),
        ("global(every=128, offset=3)", global_(128, 3)),
        ("global(128, 3)", global_(128, 3)),
        ("stride2d(4, 8)", stride2d(4, 8)),
        ("causal()", causal),
        ("((causal))", causal),
        ("causal & (sliding(8) | sinks(3))", causal & (sliding(8) | sinks(3))),
        ("(causal & sliding(8)) | sinks(3)", (causal & sliding(8)) | sinks(3)),
        ("sliding(8) | sinks(3) | global(every=16)", sliding(8) | sinks(3) | global_(16)),
        ("causal & block(8) & everything", causal & block(8) & everything),
        (" & ".join(["(causal)"] * 40), causal),
        ("(" * 32 + "causal" + ")" * 32, causal),
    ],
)
def test_a_text_reads_as_the_same_pattern_written_in_python(text, pattern):
    assert parse(text) == pattern


@pytest.mark.parametrize(
    ("text", "position", "what", "fix"),
    [
        ("", 0, "the pattern is empty", "for example"),
        (" \n ", 0, "the pattern is empty", "for example"),
        ("causl", 0, "no pattern named 'causl'", "did you mean 'causal'?"),
        ("causal & slidng(4)", 9, "no pattern named 'slidng'", "did you mean 'sliding'?"),
        ("Causal", 0, "no pattern named 'Causal'", "did you mean 'causal'?"),
        ("qwertz", 0, "no pattern named 'qwertz'", "patterns are causal, everything, sliding"),
        ("causal & document", 9, "no pattern named 'document'", "relative to the document"),
        ("сausal", 0, "'с' (U+0441) means nothing in a pattern", "use names"),
        ("sliding", 0, "sliding needs window", "sliding(4096)"),
        ("sliding()", 0, "sliding needs window", "sliding(4096)"),
        ("dilated(8)", 0, "dilated needs every", "dilated(1024, every=4)"),
        ("sliding(8, 9)", 11, "sliding takes 1 argument, not more", "sliding(4096)"),
        ("causal(3)", 7, "causal takes 0 arguments, not more", "write causal alone"),
        ("causal(window=3)", 7, "causal has no argument 'window'", "write causal alone"),
        ("sliding(windw=3)", 8, "sliding has no argument 'windw'", "did you mean 'window'?"),
        ("global(step=3)", 7, "global has no argument 'step'", "its arguments are every, offset"),
        ("global(every=3, every=4)", 16, "every is given twice", "once"),
        ("global(3, every=4)", 10, "every is given twice", "once"),
        ("dilated(every=4, 8)", 17, "a number without a name follows one with a name", "dilated(1024, every=4)"),
        ("sliding(0)", 8, "window must be at least 1, got 0", "window=1 or more"),
        ("causal & sliding(-1)", 17, "'-' means nothing in a pattern", "whole and positive"),
        ("sliding(4.0)", 8, "'4.0' is not a whole number", "all its digits"),
        ("sliding(4k)", 8, "'4k' is not a whole number", "all its digits"),
        ("sliding(1e3)", 8, "'1e3' is not a whole number", "all its digits"),
        ("sliding(4__0)", 8, "'4__0' is not a whole number", "all its digits"),
        ("sliding(1099511627776)", 8, "window must be below 2**40", "smaller"),
        (f"sliding({'9' * 900})", 8, "window must be below 2**40", "smaller"),
        ("sliding(causal)", 8, "sliding has no argument 'causal'", "its arguments are window"),
        ("sliding(window 3)", 15, "expected = after window", "as in sliding(4096)"),
        ("sliding(window=)", 15, "expected a whole number, found ')'", "as in sliding(4096)"),
        ("sliding(8", 9, "expected , or ) in the arguments of sliding", "as in"),
        ("sliding(8 9)", 10, "expected , or ) in the arguments of sliding", "as in"),
        ("sliding(,)", 8, "expected a whole number, found ','", "as in"),
        ("global(every=3, offset=3)", 0, "offset must be below every", "offset=0"),
        ("causal & dilated(1000000, every=10000000)", 9, "window * every must be below 2**40", "smaller"),
        ("(causal", 7, "the parenthesis opened at character 1 is not closed", "add a )"),
        ("causal & (sliding(8) | sinks(3)", 31, "the parenthesis opened at character 10 is not closed", "add a )"),
        ("causal)", 6, "expected & or | before ')'", "remove it"),
        ("causal sliding(8)", 7, "expected & or | before 'sliding'", "join terms"),
        ("causal &", 8, "expected a pattern, found the end of the text", "patterns are causal"),
        ("& causal", 0, "expected a pattern, found '&'", "patterns are causal"),
        ("causal && sliding(8)", 8, "expected a pattern, found '&'", "patterns are causal"),
        ("4096", 0, "expected a pattern, found '4096'", "patterns are causal"),
        ("~causal", 0, "'~' means nothing in a pattern", "& (both) and | (either)"),
        ("causal\x00", 6, "'\\x00' means nothing in a pattern", "use names"),
        ("(" * 33 + "causal" + ")" * 33, 32, "more than 32 parentheses inside each other", "nest less"),
    ],
)
def test_a_mistake_is_reported_where_it_stands_with_a_way_out(text, position, what, fix):
    with pytest.raises(PatternError) as caught:
        parse(text)
    error = caught.value
    assert (error.text, error.position) == (text, position)
    assert what in error.what
    assert fix in error.fix


@pytest.mark.parametrize(
    ("text", "position", "loose", "strict"),
    [
        (
            "causal & sliding(8) | sinks(3)",
            20,
            "(causal & sliding(8)) | sinks(3)",
            "causal & (sliding(8) | sinks(3))",
        ),
        (
            "sinks(3)|sliding(8)  &causal",
            21,
            "sinks(3) | (sliding(8) & causal)",
            "(sinks(3) | sliding(8)) & causal",
        ),
        (
            "causal & (block(4)) | sinks(3) | stride(2) & around(9)",
            20,
            "(causal & (block(4))) | sinks(3) | (stride(2) & around(9))",
            "causal & ((block(4)) | sinks(3) | stride(2)) & around(9)",
        ),
    ],
)
def test_mixing_and_with_or_shows_both_readings(text, position, loose, strict):
    with pytest.raises(PatternError, match=r"& and \| are mixed") as caught:
        parse(text)
    assert caught.value.position == position
    assert caught.value.fix == f"write {loose}  or  {strict}"
    assert parse(loose) != parse(strict)


def test_the_loose_reading_of_a_mixture_would_leak_the_future():
    assert not parse("(causal & sliding(8)) | sinks(3)").is_causal
    assert parse("causal & (sliding(8) | sinks(3))").is_causal


def test_a_mixture_inside_parentheses_is_refused_too():
    with pytest.raises(PatternError) as caught:
        parse("causal & (block(4) | sinks(3) & stride(2))")
    assert caught.value.position == 30
    assert caught.value.fix == "write block(4) | (sinks(3) & stride(2))  or  (block(4) | sinks(3)) & stride(2)"


@pytest.mark.parametrize("value", [None, 4096, causal, ["causal"]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(PatternError, match="written as text"):
        parse(value)


def test_a_text_of_more_than_a_thousand_characters_is_refused_unread():
    with pytest.raises(PatternError, match=r"1,001 characters"):
        parse("causal" + " " * 995)


@given(st.lists(st.sampled_from(WORDS), max_size=25).map("".join) | st.text(max_size=60))
def test_any_text_is_either_a_pattern_or_a_pattern_error_with_a_way_out(text):
    try:
        outcome = parse(text)
    except PatternError as error:
        outcome = error
    if isinstance(outcome, PatternError):
        assert outcome.fix
        assert outcome.position is not None
        assert 0 <= outcome.position <= len(text)
    else:
        assert isinstance(outcome, Pattern)
