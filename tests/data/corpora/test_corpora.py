"""Corpora from packages: the same bytes each time, every file accounted for, and nothing but a corpus is replaced."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import sys
import tarfile
from pathlib import Path

import pytest

from vitruvius.data.corpora import debian_docs, python_sources
from vitruvius.data.corpora.debian_docs import fetch_debian_docs
from vitruvius.data.corpora.debian_package import LEFT_OUT, Copyright
from vitruvius.data.corpora.python_sources import fetch_python_packages, fetch_standard_library
from vitruvius.errors import DataError, UsageError

PAGE = "<!DOCTYPE html><meta charset=utf-8><p>A page about é and 漢字.</p>\r\n"
DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: them
License: GPL-2+

Files: b
License: MIT
 Permission is hereby granted
"""


def tarred(files, links=()):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return stream.getvalue()


def deb(path, files, *, name="tiny-doc", version="1.0-1", links=(), control=None, licence=DEP5):
    """Write a package with `files` (path -> bytes, or pairs)."""
    pairs = list(files.items() if isinstance(files, dict) else files)
    if licence is not None:
        pairs.append((f"./usr/share/doc/{name}/copyright", licence.encode()))
    control = control or f"Package: {name}\nVersion: {version}\nArchitecture: all\nSource: tiny\nDescription: x\n y\n"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": gzip.compress(tarred([("./control", control.encode())])),
        "data.tar.xz": lzma.compress(tarred(pairs, links)),
    }
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for member, content in members.items():
            file.write(f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content)
            file.write(b"\n" * (len(content) % 2))
    return path


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder, name="tiny-doc"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def tiny(tmp_path):
    return deb(
        tmp_path / "tiny.deb",
        {
            "./usr/share/doc/tiny-doc/html/b.html": PAGE.encode(),
            "./usr/share/doc/tiny-doc/html/a b.htm": b"<p>first by name",
            "./usr/share/doc/tiny-doc/html/packed.html.gz": gzip.compress(b"<p>packed", mtime=0),
            "./usr/share/doc/tiny-doc/html/latin.html": "<meta charset=iso-8859-1><p>caf\u00e9".encode("latin-1"),
            "./usr/share/doc/tiny-doc/notes.txt": b"plain",
            "./usr/share/doc/tiny-doc/more.md.gz": gzip.compress(b"\xef\xbb\xbfpacked text"),
            "./usr/share/doc/tiny-doc/picture.png": b"\x89PNG",
        },
    )


# ----------------------------------------------------------------------------------------------------------------------
# Debian packages


def test_pages_come_out_with_their_address_and_text_sorted_by_path(tiny, tmp_path):
    corpus = fetch_debian_docs(tmp_path / "out", packages=(), debs=[tiny])
    found = {row["url"].rpartition("/")[2]: row["text"] for row in rows_of(tmp_path / "out")}
    assert list(found) == ["a%20b.htm", "b.html", "latin.html", "packed.html.gz"]
    assert found["b.html"] == PAGE
    assert found["latin.html"].endswith("café")
    assert found["packed.html.gz"] == "<p>packed"
    assert {row["markup"] for row in rows_of(tmp_path / "out")} == {"html"}
    assert rows_of(tmp_path / "out")[1]["url"] == "file:///usr/share/doc/tiny-doc/html/b.html"
    assert corpus.manifest["documents"] == 4
    assert corpus.manifest["text_bytes"] == sum(len(text.encode()) for text in found.values())


def test_plain_text_comes_out_when_asked_for(tiny, tmp_path):
    fetch_debian_docs(tmp_path / "out", packages=(), debs=[tiny], kind="text")
    assert [(row["text"], row["markup"]) for row in rows_of(tmp_path / "out")] == [
        ("packed text", "plain"), ("plain", "plain"),
    ]  # fmt: skip


