"""Text that is out to hurt the reader: it is refused by name, and nothing else happens."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from vitruvius.errors import Finding, SpecError
from vitruvius.spec.source import MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, load, parse_text, to_plain

# Generous: every one of these takes milliseconds; what is guarded against takes hours.
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["C parser", "Python parser"])
def parser(request, monkeypatch):
    """Run the test with libyaml, and as where PyYAML was built without it."""
    if request.param == "Python parser":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    return request.param


def refusal(text: str | bytes) -> str:
    with pytest.raises(SpecError) as caught:
        parse_text(text)
    message = str(caught.value)
    assert len(message) < 20_000
    assert all(c.isprintable() or c == "\n" for c in message)
    assert all(finding.what and finding.file == "arch.yaml" for finding in caught.value.findings)
    return message


ALIAS_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        pytest.param(ALIAS_BOMB, "aliases (*a) are not read", id="alias bomb"),
        pytest.param("a: &a [*a]", "aliases (*a) are not read", id="cyclic alias"),
        pytest.param("a: &x 1", "anchors (&x) are not read", id="anchor"),
        pytest.param("&x a: 1", "anchors (&x) are not read", id="anchor on a key"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "tags", id="python tag"),
        pytest.param("a: !important 1", "tags ('!important') are not read", id="local tag"),
        pytest.param("a: !!str 1", "tags", id="standard tag"),
        pytest.param("a: ! 1", "tags", id="non-specific tag"),
        pytest.param("%TAG ! tag:x,2000:\n---\na: 1", "directive", id="tag directive"),
        pytest.param("%YAML 1.2\n---\na: 1", "directive", id="version directive"),
        pytest.param("<<: {a: 1}\nb: 2", "merge keys", id="merge key"),
        pytest.param("a: 1\n---\nb: 2", "second document", id="two documents"),
        pytest.param("a: 1\n...\n---\nb: 2", "second document", id="ended document"),
        pytest.param("a: 1\na: 2", "duplicate key 'a'; it was first written on line 1", id="duplicate"),
        pytest.param('a: 1\n"a": 2', "duplicate key", id="quoted duplicate"),
        pytest.param("[a]: 1", "no plain name", id="list as key"),
        pytest.param("{a: 1}: 1", "no plain name", id="mapping as key"),
        pytest.param("? [a, [b]]\n: {c: 1}\nd: 2", "no plain name", id="complex key"),
        pytest.param('"": 1', "no plain name", id="empty key"),
        pytest.param("", "empty", id="nothing"),
        pytest.param(" \n\n", "empty", id="blank"),
        pytest.param("# only a comment", "empty", id="comment"),
        pytest.param("---\n", "empty", id="empty document"),
        pytest.param("null", "empty", id="null"),
        pytest.param("- a\n- b", "this is a list", id="list"),
        pytest.param("width", "this is a single value", id="word"),
        pytest.param("a: " + "[" * 5000, f"more than {MAX_DEPTH} levels", id="5000 flow levels"),
        pytest.param("a: " + "[" * 5000 + "]" * 5000, f"more than {MAX_DEPTH} levels", id="5000 closed flow levels"),
        pytest.param("{a: " * 5000, f"more than {MAX_DEPTH} levels", id="5000 flow mappings"),
        pytest.param(
            "\n".join(f"{' ' * i}a:" for i in range(1000)), f"more than {MAX_DEPTH} levels", id="block levels"
        ),
        pytest.param("- " * 5000, f"more than {MAX_DEPTH} levels", id="5000 dashes"),
        pytest.param("? " * 5000, "no plain name", id="5000 question marks"),
        pytest.param("a: " + "9" * 5000, "5,000 digits", id="5000 digits"),
        pytest.param("a: " + "1_" * 500_000 + "1", "digits", id="a million digits in groups"),
        pytest.param("a: .nan\nb: .inf", "not a finite number", id="not finite"),
        pytest.param("a: 1e999", "too large", id="overflow"),
        pytest.param("a: 0123", "leading zero", id="leading zero"),
        pytest.param("a: [" + "0," * 200_000 + "]", f"more than {MAX_NODES:,} keys and values", id="200000 values"),
        pytest.param("a: 1\nb: \x00", "U+0000 NUL", id="NUL"),
        pytest.param("a: \x1b[31mred", "U+001B ESCAPE", id="ANSI"),
        pytest.param('a: "\\e[31mred"', "U+001B ESCAPE", id="escaped ANSI"),
        pytest.param('a: "\\0"', "U+0000 NUL", id="escaped NUL"),
        pytest.param("a: 1 # \u202e", "U+202E RIGHT-TO-LEFT OVERRIDE", id="bidirectional comment"),
        pytest.param('a: "\\u202e"', "U+202E RIGHT-TO-LEFT OVERRIDE", id="escaped bidirectional"),
        pytest.param("a\u200b: 1", "U+200B ZERO WIDTH SPACE", id="zero width"),
        pytest.param("a: 1\x85b: 2", "U+0085 NEXT LINE", id="next line"),
        pytest.param("a: 1\u2028b: 2", "U+2028 LINE SEPARATOR", id="line separator"),
        pytest.param("a: \ud800", "half of a surrogate pair", id="lone surrogate"),
        pytest.param('a: "\\ud800"', "", id="escaped lone surrogate"),
        pytest.param('a: "\\UFFFFFFFF"', "names no character", id="impossible escape"),
        pytest.param("a:\u00a03", "NO-BREAK SPACE", id="no-break space"),
        pytest.param("a: \u201cb\u201d", "curly quote", id="curly quotes"),
        pytest.param("\ta: 1", "a tab", id="tab"),
        pytest.param("a:\n\tb: 1", "a tab", id="tab as indentation"),
        pytest.param("a: 1\n\tb: 2", "a tab", id="tab after a value"),
        pytest.param("a:\tb", "a tab", id="tab after a colon"),
        pytest.param("\ufeffa: 1", "byte order mark", id="BOM in text"),
        pytest.param(b"\xef\xbb\xbfa: 1", "UTF-8 byte order mark", id="BOM"),
        pytest.param("a: 1".encode("utf-16"), "UTF-16", id="UTF-16"),
        pytest.param("a: 1".encode("utf-16-le"), "UTF-16", id="UTF-16-LE without BOM"),
        pytest.param("a: 1".encode("utf-16-be"), "UTF-16", id="UTF-16-BE without BOM"),
        pytest.param("a: 1".encode("utf-32"), "UTF-32", id="UTF-32"),
        pytest.param(b"a: 1\nb: \xff", "byte 8 (0xFF) is not UTF-8", id="invalid UTF-8"),
        pytest.param(b"a: \xed\xa0\x80", "not UTF-8", id="surrogate in UTF-8"),
        pytest.param(b"a: \xc0\x80", "not UTF-8", id="overlong NUL"),
        pytest.param("a: " + "x" * MAX_BYTES, "a spec has at most 1,048,576", id="too large"),
        pytest.param(b"a" * (MAX_BYTES + 1), "has 1,048,577 bytes", id="one byte too large"),
        pytest.param("\u00e9" * (MAX_BYTES // 2 + 1), "a spec has at most", id="too large in UTF-8"),
        pytest.param("&" * 100_000, "anchor", id="ampersands"),
        pytest.param("a: {" + "b: c, " * 30_000, "duplicate key", id="endless mapping"),
        pytest.param("a: " + "x" * 100_000 + ": y", "", id="long key"),
    ],
)
def test_hostile_text_is_refused_by_name(text, what, parser):
    assert what in refusal(text)


def test_tabs_beside_comments_are_harmless(parser):
    assert to_plain(parse_text("a: 1\t# width\n\t# a comment\nb: 2 # x\ty\n\t\n")) == {"a": 1, "b": 2}


def test_sixty_four_levels_are_read(parser):
    text = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert isinstance(parse_text(text), Node)
    assert "levels deep" in refusal(text.replace("[", "[[", 1).replace("]", "]]", 1))


def test_a_file_of_exactly_the_limit_is_read():
    text = "a: 1 #"
    assert to_plain(parse_text(text + "x" * (MAX_BYTES - len(text)))) == {"a": 1}


@pytest.mark.parametrize(
    ("key", "character", "meant"),
    [
        ("w\u0456dth", "U+0456 CYRILLIC", "type 'width' in ASCII"),
        ("l\u0430\u0443ers", "U+0430 CYRILLIC SMALL LETTER A", "type 'layers' in ASCII"),
        ("n\u03bfrm", "U+03BF GREEK SMALL LETTER OMICRON", "type 'norm' in ASCII"),
        ("\uff57\uff49\uff44\uff54\uff48", "U+FF57 FULLWIDTH LATIN SMALL LETTER W", "type 'width' in ASCII"),
        ("kv\u2013heads", "U+2013 EN DASH", "type 'kv-heads' in ASCII"),
        ("caf\u00e9", "U+00E9", "type 'cafe' in ASCII"),
        ("\u5bbd", "U+5BBD", "use ASCII letters"),
    ],
)
def test_a_key_that_only_looks_like_ascii_is_told_apart(key, character, meant):
    message = refusal(f"{key}: 512")
    assert character in message
    assert meant in message


def test_text_in_other_alphabets_is_welcome_in_values_and_comments():
    assert to_plain(parse_text("name: m\u00fcller # \u0430\u0431\u0432 \u6a21\u578b\n")) == {"name": "m\u00fcller"}


# ------------------------------------------------------------------------------------------------------------ files


def file_refusal(path) -> str:
    with pytest.raises(SpecError) as caught:
        load(path)
    return str(caught.value)


def test_a_directory_is_refused(tmp_path):
    assert "not a regular file: this is a directory" in file_refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "this is a named pipe" in file_refusal(tmp_path / "pipe.yaml")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="devices are POSIX")
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_a_device_is_refused_unread(device, tmp_path):
    assert "this is a device" in file_refusal(device)
    (tmp_path / "link.yaml").symlink_to(device)
    assert "this is a device" in file_refusal(tmp_path / "link.yaml")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="sockets in the file system are POSIX")
def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.yaml")
        assert "this is a socket" in file_refusal("socket.yaml")


def test_a_file_over_the_limit_is_refused_by_its_size(tmp_path):
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    assert "1,099,511,627,776 bytes" in file_refusal(file)


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "a/" * 3000, ""])
def test_an_impossible_path_is_a_finding(path):
    message = file_refusal(path)
    assert "\0" not in message
    assert len(message) < 1000


def test_a_file_that_may_not_be_read_is_a_finding(tmp_path):
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("needs permissions that bind")
    file = tmp_path / "secret.yaml"
    file.write_text("a: 1")
    file.chmod(0)
    assert "cannot read it: Permission denied" in file_refusal(file)


# ----------------------------------------------------------------------------------------------------------- fuzzing

yaml_like = st.text(
    alphabet=st.sampled_from("ab01.:-?[]{},&*!|>'\"%@`#~<= \n\t()_eE+\\xu/\u0430\x00\ufeff"), max_size=60
)


def reads_or_refuses(text: str | bytes) -> None:
    for_one_parser(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(yaml, "CSafeLoader", raising=False)
        for_one_parser(text)


def for_one_parser(text: str | bytes) -> None:
    outcome = tree_or_findings(text)
    if isinstance(outcome, Node):
        assert isinstance(to_plain(outcome), dict)
    else:
        assert outcome
        assert all(finding.what for finding in outcome)


def tree_or_findings(text: str | bytes) -> Node | tuple[Finding, ...]:
    try:
        return parse_text(text)
    except SpecError as error:
        return error.findings


@given(yaml_like)
@example("a: {b: (,")
@example("%\n")
@example("? ")
@example("'")
@example("{")
@example("[")
def test_any_text_is_read_or_refused(text):
    reads_or_refuses(text)


@given(st.text())
def test_any_characters_are_read_or_refused(text):
    reads_or_refuses(text)


@given(st.binary())
def test_any_bytes_are_read_or_refused(data):
    reads_or_refuses(data)


@given(
    st.lists(st.sampled_from(["a: ", "b: ", "- ", "\n", "  ", "[", "]", "{", "}", ", ", "x", "1", "'", '"', "(", ")"]))
)
def test_any_arrangement_of_yaml_is_read_or_refused(pieces):
    reads_or_refuses("".join(pieces))
