from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import PatternError
from vitruvius.patterns import (
    NAMED,
    Pattern,
    causal,
    everything,
    fit_text,
    parse,
    picture_of,
    shrink_text,
    sliding,
    to_svg,
    to_text,
)

PATTERNS = st.from_type(Pattern)
SVG = "{http://www.w3.org/2000/svg}"
HALVES = {"█": (True, True), "▀": (True, False), "▄": (False, True)}


def cells(pattern: Pattern, n: int) -> set[tuple[int, int]]:
    return {(q, k) for q in range(n) for k in range(n) if pattern.allows(q, k)}


@given(PATTERNS, st.integers(1, 24))
def test_the_half_blocks_show_every_pair_and_no_other(pattern, n):
    drawn = set()
    for line, text in enumerate(to_text(pattern, n).split("\n")):
        for k, character in enumerate(text):
            drawn |= {(2 * line + half, k) for half, seen in enumerate(HALVES.get(character, ())) if seen}
    assert drawn == cells(pattern, n)


@given(PATTERNS, st.integers(1, 24))
def test_ascii_shows_every_pair_and_no_other(pattern, n):
    lines = to_text(pattern, n, style="ascii").split("\n")
    assert len(lines) == n
    drawn = {(q, k) for q, line in enumerate(lines) for k in range(n) if line[2 * k : 2 * k + 1] == "#"}
    assert drawn == cells(pattern, n)


@given(PATTERNS, st.integers(1, 24))
def test_the_svg_shows_every_pair_and_no_other(pattern, n):
    root = ET.fromstring(to_svg(pattern, n))
    drawn: list[tuple[int, int]] = []
    for name in ("seen", "itself"):
        (path,) = [one for one in root.iter(f"{SVG}path") if one.get("class") == name]
        for run in (path.get("d") or "").split("M")[1:]:
            k, rest = run.split(" ")
            q, rest = rest.split("h", 1)
            drawn += [(int(q), int(k) + i) for i in range(int(rest.split("v")[0]))]
            assert name == "seen" or q == k
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == cells(pattern, n)


def test_a_window_with_globals_in_half_blocks():
    assert picture_of("causal & (sliding(4096) | global(every=128))", 16).split("\n") == [
        "█▄",
        "███▄",
        "█▀███▄",
        "█··▀███▄",
        "█···█▀███▄",
        "█···█··▀███▄",
        "█···█···█▀███▄",
        "█···█···█··▀███▄",
    ]


def test_a_window_in_ascii():
    assert to_text(sliding(2), 4, style="ascii") == "#\n# #\n. # #\n. . # #"


def test_an_odd_number_of_rows_ends_in_upper_halves():
    assert to_text(everything, 3) == "███\n▀▀▀"
    assert to_text(causal, 1) == "▀"


def test_the_svg_has_a_title_and_the_size_asked_for():
    root = ET.fromstring(to_svg(sliding(8), 32, size=120))
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("120", "120", "0 0 32 32")
    assert root.findtext(f"{SVG}title") == "0 <= q - k < 8"


@pytest.mark.parametrize(
    ("text", "fitted"),
    [
        ("causal & (sliding(4096) | global(every=128))", "causal & (sliding(8) | global(every=8))"),
        ("causal & dilated(1024, every=4)", "causal & dilated(4, every=4)"),
        ("causal & dilated(64, every=512)", "causal & dilated(2, every=8)"),
        ("causal & stride2d(32, 32)", "causal & stride2d(4, 4)"),
        ("causal & ( sliding(100)|sinks(1000) )", "causal & ( sliding(8)|sinks(4) )"),
        ("causal & block(512)", "causal & block(8)"),
        ("stride(64)", "stride(8)"),
        ("global(offset=100, every=128)", "global(offset=6, every=8)"),
        ("causal & (sliding(16) | sinks(4))", "causal & (sliding(16) | sinks(4))"),
        ("causal", "causal"),
    ],
)
def test_a_text_is_fitted_term_by_term_and_keeps_its_form(text, fitted):
    assert fit_text(text, 32) == fitted


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("n", [8, 16, 32, 64])
def test_every_example_fits_its_picture(name, n):
    span = parse(fit_text(NAMED[name].example, n)).longest_reach
    assert span is None or span <= n


