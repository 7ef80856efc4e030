"""Whoever registers a kind has written all of it: spec, module, page, and a place in the random specs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from specs import Around, architectures, components_of, node_of, terms

from vitruvius.nn.registry import module_class
from vitruvius.patterns import NAMED, parse
from vitruvius.spec import from_plain, kinds, read_text, to_data, to_yaml
from vitruvius.spec.node import FAMILIES

PAGES = Path(__file__).resolve().parents[2] / "docs" / "components"
DESCRIPTIVE = {"init", "scaling"}
"""Families that say how something else is made, and have no module."""
EVERY_KIND = [(family, name) for family in FAMILIES for name in kinds(family)]
SEARCH = settings(
    max_examples=2000,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(("family", "name"), EVERY_KIND)
def test_every_kind_has_a_page(family, name):
    page = PAGES / f"{family}-{name}.md"
    assert page.is_file(), f"write docs/components/{page.name}"
    text = page.read_text(encoding="utf-8")
    undocumented = [f.name for f in fields(kinds(family)[name]) if f.name != "kind" and f.name not in text]
    assert not undocumented, f"{page.name} says nothing of {undocumented}"


@pytest.mark.parametrize(("family", "name"), EVERY_KIND)
def test_every_kind_has_a_module_or_only_describes(family, name):
    assert (module_class(kinds(family)[name]) is None) == (family in DESCRIPTIVE)


@pytest.mark.parametrize(("family", "name"), EVERY_KIND)
def test_every_kind_stands_in_some_random_spec(family, name):
    node = kinds(family)[name]
    found = find(architectures(), lambda a: any(type(c) is node for c in components_of(a)), settings=SEARCH)
    assert node.__name__ in repr(found)


@pytest.mark.parametrize(("family", "name"), EVERY_KIND)
def test_every_kind_says_in_words_what_each_field_is(family, name):
    node = kinds(family)[name]
    assert node.__doc__
    assert node.family == family
    assert node.__dataclass_fields__["kind"].default == name


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_named_pattern_can_be_drawn(name):
    text = find(terms([name]), lambda _: True, settings=SEARCH)
    assert parse(text).clauses


@given(architectures())
def test_reading_what_was_written_gives_the_same_architecture(architecture):
    text = to_yaml(architecture)
    assert read_text(text).architecture == architecture


@given(architectures())
def test_writing_is_a_fixed_point(architecture):
    text = to_yaml(architecture)
    assert to_yaml(read_text(text).architecture) == text


@given(architectures(), st.sampled_from(["omit", "keep"]))
def test_plain_data_holds_the_whole_architecture(architecture, defaults):
    assert from_plain(to_data(architecture, defaults=defaults)) == architecture


@given(st.data(), st.sampled_from(EVERY_KIND))
def test_components_are_values(data, which):
    family, name = which
    around = Around(width=16, context=24, inside=("embedding",) if family == "position" else ())
    node = data.draw(node_of(kinds(family)[name], around))
    assert node == type(node)(**{f.name: getattr(node, f.name) for f in fields(node)})
    assert hash(node) == hash(type(node)(**{f.name: getattr(node, f.name) for f in fields(node)}))
