"""Other names of kinds are understood wherever a kind is named, and never written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from vitruvius.spec import kinds, read_text, to_yaml
from vitruvius.spec.node import Norm, register
from vitruvius.spec.schema import json_schema

SPEC = """
name: test
vocab_size: 31
width: 16
context: 64
blocks:
  a: {{mixer: {{kind: attention, heads: 2, position: {a}}}}}
  b: {{extends: a, mixer: {{position: {b}}}}}
layers: a b
"""


def _positions(a: str, b: str):
    blocks = read_text(SPEC.format(a=a, b=b)).architecture.blocks
    return blocks["a"].mixer.position, blocks["b"].mixer.position


@pytest.mark.parametrize("other", ["cable", "{kind: cable}"])
def test_an_alias_is_the_kind_it_stands_for(other):
    first, second = _positions(other, "fox")
    assert first == second == kinds("position")["fox"]()


def test_a_block_that_says_the_alias_inherits_from_one_that_says_the_kind():
    first, second = _positions("{kind: fox, horizon: 7}", "{kind: cable, evict: negligible}")
    assert (first.horizon, second.horizon, second.evict) == (7.0, 7.0, "negligible")


def test_an_alias_is_understood_in_a_setting():
    overrides = ["blocks.b.mixer.position=cable"]
    read = read_text(SPEC.format(a="rope", b="alibi"), overrides=overrides).architecture
    assert read.blocks["b"].mixer.position.kind == "fox"


def test_what_is_written_has_the_kinds_own_name():
    written = to_yaml(read_text(SPEC.format(a="cable", b="{kind: cable, horizon: 5}")).architecture)
    assert "cable" not in written
    assert read_text(written).architecture.blocks["b"].mixer.position.horizon == 5.0


def test_a_word_that_names_no_kind_is_left_alone():
    text = (
        SPEC.format(a="fox", b="fox").replace("name: test", "name: cable\ndescription: cable").replace("a:", "cable:")
    )
    read = read_text(
        text.replace("extends: a", "extends: cable").replace("layers: a b", "layers: cable b")
    ).architecture
    assert (read.name, read.description, list(read.blocks)) == ("cable", "cable", ["cable", "b"])


def test_editors_are_told_of_aliases():
    text = str(json_schema()["$defs"])
    assert "'enum': ['fox', 'cable']" in text


@pytest.mark.parametrize("aliases", [("rmsnorm",), ("cable",)])
def test_an_alias_that_means_another_kind_is_refused(aliases):
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Other(Norm):
        kind: Literal["other"] = "other"

    Other.aliases = aliases
    with pytest.raises(ValueError, match="already means another kind"):
        register(Other)


def test_a_kind_cannot_take_the_name_of_an_alias():
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Cable(Norm):
        kind: Literal["cable"] = "cable"

    with pytest.raises(ValueError, match="already means another kind"):
        register(Cable)
