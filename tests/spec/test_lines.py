"""The layer lines: which block stands where, and which layers share weights."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vitruvius.spec.line_writing import format_line
from vitruvius.spec.lines import MAX_DEPTH, LayerItem, LineError, parse_line, parse_lines

BLOCKS = ("dense", "moe", "local", "global", "dilated", "full", "a", "b", "x-1", "y_2")


def names(line: str) -> list[str]:
    return [item.name for item in parse_line(line, BLOCKS)]


def weights(line: str) -> list[int]:
    return [item.weights for item in parse_line(line, BLOCKS)]


def error(text: str | list[str], limit: int = 10_000) -> LineError:
    with pytest.raises(LineError) as caught:
        parse_lines(text, BLOCKS, limit=limit)
    return caught.value


# ---------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a", ["a"]),
        ("a b", ["a", "b"]),
        ("a*3 b", ["a", "a", "a", "b"]),
        ("(a b)*2", ["a", "b", "a", "b"]),
        ("(local*2 global)*2 local", ["local", "local", "global", "local", "local", "global", "local"]),
        ("a*2*2", ["a"] * 4),
        ("  a\t*  2 \n( b )^1", ["a", "a", "b"]),
        ("(a)(b)", ["a", "b"]),
        ("x-1*2 y_2", ["x-1", "x-1", "y_2"]),
        ("((a))", ["a"]),
    ],
)
def test_a_line_names_its_layers_bottom_first(line, expected):
    assert names(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a*3", [0, 1, 2]),
        ("a^3", [0, 0, 0]),
        ("a a", [0, 1]),
        ("a^2 a^2", [0, 0, 1, 1]),
        ("(a b)^2", [0, 1, 0, 1]),
        ("(a^2 b)*3", [0, 0, 1, 2, 2, 3, 4, 4, 5]),
        ("(a*2)^3 b", [0, 1, 0, 1, 0, 1, 2]),
        ("(a b)^2*2", [0, 1, 0, 1, 2, 3, 2, 3]),
        ("a*2^2", [0, 1, 0, 1]),
        ("a^2*2", [0, 0, 1, 1]),
    ],
)
def test_a_star_makes_new_weights_and_a_caret_repeats_the_same(line, expected):
    assert weights(line) == expected


# A line as nested data: a name, or (items, ((sign, times), ...)).
trees = st.recursive(
    st.sampled_from(("a", "b", "moe")),
    lambda inner: st.tuples(
        st.lists(inner, min_size=1, max_size=3),
        st.lists(st.tuples(st.sampled_from("*^"), st.integers(1, 3)), max_size=2),
    ),
    max_leaves=5,
)


def written(tree) -> str:
    if isinstance(tree, str):
        return tree
    items, repeats = tree
    return f"({' '.join(map(written, items))})" + "".join(f"{sign}{times}" for sign, times in repeats)


def copied(layers, fresh):
    """The same layers with new weights; what shared weights before shares them still."""
    new = {}
    return [(name, new.setdefault(key, next(fresh)) if key not in new else new[key]) for name, key in layers]


def meant(tree, fresh):
    """The definition, word by word: every layer a (name, key), with equal keys for shared weights."""
    if isinstance(tree, str):
        return [(tree, next(fresh))]
    items, repeats = tree
    layers = [layer for item in items for layer in meant(item, fresh)]
    for sign, times in repeats:
        layers = [layer for _ in range(times) for layer in (copied(layers, fresh) if sign == "*" else layers)]
    return layers


@given(trees)
def test_nested_repeats_mean_what_they_say(tree):
    layers = meant(tree, itertools.count())
    order = {}
    expected = [(name, order.setdefault(key, len(order))) for name, key in layers]
    read = parse_line(written(tree), BLOCKS)
    assert [(item.name, item.weights) for item in read] == expected


@pytest.mark.parametrize(
    ("line", "position", "what", "fix"),
    [
        ("a locl*2", 2, "no block 'locl'", "did you mean 'local'?"),
        ("a zzzzz", 2, "no block 'zzzzz'", "the blocks are dense, moe"),
        ("a*0", 2, "at least 1, found '0'", "delete it"),
        ("a*-1", 2, "cannot read '-1'", "counts are 1 or more"),
        ("a*", 1, "found the end of the line", "`*2`"),
        ("a^", 1, "'^' needs a count", "`^2`"),
        ("a**2", 2, "found '*'", "`*2`"),
        ("a*b", 2, "found 'b'", "`*2`"),
        ("a*007", 2, "found '007'", "`*7`"),
        ("a*1.5", 3, "cannot read '.5'", "counts"),
        ("a*16dilated", 2, "found '16dilated'", "`*2`"),
        ("*2", 0, "nothing stands before this '*'", "block first"),
        ("(*2)", 1, "nothing stands before this '*'", "block first"),
        ("3", 0, "expected the name of a block, found '3'", "a count follows"),
        ("a 3", 2, "expected the name of a block, found '3'", "a count follows"),
        ("(a", 0, "never closed", "missing ')'"),
        ("a ((b)", 2, "never closed", "missing ')'"),
        ("a)", 1, "closes nothing", "missing '('"),
        ("a ()", 2, "nothing between", "name a block"),
        ("", 0, "no layers", "name at least one"),
        ("   ", 0, "no layers", "name at least one"),
        ("a, b", 1, "cannot read ','", "separate blocks by spaces"),
        ("a \u0430", 2, "U+0430 CYRILLIC SMALL LETTER A", "type 'a' in ASCII"),
        ("a \x1b[31m", 2, "U+001B", ""),
        ("_a", 0, "cannot read '_a'", "names of blocks"),
        ("(" * 100 + "a" + ")" * 100, MAX_DEPTH, "nest more than 64 deep", ""),
        ("a" + "*1" * 100, 1 + 2 * MAX_DEPTH, "more than 64 counts in a row", "multiply"),
    ],
)
def test_what_cannot_be_read_is_pointed_at(line, position, what, fix):
    caught = error(line)
    if "U+001B" in what:
        what = "cannot read '\\x1b[31m'"
    assert caught.position == position
    assert what in caught.what
    assert fix in caught.fix


# ------------------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("a*100000000000000000000000", "100,000,000,000,000,000,000,000"),
        ("((a*10000000)*10000000)*1000000000", "100,000,000,000,000,000,000,000 layers"),
        ("a*10001", "10,001 layers"),
        ("(a b)*5001", "10,002 layers"),
        ("a*10000 b", "10,001 layers"),
        ("a^1000000000", "1,000,000,000 layers"),
        ("a" + "*99999999999999999999" * 60, "about 10^1200 layers"),
        ("(" * 60 + "a" + "*99999999999999999999)" * 60, "about 10^1200 layers"),
        ("a*" + "9" * 5000, "a number of 5,000 digits"),
        ("a " * 10_001, "more than 10,000 layers"),
    ],
)
def test_too_many_layers_are_counted_and_never_written_out(line, number):
    caught = error(line)
    assert number in caught.what
    assert "10,000" in caught.what
    assert len(str(caught)) < 300


def test_the_limit_itself_is_allowed():
    assert len(parse_line("a*10000", BLOCKS)) == 10_000
    assert len(parse_line("(a b)*3", BLOCKS, limit=6)) == 6
    assert "7 layers; the limit is 6" in error("(a b)*3 a", limit=6).what


# ---------------------------------------------------------------------------------------------------- stacked lines


def test_stacked_lines_give_one_item_of_each_line_per_layer():
    layers = parse_lines(["(a b)*2", "dense^2 moe*2"], BLOCKS)
    assert [tuple(item.name for item in row) for row in layers] == [
        ("a", "dense"),
        ("b", "dense"),
        ("a", "moe"),
        ("b", "moe"),
    ]
    assert [tuple(item.weights for item in row) for row in layers] == [(0, 0), (1, 0), (2, 1), (3, 2)]


def test_one_line_gives_rows_of_one_item():
    assert parse_lines("a b", BLOCKS) == parse_lines(["a b"], BLOCKS)
    assert all(len(row) == 1 for row in parse_lines("a b", BLOCKS))


def test_stacked_lines_of_unequal_length_are_refused_with_their_lengths():
    assert "these have 3, 4" in error(["a*3", "b*4"]).what


def test_an_error_in_a_stacked_line_says_in_which():
    caught = error(["a", "b*"])
    assert (caught.line_index, caught.position) == (1, 1)
    assert "line 2 of layers, character 2" in str(caught)


def test_no_lines_are_no_layers():
    assert error([]).what == "no layers"


# ---------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a b",
        "a*32",
        "(dense moe)*16",
        "local*16 dilated*12 full*4",
        "(local*5 global)*5 local*4",
        "(a*4 b a*3)*4",
        "(a*3 b)*9",
        "dense*3 moe*58",
        "((a b)*3 moe)*4 dense",
        "a*10000",
        "(a*9 b)*1000",
    ],
)
def test_the_lines_of_real_architectures_are_found_again(line):
    assert format_line(names(line)) == line


def test_nothing_is_written_as_nothing():
    assert format_line([]) == ""


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=60) | st.lists(st.sampled_from("abcd"), min_size=1))
def test_what_is_written_reads_back_the_same(layers):
    line = format_line(layers)
    assert [item.name for item in parse_line(line, "abcd")] == layers
    assert len(line) <= 3 * len(layers)


@given(trees)
def test_a_written_line_names_no_more_blocks_than_a_person_wrote(tree):
    def blocks(line: str) -> int:
        return sum(character.isalpha() for character in line.replace("moe", "m"))

    line = written(tree).replace("^", "*")
    assume(len(names(line)) <= 64)
    assert blocks(format_line(names(line))) <= blocks(line)


@given(st.text(alphabet="ab()*^019 -x", max_size=40))
def test_any_text_is_read_or_refused(text):
    outcome = layers_or_error(text)
    if isinstance(outcome, LineError):
        assert outcome.what
        assert outcome.position is None or 0 <= outcome.position <= len(text)
    else:
        assert 1 <= len(outcome) <= 500
        used = [item.weights for item in outcome]
        assert set(used) == set(range(max(used) + 1))


def layers_or_error(text: str) -> list[LayerItem] | LineError:
    try:
        return parse_line(text, BLOCKS, limit=500)
    except LineError as caught:
        return caught
