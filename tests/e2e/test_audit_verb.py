"""`vitruvius audit` as a user meets it."""

from __future__ import annotations

import json
import os

import pytest

from vitruvius.spec import preset, write


def test_the_documents_own_claims_are_audited_with_their_arithmetic(said):
    code, out, err = said("audit", "documents")
    assert code == 1
    assert "✗ false: parameters says 8B, but the arithmetic: 27.76 B (27,760,791,552)" in out
    assert "= 27,760,791,552" in out
    assert "✓ true: slowdown says <2x" in out
    assert "? unverifiable: statement" in out and "shown by tests/" in out
    assert out.rstrip().splitlines()[-1].startswith("50 claims: 12 true, ")
    assert err == "next: vitruvius audit documents --only false\n"


def test_one_verdict_can_be_shown_and_the_counts_stay_those_of_all(said):
    code, out, _ = said("audit", "documents", "--only", "true", "--json")
    document = json.loads(out)
    assert (code, document["schema"], document["true"]) == (1, "vitruvius.audit/1", len(document["claims"]))
    assert document["false"] > 20
    assert {row["verdict"] for row in document["claims"]} == {"true"}
    for row in document["claims"]:
        assert set(row) == {
            *("about", "says", "source", "verdict", "actual", "shown", "arithmetic", "why", "shown_by", "note", "line"),
        }


def test_true_claims_alone_are_no_failure(here, said):
    (here / "c.yaml").write_text("spec: gpt2\nclaims: [{about: parameters, says: 124M}, {about: statement, why: x}]")
    code, out, err = said("audit", "c.yaml")
    assert code == 0 and out.endswith("2 claims: 1 true, 0 false, 1 unverifiable\n")
    assert err == "next: vitruvius audit c.yaml --only false\n"


def test_a_spec_beside_the_file_is_found_from_anywhere(here, said, monkeypatch):
    (here / "deep").mkdir()
    write(preset("tiny-llama"), here / "deep" / "mine.yaml")
    (here / "deep" / "c.yaml").write_text("spec: mine.yaml\nclaims: [{about: parameters, says: '869,504'}]")
    assert said("audit", "deep/c.yaml")[0] == 0
    monkeypatch.chdir(here / "deep")
    assert said("audit", "c.yaml")[0] == 0


def test_findings_carry_file_line_and_column_and_come_all_at_once(here, said):
    (here / "c.yaml").write_text(
        "spec: gpt2\nclaims:\n  - {about: parameters, says: 8 GB}\n  - {about: size, says: 1}\n"
    )
    code, out, err = said("audit", "c.yaml")
    assert (code, out) == (2, "")
    assert "c.yaml:3:31  claims.0.says" in err and "unknown unit 'GB'" in err
    assert "c.yaml:4:13  claims.1.about" in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe\x00", "UTF-16"),
        (b"", "empty"),
        (b"claims: &a [*a]", "anchor"),
        (b"claims:\n\t- a", "tab"),
        (b"a: " + b"x" * (1 << 20), "1 MiB"),
        (b'claims: [{about: parameters, says: "8B\x00"}]', "c.yaml:1:"),
        ("claims: [{about: \u202eparameters}]".encode(), "does not show"),
    ],
)
def test_hostile_files_are_refused(content, says, here, said):
    (here / "c.yaml").write_bytes(content)
    code, out, err = said("audit", "c.yaml")
    assert (code, out) == (2, "") and says in err


def test_files_that_are_none_are_refused(here, said):
    os.mkfifo(here / "pipe")
    for name, says in (("nothing.yaml", "no such file"), ("pipe", "named pipe"), (str(here), "a directory")):
        code, out, err = said("audit", name)
        assert (code, out) == (2, "") and says in err


def test_what_a_claim_says_cannot_move_the_terminal(here, said):
    (here / "c.yaml").write_text('spec: gpt2\nclaims: [{about: statement, why: "\\e[2J", source: "\\e]0;x"}]')
    _code, out, err = said("audit", "c.yaml")
    assert "\x1b" not in out + err