def test_the_manifest_accounts_for_package_licence_and_files(tiny, tmp_path):
    out = tmp_path / "out"
    fetch_debian_docs(out, packages=(), debs=[tiny])
    manifest = json.loads((out / "MANIFEST.json").read_text(encoding="utf-8"))
    (package,) = manifest["packages"]
    assert (package["name"], package["version"], package["source"], package["from"]) == (
        "tiny-doc", "1.0-1", "tiny", "file",
    )  # fmt: skip
    assert package["package_sha256"] == hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert package["licenses"] == ["GPL-2+", "MIT"]
    assert (out / package["copyright"]).read_text(encoding="utf-8") == DEP5
    files = tree(out)
    assert set(manifest["files"]) == set(files) - {"MANIFEST.json"}
    for name, about in manifest["files"].items():
        assert about == {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}


def test_the_order_of_packages_and_of_files_in_them_changes_no_byte(tmp_path):
    pages = [(f"./usr/share/doc/x/{number}.html", f"<p>{number}".encode()) for number in range(9)]
    first = deb(tmp_path / "first.deb", pages, name="first-doc")
    second = deb(tmp_path / "second.deb", pages, name="second-doc")
    turned = deb(tmp_path / "turned.deb", pages[::-1], name="first-doc")
    fetch_debian_docs(tmp_path / "a", packages=(), debs=[first, second])
    fetch_debian_docs(tmp_path / "b", packages=(), debs=[second, first])
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    fetch_debian_docs(tmp_path / "c", packages=(), debs=[second, turned])
    assert tree(tmp_path / "c")["first-doc.jsonl"] == tree(tmp_path / "a")["first-doc.jsonl"]


def test_a_limit_takes_a_sample_that_does_not_depend_on_the_order(tmp_path):
    pages = [(f"./usr/share/doc/x/{number}.html", b"x" * 100) for number in range(50)]
    one = deb(tmp_path / "one.deb", pages)
    corpus = fetch_debian_docs(tmp_path / "a", packages=(), debs=[one], limit_bytes=1234)
    assert corpus.manifest["documents"] == 12
    assert corpus.manifest["packages"][0]["documents_not_sampled"] == 38
    chosen = [row["url"] for row in rows_of(tmp_path / "a")]
    assert chosen == sorted(chosen)
    assert chosen != [f"file:///usr/share/doc/x/{number}.html" for number in sorted(map(str, range(50)))][:12]
    fetch_debian_docs(tmp_path / "b", packages=(), debs=[deb(tmp_path / "t.deb", pages[::-1])], limit_bytes=1234)
    assert [row["url"] for row in rows_of(tmp_path / "b")] == chosen


def test_what_is_no_page_is_counted_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("vitruvius.data.corpora.debian_package.PAGE_LIMIT", 1000)
    base = "./usr/share/doc/tiny-doc/"
    package = deb(
        tmp_path / "odd.deb",
        {
            f"{base}good.html": b"<p>good",
            f"{base}bytes.html": b"<p>\xff\xfe\xff",
            f"{base}long.html": b"x" * 1001,
            f"{base}bomb.html.gz": gzip.compress(bytes(10**6)),
            f"{base}torn.html.gz": gzip.compress(b"y" * 500)[:-9],
        },
        links=[(f"{base}link.html", "/etc/passwd"), (f"{base}up.html", "../../../../../etc/passwd")],
    )
    corpus = fetch_debian_docs(tmp_path / "out", packages=(), debs=[package])
    left_out = corpus.manifest["packages"][0]["left_out"]
    assert {reason: about["files"] for reason, about in left_out.items()} == {
        "link": 2, "too_long": 2, "not_utf8": 1, "corrupt_gzip": 1,
    }  # fmt: skip
    assert set(left_out) == set(LEFT_OUT)
    assert [row["text"] for row in rows_of(tmp_path / "out")] == ["<p>good"]


