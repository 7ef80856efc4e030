"""`vitruvius data fetch`: from a package to a corpus that `data prepare` takes, and refusals without a trace."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile

import pytest

pytest.importorskip("numpy")


def tarred(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def package(here):
    """A documentation package of thirty pages."""
    pages = {
        f"./usr/share/doc/tiny/{number}.html": f"<p>Page {number} says {'word ' * 30}and ends.".encode()
        for number in range(30)
    }
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": gzip.compress(tarred({"./control": b"Package: tiny-doc\nVersion: 1.0\nArchitecture: all\n"})),
        "data.tar.xz": lzma.compress(tarred(pages | {"./usr/share/doc/tiny-doc/notes.txt": b"plain"})),
    }
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        parts += [head, content, b"\n" * (len(content) % 2)]
    (here / "tiny.deb").write_bytes(b"".join(parts))
    return here / "tiny.deb"


def test_what_is_fetched_is_prepared_by_the_command_that_is_printed(said, package, here):
    code, out, err = said("data", "fetch", "debian-docs", "--deb", "tiny.deb", "--out", "docs")
    assert (code, out) == (0, "")
    assert "tiny-doc" in err and "30 documents" in err
    assert "no copyright file" in err
    step = next(line for line in err.splitlines() if line.startswith("next: "))
    words = step.removeprefix("next: vitruvius ").split()
    assert words[:3] == ["data", "prepare", "docs"]
    assert words[words.index("--markup") + 1] == "html"
    recipe = words.index("--recipe")
    del words[recipe : recipe + 2]  # its language model is an extra of its own
    code, _, err = said(*words, "--vocab", "300", "--workers", "1")
    assert code == 0, err
    counts = json.loads((here / "data" / "counts.json").read_text(encoding="utf-8"))
    assert (counts["documents_in"], counts["dropped"]) == (30, {})


def test_json_is_the_manifest_in_short_and_nothing_else_is_said(said, package):
    code, out, err = said("data", "fetch", "debian-docs", "--deb", "tiny.deb", "--out", "docs", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown["schema"] == "vitruvius.data-fetch/1"
    assert (shown["corpus"], shown["documents"]) == ("debian-docs", 30)
    (found,) = shown["packages"]
    assert set(found) == {
        "name", "version", "from", "package_sha256", "licenses", "copyright", "file", "documents", "text_bytes",
        "documents_not_sampled", "left_out",
    }  # fmt: skip
    code, out, _ = said("data", "fetch", "python-packages", "--package", "click", "--out", "click", "--json")
    assert code == 0
    assert set(json.loads(out)["packages"][0]) == set(found)
    assert json.loads(out)["packages"][0]["package_sha256"] is None


def test_plain_text_needs_no_markup(said, package):
    code, _, err = said("data", "fetch", "debian-docs", "--deb", "tiny.deb", "--documents", "text", "--out", "docs")
    assert code == 0
    assert "1 documents" in err
    assert "--markup" not in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nosuch", "--out", "x"], "debian-docs"),
        (["debian-docs"], "--out"),
        (["debian-docs", "--deb", "missing.deb", "--out", "x"], "missing.deb"),
        (["debian-docs", "--package", "../x", "--out", "x"], "no name of a Debian package"),
        (["debian-docs", "--deb", "tiny.deb", "--limit-mb", "0", "--out", "x"], "--limit-mb"),
        (["debian-docs", "--deb", "tiny.deb", "--limit-mb", "nan", "--out", "x"], "limit"),
        (["debian-docs", "--deb", "tiny.deb", "--limit-mb", "0.00001", "--out", "x"], "--limit-mb"),
        (["debian-docs", "--deb", "tiny.deb", "--out", "."], "replaced as a whole"),
        (["python-stdlib", "--deb", "tiny.deb", "--out", "x"], "--deb"),
        (["python-stdlib", "--package", "json", "--out", "x"], "--package"),
        (["python-packages", "--out", "x"], "--package"),
        (["python-packages", "--package", "no-such-thing", "--out", "x"], "not installed"),
        (["python-packages", "--package", "click", "--documents", "text", "--out", "x"], "--documents"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_left(said, package, here, words, told):
    code, out, err = said("data", "fetch", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert [path.name for path in here.iterdir()] == ["tiny.deb"]


def test_a_name_with_escapes_cannot_move_the_cursor(said, here):
    code, _, err = said("data", "fetch", "debian-docs", "--deb", "\x1b[2J.deb", "--out", "x")
    assert code == 2
    assert "\x1b" not in err
