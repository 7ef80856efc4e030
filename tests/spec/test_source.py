"""From text to a tree of values with positions."""

from __future__ import annotations

from math import isfinite

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.spec.scalars import ScalarError, read_scalar
from vitruvius.spec.source import key_positions, load, parse_text, positions, to_plain


def plain(text: str) -> object:
    return to_plain(parse_text(text))


def findings(text: str | bytes):
    with pytest.raises(SpecError) as caught:
        parse_text(text)
    return caught.value.findings


def only_finding(text: str | bytes):
    (finding,) = findings(text)
    return finding


@pytest.fixture(params=["C parser", "Python parser"])
def parser(request, monkeypatch):
    """Run the test with libyaml, and as where PyYAML was built without it."""
    if request.param == "Python parser":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    return request.param


# ---------------------------------------------------------------------------------------------------------- scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-0", 0),
        ("+5", 5),
        ("-12", -12),
        ("128_256", 128_256),
        ("99999999999999999999", 99999999999999999999),
        ("1e-3", 0.001),
        ("5e5", 500000.0),
        (".5", 0.5),
        ("-1.5", -1.5),
        ("1.", 1.0),
        ("4.0", 4.0),
        ("0.0", 0.0),
        ("0.00013245296274605415", 0.00013245296274605415),
        ("2.2250738585072014e-308", 2.2250738585072014e-308),
        ("1E+2", 100.0),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("1_", "1_"),
        ("1__0", "1__0"),
        ("_1", "_1"),
        ("1e", "1e"),
        ("-", "-"),
        (".", "."),
        ("nan", "nan"),
        ("tRUE", "tRUE"),
        ("0xq", "0xq"),
        ("128k", "128k"),
        ("\u0661\u0662", "\u0661\u0662"),
    ],
)
def test_a_plain_scalar_has_its_yaml_1_2_meaning(text, value):
    assert read_scalar(text) == value
    assert type(read_scalar(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("007", "leading zero", "write 7"),
        ("-012", "leading zero", "write -12"),
        ("00", "leading zero", "write 0"),
        ("012.5", "leading zero", "write 12.5"),
        ("0x10", "not a decimal", "write 16"),
        ("0o17", "not a decimal", "write 15"),
        ("-0b11", "not a decimal", "write -3"),
        ("0x" + "f" * 90, "not a decimal", "write it in decimal"),
        (".inf", "not a finite", "finite"),
        ("-.INF", "not a finite", "finite"),
        (".NaN", "not a finite", "finite"),
        ("1e400", "too large", "1.8e308"),
        ("-1e999", "too large", "1.8e308"),
        ("1e-400", "too small", "5e-324"),
        ("1" * 21, "21 digits", "round"),
        ("9" * 5000, "5,000 digits", "round"),
        ("0." + "1" * 21, "21 digits", "round"),
        ("1e" + "0" * 30, "30 digits", "round"),
    ],
)
def test_a_number_that_readers_disagree_about_is_refused_with_a_way_out(text, what, fix):
    with pytest.raises(ScalarError) as caught:
        read_scalar(text)
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert len(str(caught.value)) < 250


@given(st.integers(min_value=-(10**20) + 1, max_value=10**20 - 1))
def test_every_integer_of_up_to_20_digits_is_read_exactly(number):
    assert read_scalar(str(number)) == number
    assert read_scalar(f"{number:_}") == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_as_python_writes_it_is_read_exactly(number):
    assert read_scalar(repr(number)) == number


@given(st.text(alphabet="0123456789+-._eExo:ab", max_size=30))
def test_a_scalar_is_a_finite_number_a_string_or_refused(text):
    try:
        value = read_scalar(text)
    except ScalarError:
        return
    assert value is None or isinstance(value, str) or isfinite(value)


def test_quoted_scalars_are_always_strings(parser):
    assert plain("""{a: "1", b: 'true', c: "", d: 'null', e: "007"}""") == {
        "a": "1",
        "b": "true",
        "c": "",
        "d": "null",
        "e": "007",
    }


def test_block_scalars_are_strings(parser):
    assert plain("a: |\n  1\n  2\nb: >\n  x\n  y\n") == {"a": "1\n2\n", "b": "x y\n"}


# -------------------------------------------------------------------------------------------------------- positions


TEXT = """\
# a comment
name: tiny
blocks:
  local:
    mixer: {kind: attention, heads: 8}
layers: [local*2, "é", x]
empty:
"""


def test_the_tree_is_the_data_that_was_written(parser):
    assert plain(TEXT) == {
        "name": "tiny",
        "blocks": {"local": {"mixer": {"kind": "attention", "heads": 8}}},
        "layers": ["local*2", "é", "x"],
        "empty": None,
    }


def test_every_value_and_every_key_knows_its_place(parser):
    tree = parse_text(TEXT, file="my.yaml")
    values, keys = positions(tree), key_positions(tree)
    assert values[()] == ("my.yaml", 2, 1)
    assert values["name",] == ("my.yaml", 2, 7)
    assert keys["name",] == ("my.yaml", 2, 1)
    heads = ("blocks", "local", "mixer", "heads")
    assert keys[heads] == ("my.yaml", 5, 30)
    assert values[heads] == ("my.yaml", 5, 37)
    assert values["blocks", "local"] == ("my.yaml", 5, 5)
    assert values["layers", 1] == ("my.yaml", 6, 19)
    assert values["layers", 2] == ("my.yaml", 6, 24)
    assert set(keys) == {path for path in values if path and isinstance(path[-1], str)}


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_are_counted_alike_whatever_ends_them(newline, parser):
    tree = parse_text(TEXT.replace("\n", newline).encode())
    assert positions(tree) == positions(parse_text(TEXT))


names = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names
)
data = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4))


@given(st.dictionaries(names, data, min_size=1, max_size=5))
def test_what_json_writes_reads_back_the_same(value):
    import json

    assert plain(json.dumps(value)) == value
    tree = parse_text(json.dumps(value, indent=2))
    assert to_plain(tree) == value
    assert all(mark.line >= 1 and mark.column >= 1 for mark in positions(tree).values())


# ----------------------------------------------------------------------------------------------------------- syntax


@pytest.mark.parametrize(
    ("text", "line", "column", "what", "fix"),
    [
        ("a: %b # c", 1, 4, "cannot start with '%'", 'quote it: "%b"'),
        ("a: 1\nb: {c: @x}", 2, 8, "cannot start with '@'", 'quote it: "@x"'),
        ("a: `x`", 1, 4, "cannot start with '`'", 'quote it: "`x`"'),
        ("a: b: c", 1, 5, "second ': '", 'quote it: a: "b: c"'),
        ("a: 1\n  b: 2", 2, 4, "line above has a value", "indent it"),
        ("a: {b: 1", 1, 4, "'{' is never closed", "add the missing '}'"),
        ("a: [1,\n  2", 1, 4, "'[' is never closed", "add the missing ']'"),
        ("a: {b: 1 c: 2}", 1, 11, "expected ',' or '}'", "missing ','"),
        ("a: {b: [1, 2}", 1, 13, "expected ',' or ']' here, inside the '[' of line 1, column 8", "missing ','"),
        ('a: "b\nc', 1, 4, "quote is never closed", "close it"),
        (r'a: "\q"', 1, 4, "starts an escape", "single quotes"),
        ("a: - b", 1, 4, "list cannot start here", "[a, b]"),
        ("a: & b", 1, 5, "'&' is an anchor", "quote"),
        ("a: * b", 1, 5, "'*' is an alias", "quote"),
        ("a: | b", 1, 4, "text block", "quote"),
        ("a: [x]*2", 1, 7, "does not continue the mapping", "quote a value that goes on"),
        ('a: "x"y', 1, 7, "does not continue the mapping", "quote a value that goes on"),
        ("a:\n  - b\n c: 1", 3, 2, "does not continue the mapping", "same indentation"),
        ("a: ]", 1, 4, "bracket or comma", "quote it"),
    ],
)
def test_a_syntax_error_is_explained_where_it_stands(text, line, column, what, fix, parser):
    finding = only_finding(text)
    assert (finding.line, finding.column) == (line, column)
    assert what in finding.what
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("text", "fix", "column"),
    [
        ("a: {sees: dilated(1024, every=4), x: 1}", 'quote it: sees: "dilated(1024, every=4)"', 11),
        ("a: {sees: causal & (sliding(8) | f(1, b=2, c=3))}", '"causal & (sliding(8) | f(1, b=2, c=3))"', 11),
        ("a: [dilated(1024, every=4), 3]", 'quote it: "dilated(1024, every=4)"', 5),
        ("a: {sees: dilated(1024,\n    every=4)}", 'quote it: sees: "dilated(1024, every=4)"', 11),
    ],
)
def test_a_comma_that_broke_a_flow_mapping_is_answered_with_the_quoted_text(text, fix, column, parser):
    finding = only_finding(text)
    assert fix in finding.fix
    assert (finding.line, finding.column) == (1, column)


def test_a_pattern_with_commas_needs_no_quotes_outside_brackets(parser):
    assert plain("sees: causal & dilated(1024, every=4)") == {"sees": "causal & dilated(1024, every=4)"}


def test_a_missing_space_after_a_colon_is_noticed():
    assert "write 'heads: 8'" in only_finding("mixer: {heads:8}").fix


def test_all_findings_of_the_walk_are_reported_at_once(parser):
    found = findings("a: 007\nb: &x 1\nc: *x\nd: !!int 3\na: 2\nwid\u0442h: 3\n<<: {a: 1}\ne: @f\n")
    assert [finding.line for finding in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(finding.fix for finding in found)


def test_findings_name_the_field_they_are_about():
    assert only_finding("blocks:\n  local:\n    mixer: {heads: 08}").path == "blocks.local.mixer.heads"


def test_more_than_twenty_findings_are_counted():
    found = findings("".join(f"k{i}: 0{i}\n" for i in range(33)))
    assert len(found) == 21
    assert found[-1].what == "and 13 more findings"


def test_a_duplicate_key_names_both_lines(parser):
    finding = only_finding("a: 1\nb: 2\na: 3\n")
    assert (finding.line, finding.column) == (3, 1)
    assert "line 1, column 1" in finding.what


def test_the_same_key_in_two_mappings_is_no_duplicate():
    assert plain("a: {x: 1}\nb: {x: 1}") == {"a": {"x": 1}, "b": {"x": 1}}


# ------------------------------------------------------------------------------------------------------------ files


def test_a_file_is_read_under_its_own_name(tmp_path):
    file = tmp_path / "arch.yaml"
    file.write_text("width: 512\n")
    tree = load(file)
    assert to_plain(tree) == {"width": 512}
    assert tree.file == str(file)


def test_a_missing_file_is_a_finding(tmp_path):
    with pytest.raises(SpecError, match="no such file"):
        load(tmp_path / "missing.yaml")


def test_a_file_name_cannot_write_to_the_terminal(tmp_path):
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "a\x1b[31mb.yaml")
    assert "\x1b" not in str(caught.value)
    assert r"a\x1b[31mb.yaml" in str(caught.value)
