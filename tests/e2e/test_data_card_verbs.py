"""`vitruvius data card` as a user meets it."""

from __future__ import annotations

import json

import pytest

from vitruvius.spec.source import parse_text

ABOUT = """
title: Lines
license: apache-2.0
languages: [en]
motivation: To try things out.
"""


@pytest.fixture
def card(said, prepared, here):
    """Write a card, in a folder of the test's own."""
    (here / "about.yaml").write_text(ABOUT)
    return lambda *argv: said("data", "card", prepared / "data", *argv)


def test_the_card_is_markdown_with_front_matter_that_is_yaml(card):
    code, out, err = card()
    assert code == 0, err
    front, body = out.removeprefix("---\n").split("\n---\n", 1)
    fields = parse_text(front).value
    assert fields["license"].value == "unknown"
    assert fields["size_categories"].value[0].value == "n<1K"
    assert body.lstrip().startswith("# data")
    for said in ("*not stated*", "gopher_quality", "least_words 5", "Rae et al. 2021", "exact\\_duplicate", "SHA-256"):
        assert said in body
    assert "vitruvius data prepare lines.jsonl --recipe recipe.yaml" in body
    assert "next: vitruvius data sample" in err


def test_what_people_state_is_told(card, here):
    code, out, err = card("--about", "about.yaml", "--license", "mit", "--out", "README.md", "--html", "card.html")
    assert (code, out) == (0, ""), err
    text = (here / "README.md").read_text()
    fields = parse_text(text.removeprefix("---\n").split("\n---\n", 1)[0]).value
    assert fields["license"].value == "mit"
    assert fields["pretty_name"].value == "Lines"
    assert [code.value for code in fields["language"].value] == ["en"]  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
    assert "**For what purpose was it made?** To try things out." in text
    assert "To try things out." in (here / "card.html").read_text()


def test_json_holds_the_facts(card):
    code, out, _ = card("--json", "--license", "mit")
    found = json.loads(out)
    assert code == 0 and found["schema"] == "vitruvius.data-card/1"
    assert found["about"]["license"]["answer"] == "mit"
    assert found["about"]["consent"] == {"question": found["about"]["consent"]["question"], "answer": None}
    assert found["sources"][0]["recipe"]["steps"][1]["settings"]["least_words"] == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--license", "a licence"), "no name of a licence"),
        (("--about", "missing.yaml"), "no such file"),
        (("--about", "."), "a directory"),
        (("--out", "."), "is a folder"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(card, argv, message):
    code, out, err = card(*argv)
    assert (code, out) == (2, "")
    assert message in err
    assert "fix:" in err


def test_an_unknown_field_is_refused_at_its_line(card, here):
    (here / "about.yaml").write_text("title: x\nlicence: mit\n")
    code, _, err = card("--about", "about.yaml")
    assert code == 2
    assert "about.yaml:2:" in err and "did you mean 'license'?" in err