def test_names_that_climb_out_are_only_addresses(tmp_path):
    package = deb(tmp_path / "odd.deb", [("../../../escaped.html", b"<p>a"), ("/etc/b.html", b"<p>b")])
    fetch_debian_docs(tmp_path / "deep" / "out", packages=(), debs=[package])
    assert [row["url"] for row in rows_of(tmp_path / "deep" / "out")] == [
        "file:///../../../escaped.html", "file:///etc/b.html",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "odd.deb"]


def test_of_two_files_with_one_path_the_last_counts_as_when_installed(tmp_path):
    pages = [("./usr/share/doc/a.html", b"<p>old"), ("./usr/share/doc/a.html", b"<p>new")]
    fetch_debian_docs(tmp_path / "out", packages=(), debs=[deb(tmp_path / "a.deb", pages)])
    assert [row["text"] for row in rows_of(tmp_path / "out")] == ["<p>new"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (DEP5, ["GPL-2+", "MIT"]),
        ("On Debian systems see /usr/share/common-licenses/GPL-3.\n", ["GPL-3"]),
        ("License: is a word here\nand nothing else", []),
        ("", []),
    ],
)
def test_licences_are_named_where_somebody_named_them(text, names):
    assert Copyright(content=text.encode()).licenses() == names


@pytest.mark.parametrize(
    ("control", "what"),
    [
        ("Package: ../../x\nVersion: 1\n", "names no package"),
        ("Package: -rf\nVersion: 1\n", "names no package"),
        ("Package: fine\nVersion: \x1b[2J\n", "names no package"),
        ("nothing", "names no package"),
    ],
)
def test_a_package_with_a_name_that_is_none_is_refused(tmp_path, control, what):
    package = deb(tmp_path / "odd.deb", {"./a.html": b"x"}, control=control)
    with pytest.raises(DataError, match=what) as refused:
        fetch_debian_docs(tmp_path / "out", packages=(), debs=[package])
    assert refused.value.where == str(package)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04zip", b"!<arch>\n", b"!<arch>\n" + b"\0" * 100])
def test_a_file_that_is_no_package_is_refused(tmp_path, content):
    path = tmp_path / "no.deb"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be used"):
        fetch_debian_docs(tmp_path / "out", packages=(), debs=[path])
    assert [found.name for found in tmp_path.iterdir()] == ["no.deb"]


def test_every_cut_of_a_package_is_refused(tiny, tmp_path):
    whole = tiny.read_bytes()
    for cut in range(0, len(whole) - 2, 97):
        (tmp_path / "cut.deb").write_bytes(whole[:cut])
        with pytest.raises(DataError, match="cannot be used"):
            fetch_debian_docs(tmp_path / "out", packages=(), debs=[tmp_path / "cut.deb"])


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing.deb", tmp_path, tmp_path / "pipe"):
        with pytest.raises(DataError):
            fetch_debian_docs(tmp_path / "out", packages=(), debs=[path])


def test_a_package_named_twice_and_one_without_documents_are_refused(tiny, tmp_path):
    with pytest.raises(DataError, match="named twice"):
        fetch_debian_docs(tmp_path / "out", packages=(), debs=[tiny, tiny])
    empty = deb(tmp_path / "empty.deb", {"./usr/bin/tool": b"x"}, name="tool")
    with pytest.raises(DataError, match="no document"):
        fetch_debian_docs(tmp_path / "out", packages=(), debs=[empty])
    with pytest.raises(DataError, match="as small as the limit"):
        fetch_debian_docs(tmp_path / "out", packages=(), debs=[tiny], limit_bytes=2)


# ----------------------------------------------------------------------------------------------------------------------
# The folder


