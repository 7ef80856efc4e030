"""The facts of a dataset card: what the data knows, what people state, and the command that makes it again."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil

import pytest

from vitruvius.cli.main import run
from vitruvius.data.account.about import QUESTIONS, check_license, read_about
from vitruvius.data.account.card import card_facts
from vitruvius.errors import SpecError, UsageError
from vitruvius.report.data_card import card_markdown, card_page
from vitruvius.spec.source import parse_text

NAMES = ("lines.jsonl", "packed.jsonl.gz", "deep/\x1b[31mred/a.txt", "deep/page.html")


def test_facts_name_every_step_with_its_settings_and_source(real):
    facts = card_facts(real / "data")
    (source,) = facts["sources"]
    recipe = source["recipe"]
    assert (recipe["name"], recipe["built_in"]) == ("mine", False)
    assert [step["kind"] for step in recipe["steps"]] == ["html", "whitespace", "gopher_quality"]
    quality = recipe["steps"][2]
    assert quality["settings"]["least_words"] == 12
    assert quality["settings"]["least_stop_words"] == 2
    assert "Rae et al. 2021" in quality["source"]
    assert "Jaccard >= 0.7" in recipe["near_in_words"]
    assert (source["files"], source["kinds"]) == (4, ["html", "jsonl", "text"])
    sizes = [(real / name).stat().st_size for name in NAMES]
    assert source["bytes"] == sum(sizes)
    assert facts["splits"] == {"held_out": 0.2, "seed": 0}
    assert facts["tokenizer"]["trained_here"] and facts["tokenizer"]["separator"] == "<|endoftext|>"
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_what_nobody_stated_is_null_and_what_somebody_did_is_told(folder):
    facts = card_facts(folder, about={"license": "mit", "title": "A title"})
    assert set(facts["about"]) == set(QUESTIONS)
    assert facts["about"]["license"]["answer"] == "mit"
    assert facts["title"] == "A title"
    assert facts["about"]["consent"]["answer"] is None
    assert card_facts(folder)["title"] == "data"


def test_limits_say_what_was_not_done(real, folder):
    limits = " ".join(card_facts(real / "data")["limits"])
    assert "personal data was neither looked for nor masked" in limits
    assert "no language was asked for" in limits
    assert "2 damaged records" in limits
    assert "duplicates were not looked for" not in limits
    assert card_facts(folder)["sources"] == []


def words_of(command):
    """The words of a command, as bash reads them."""
    spelt = re.compile(r"\$'((?:[^'\\]|\\.)*)'")
    return shlex.split(spelt.sub(lambda found: shlex.quote(found[1].encode().decode("unicode_escape")), command))


@pytest.mark.parametrize("recipe", ["plain", "mine"])
def test_the_command_makes_the_same_data_again(real, tmp_path, recipe):
    for name in ("lines.jsonl", "packed.jsonl.gz", "deep"):
        copy = shutil.copytree if (real / name).is_dir() else shutil.copy
        copy(real / name, tmp_path / name)
    data = real / "data"
    with contextlib.chdir(tmp_path):
        if recipe == "plain":
            options = ["--vocab", "300", "--held-out", "0.3", "--seed", "7", "--max-bad-rate", "1", "--workers", "1"]
            assert run(["data", "prepare", "lines.jsonl", "packed.jsonl.gz", *options, "--out", "data"]) == 0
            data = tmp_path / "data"
        facts = card_facts(data)
        repeat = facts["repeat"]
        assert (repeat["recipe"] is None) == (recipe == "plain")
        if repeat["recipe"] is not None:
            (tmp_path / "recipe.yaml").write_text(json.dumps(repeat["recipe"]))
        command = words_of(repeat["command"].replace("DATA", "again"))
        assert command[0] == "vitruvius"
        assert run([*command[1:], "--workers", "1"]) == 0
    again = card_facts(tmp_path / "again")
    assert again["statistics"]["fingerprint"] == facts["statistics"]["fingerprint"]
    assert again["statistics"]["funnel"] == facts["statistics"]["funnel"]


def test_many_input_files_are_named_by_the_index(real, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(real / "data", data)
    index = json.loads((data / "index.json").read_text())
    names = [f"pages/{i:03}.html" for i in range(100)]
    index["settings"]["inputs"] = [{"name": name, "source": "all", "kind": "html", "size_bytes": 10} for name in names]
    (data / "index.json").write_text(json.dumps(index))
    facts = card_facts(data)
    assert "jq -r" in facts["repeat"]["command"]
    assert facts["sources"][0]["names"] == names[:12]
    index["settings"]["inputs"][0]["name"] = "pages/a; rm -rf b.html"
    (data / "index.json").write_text(json.dumps(index))
    assert "FILES" in card_facts(data)["repeat"]["command"]
    assert "rm" not in card_facts(data)["repeat"]["command"]


ODD = [None, [], {}, "x", -1, True, 1e300, [[]], {"name": 3}, "\x1b[2J"]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_settings_of_any_shape_give_a_card(real, tmp_path, value):
    data = tmp_path / "data"
    shutil.copytree(real / "data", data)
    whole = json.loads((data / "index.json").read_text())
    part = whole["settings"]["parts"][0]
    odd = [{**whole["settings"], key: value} for key in whole["settings"]]
    odd += [{**whole["settings"], "parts": [{**part, key: value}]} for key in part]
    row = whole["settings"]["inputs"][0]
    odd += [{**whole["settings"], "inputs": [{**row, key: value}]} for key in row]
    for settings in [*odd, value]:
        (data / "index.json").write_text(json.dumps(whole | {"settings": settings}))
        facts = card_facts(data)
        assert "\x1b" not in card_markdown(facts) + card_page(facts)


# ------------------------------------------------------------------------------------------------------------- stated


def test_answers_are_read_from_yaml(tmp_path):
    path = tmp_path / "about.yaml"
    path.write_text("title: T\nlanguages: [en, de]\nmotivation: |\n  Two\n  lines.\n")
    assert read_about(path) == {"title": "T", "languages": ["en", "de"], "motivation": "Two\nlines.\n"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("licence: mit", "did you mean 'license'?"),
        ("languages: en", "a list of texts"),
        ("languages: [1]", "a list of texts"),
        ("title: 3", "a text is due"),
        ("title: [a]\nuses: {}", "a text is due"),
        ("- a", "mapping"),
        ("a: &x 1\nb: *x", "anchor"),
        ("", "empty"),
    ],
)
def test_answers_of_another_form_are_refused_at_their_line(tmp_path, text, message):
    path = tmp_path / "about.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_about(path)
    assert message in str(caught.value)
    assert "about.yaml" in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "mit\nlanguage: x", "a" * 101, "\x1b[2J", "été"])
def test_a_licence_is_a_name(name):
    with pytest.raises(UsageError, match="no name of a licence"):
        check_license(name)
    assert check_license(" cc-by-4.0 ") == "cc-by-4.0"


def test_the_front_matter_holds_whatever_people_state_as_text(folder):
    evil = '"]\n---\n# <script>alert(1)</script> | `x` [a](javascript:b) \x1b[2J'
    stated = dict.fromkeys(QUESTIONS, evil) | {"languages": ["en", evil], "license": "mit"}
    facts = card_facts(folder, about=stated)
    text = card_markdown(facts)
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    tree = parse_text(front)
    assert [*tree.value][:3] == ["license", "language", "pretty_name"]  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
    assert tree.value["pretty_name"].value == r'"] --- # <script>alert(1)</script> | `x` [a](javascript:b) \x1b[2J'
    assert "\x1b" not in body and "<script" not in body.replace("\\<script", "")
    assert "\n# \\<" not in body
    page = card_page(facts)
    assert "<script" not in page
    assert "\x1b" not in page