@pytest.mark.parametrize(
    ("text", "factor", "smaller"),
    [
        ("causal & (sliding(4096) | global(every=128))", 128, "causal & (sliding(32) | global(every=2))"),
        ("causal & dilated(1024, every=4)", 128, "causal & dilated(8, every=4)"),
        ("causal & dilated(8, every=512)", 128, "causal & dilated(2, every=16)"),
        ("sliding(4_096)", 1, "sliding(4_096)"),
        ("sliding(4_096)", 1.5, "sliding(2730)"),
        ("around(512) & block(1024)", 64, "around(8) & block(16)"),
        ("sinks(4) | sliding(1)", 100, "sinks(1) | sliding(1)"),
        ("stride2d(64, 64)", 64, "stride2d(8, 8)"),
        ("global(12, 11)", 5, "global(2, 1)"),
        ("causal", 1000, "causal"),
    ],
)
def test_a_twin_keeps_the_text_and_divides_its_numbers(text, factor, smaller):
    assert shrink_text(text, factor) == smaller


@given(
    st.sampled_from([name for name, entry in NAMED.items() if entry.parameters]),
    st.lists(st.integers(1, 5_000), min_size=2, max_size=2),
    st.floats(1, 5_000),
)
def test_a_shrunken_text_is_a_pattern_that_is_no_larger(name, numbers, factor):
    parameters = [parameter.name for parameter in NAMED[name].parameters]
    if name == "global":
        numbers = [max(numbers) + 1, min(numbers)]
    text = f"{name}({', '.join(map(str, numbers[: len(parameters)]))})"
    before, after = parse(text).longest_reach, parse(shrink_text(text, factor)).longest_reach
    assert (before is None and after is None) or after <= before


@pytest.mark.parametrize("factor", [0, 0.5, -1, float("nan"), float("inf")])
def test_a_pattern_only_shrinks(factor):
    with pytest.raises(PatternError, match="factor of at least 1"):
        shrink_text("causal", factor)


@pytest.mark.parametrize(
    ("text", "widest", "longest"),
    [
        ("causal", None, None),
        ("causal & sliding(4096)", 4_096, 4_096),
        ("causal & dilated(1024, every=4)", 4_093, 4_093),
        ("around(64)", 64, 64),
        ("block(512)", 512, 512),
        ("causal & (sliding(8) | global(every=128))", 8, 128),
        ("causal & (sliding(8) | sinks(12))", 8, 12),
        ("causal & stride(7)", None, 7),
        ("sliding(1)", 1, 1),
        ("sinks(1)", None, 1),
    ],
)
def test_a_pattern_knows_its_widest_window_and_its_longest_reach(text, widest, longest):
    assert (parse(text).widest_window, parse(text).longest_reach) == (widest, longest)


@pytest.mark.parametrize("n", [0, -1, 257, True, 8.0])
def test_a_picture_has_a_sensible_size(n):
    for draw in (to_text, to_svg):
        with pytest.raises(PatternError):
            draw(causal, n)
    with pytest.raises(PatternError):
        picture_of("causal", n)


@pytest.mark.parametrize("draw", [to_text, picture_of])
def test_an_unknown_style_names_the_known_ones(draw):
    with pytest.raises(PatternError, match="no style 'oil'") as caught:
        draw(causal, 8, style="oil")
    assert "blocks, ascii" in caught.value.fix


def test_a_pattern_object_is_drawn_as_it_is():
    assert picture_of(sliding(6), 8, style="ascii") == to_text(sliding(6), 8, style="ascii")
    assert picture_of("sliding(4096)", 32, style="svg") == to_svg(sliding(8), 32)