def test_an_earlier_corpus_is_replaced_and_other_files_are_not(tiny, tmp_path):
    out = tmp_path / "out"
    fetch_debian_docs(out, packages=(), debs=[tiny])
    other = deb(tmp_path / "other.deb", {"./usr/share/doc/o.html": b"<p>other"}, name="other-doc")
    fetch_debian_docs(out, packages=(), debs=[other])
    assert sorted(path.name for path in out.glob("*.jsonl")) == ["other-doc.jsonl"]
    (out / "mine.txt").write_text("precious", encoding="utf-8")
    before = tree(out)
    with pytest.raises(DataError, match=r"other files \('mine.txt'\)"):
        fetch_debian_docs(out, packages=(), debs=[tiny])
    assert tree(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.deb", "out", "tiny.deb"]


def test_a_manifest_made_by_hand_does_not_make_files_ours(tiny, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("precious", encoding="utf-8")
    for manifest in ('{"schema": "else", "files": {"letter.txt": {}}}', "[]", "{", '{"schema": "vitruvius.corpus/1"}'):
        (out / "MANIFEST.json").write_text(manifest, encoding="utf-8")
        with pytest.raises(DataError, match="other files"):
            fetch_debian_docs(out, packages=(), debs=[tiny])


def test_a_failure_leaves_the_earlier_corpus(tiny, tmp_path):
    out = tmp_path / "out"
    fetch_debian_docs(out, packages=(), debs=[tiny])
    before = tree(out)
    (tmp_path / "torn.deb").write_bytes(tiny.read_bytes()[:-300])
    with pytest.raises(DataError):
        fetch_debian_docs(out, packages=(), debs=[tmp_path / "torn.deb"])
    assert tree(out) == before


def test_a_disk_that_is_full_is_named_and_leaves_the_earlier_corpus(tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    fetch_debian_docs(out, packages=(), debs=[tiny])
    before = tree(out)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitruvius.data.corpora.folder.json.dumps", full)
    with pytest.raises(OSError, match="No space left") as refused:
        fetch_debian_docs(out, packages=(), debs=[tiny])
    assert refused.value.filename == str(out)
    monkeypatch.undo()
    assert tree(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny.deb"]


def test_a_name_as_long_as_a_name_can_be_is_fine(tiny, tmp_path):
    fetch_debian_docs(tmp_path / ("n" * 255), packages=(), debs=[tiny])
    assert rows_of(tmp_path / ("n" * 255))


def test_a_link_a_file_and_the_folder_one_is_in_are_refused(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    for out in (Path("file"), Path("link"), Path(), Path("..")):
        with pytest.raises(DataError):
            fetch_debian_docs(out, packages=(), debs=[tiny])


# ----------------------------------------------------------------------------------------------------------------------
# apt


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """Play apt-get: a script that runs the given Python."""

    def play(code):
        folder = tmp_path / "apt"
        folder.mkdir(exist_ok=True)
        (folder / "apt-get").write_text(f"#!{sys.executable}\nimport os, shutil, sys\n{code}", encoding="utf-8")
        (folder / "apt-get").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return play


def test_a_package_is_downloaded_by_apt_into_a_folder_that_goes_again(tiny, tmp_path, apt):
    seen = tmp_path / "seen"
    apt(f"open({str(seen)!r}, 'w').write('\\n'.join((os.getcwd(), *sys.argv)))\nshutil.copy({str(tiny)!r}, '.')")
    told = []
    corpus = fetch_debian_docs(tmp_path / "out", packages=["tiny-doc"], progress=lambda *news: told.append(news))
    assert corpus.manifest["packages"][0]["from"] == "apt"
    folder, _, *words = seen.read_text(encoding="utf-8").split("\n")
    assert words[-2:] == ["download", "tiny-doc"]
    assert not Path(folder).exists()
    assert told[0][0] == "downloading packages"
    assert told[-1][1] == told[-1][2]


@pytest.mark.parametrize(
    ("code", "what", "fix"),
    [
        ("sys.exit('E: Unable to locate package nosuch-doc')", "Unable to locate", "apt-cache search"),
        ("sys.exit('E: Failed to fetch http://x  Could not resolve host')", "Could not resolve", "--deb"),
        ("sys.exit(100)", "brought no file", "--deb"),
        ("", "brought no file", "--deb"),
    ],
)
def test_what_apt_says_is_passed_on_with_a_way_out(tmp_path, apt, code, what, fix):
    apt(code)
    with pytest.raises(DataError, match=what) as refused:
        fetch_debian_docs(tmp_path / "out", packages=["nosuch-doc"])
    assert fix in refused.value.fix
    assert refused.value.where == "nosuch-doc"
    assert not (tmp_path / "out").exists()


def test_a_machine_without_apt_is_told_about_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match="no apt-get") as refused:
        fetch_debian_docs(tmp_path / "out")
    assert "--deb" in refused.value.fix


@pytest.mark.parametrize("name", ["-o", "--help", "../x", "A", "x y", "", "a;rm", "x\n", "é-doc"])
def test_what_is_no_package_name_never_reaches_apt(tmp_path, apt, name):
    apt(f"open({str(tmp_path / 'called')!r}, 'w')")
    with pytest.raises(UsageError, match="no name"):
        fetch_debian_docs(tmp_path / "out", packages=[name])
    assert not (tmp_path / "called").exists()


def test_the_packages_fetched_by_default_have_names_apt_takes():
    assert all(debian_docs.download.__module__.endswith("apt") for _ in debian_docs.PACKAGES)
    from vitruvius.data.corpora.apt import _NAME

    assert all(_NAME.fullmatch(name) for name in debian_docs.PACKAGES)


# ----------------------------------------------------------------------------------------------------------------------
# Python


def test_the_standard_library_is_a_corpus_with_its_version(tmp_path):
    corpus = fetch_standard_library(tmp_path / "out", limit_bytes=300_000)
    rows = rows_of(tmp_path / "out", "python-stdlib")
    assert 5 < len(rows) == corpus.manifest["documents"]
    assert corpus.manifest["text_bytes"] <= 300_000
    assert corpus.manifest["packages"][0]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert all(row["url"].startswith("pkg:generic/python@") and "#Lib/" in row["url"] for row in rows)
    assert not any("site-packages" in row["url"] for row in rows)
    fetch_standard_library(tmp_path / "again", limit_bytes=300_000)
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_an_installed_package_is_a_corpus_with_its_licence(tmp_path):
    corpus = fetch_python_packages(tmp_path / "out", packages=["Click"])
    (package,) = corpus.manifest["packages"]
    assert package["name"] == "click"
    assert package["licenses"]
    texts = {row["url"].rpartition("#")[2]: row["text"] for row in rows_of(tmp_path / "out", "click")}
    import click

    assert texts["click/core.py"] == Path(click.__file__).with_name("core.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["no-such-package-here", "../x", "", "-r"])
def test_a_package_that_is_not_installed_is_refused(tmp_path, name):
    with pytest.raises((DataError, UsageError)):
        fetch_python_packages(tmp_path / "out", packages=[name])
    assert not (tmp_path / "out").exists()


def test_sources_that_cannot_be_read_are_counted(tmp_path, monkeypatch):
    library = tmp_path / "lib"
    library.mkdir()
    (library / "good.py").write_text("x = 1\n", encoding="utf-8")
    (library / "latin.py").write_bytes("# coding: latin-1\n# é\n".encode("latin-1"))
    (library / "bad.py").write_bytes(b"# \xff\n")
    (library / "odd.py").write_bytes(b"# coding: nonsense\n")
    (library / "long.py").write_bytes(b"#" * 100)
    (library / "gone.py").symlink_to(library / "nowhere")
    monkeypatch.setattr(python_sources.sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setattr(python_sources, "SOURCE_LIMIT", 99)
    corpus = fetch_standard_library(tmp_path / "out")
    assert [row["text"] for row in rows_of(tmp_path / "out", "python-stdlib")] == [
        "x = 1\n",
        "# coding: latin-1\n# é\n",
    ]
    left_out = corpus.manifest["packages"][0]["left_out"]
    assert {reason: about["files"] for reason, about in left_out.items()} == {
        "not_decodable": 2, "too_long": 1, "unreadable": 1,
    }  # fmt: skip
    assert set(left_out) == set(python_sources.LEFT_OUT)
