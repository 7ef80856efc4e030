"""From an architecture back to a file that a person would have written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.spec import Block, Claim, preset, preset_names, read_text, to_data, to_yaml
from vitruvius.spec.mixers.attention import Attention


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_survives_writing_and_reading(name):
    architecture = preset(name)
    text = to_yaml(architecture)
    assert read_text(text).architecture == architecture
    assert to_yaml(read_text(text).architecture) == text


def test_defaults_are_left_out_unless_asked_for():
    data = to_data(preset("tiny-llama"))
    assert "init" not in data
    assert data["head"] == {"kind": "lm", "tied": True}
    kept = to_data(preset("tiny-llama"), defaults="keep")
    assert kept["init"] == {"kind": "normal", "std": 0.02, "table_std": 0.02, "residual": "plain"}


def test_an_architecture_is_written_with_what_it_is_first_and_its_layers_last():
    keys = [line.split(":")[0] for line in to_yaml(preset("tiny-llama-moe")).splitlines() if not line.startswith(" ")]
    assert keys[0] == "name"
    assert keys.index("blocks") < keys.index("layers")


def test_lines_stay_short():
    for name in preset_names():
        lines = to_yaml(replace(preset(name), claims=[])).splitlines()
        assert max(map(len, lines)) <= 120, name


@given(st.text(max_size=60))
def test_any_description_survives_unless_it_hides_characters(text):
    """Characters that do not show have no place in a spec file, written or escaped: the reader says so by name."""
    written = to_yaml(replace(preset("tiny-llama"), description=text))
    try:
        found = read_text(written).architecture.description
    except SpecError as error:
        assert not text.isprintable()
        assert "does not show" in str(error) or "surrogate" in str(error)
        return
    assert found == text


@pytest.mark.parametrize(
    "text", ["yes", "null", "1e3", "0x10", "~", "a: b", "# no", "- x", "", " padded ", "[1]", "1:30", "no", "007", "é"]
)
def test_texts_that_look_like_something_else_stay_texts(text):
    architecture = replace(preset("tiny-llama"), description=text)
    assert read_text(to_yaml(architecture)).architecture.description == text


@given(st.floats(min_value=1e-12, max_value=1e12), st.one_of(st.none(), st.just("1/sqrt(width)")))
def test_numbers_survive_to_the_last_bit(theta, scale):
    base = preset("tiny-llama")
    mixer = base.blocks["layer"].mixer
    changed = replace(mixer, score_scale=theta if scale is None else scale)
    architecture = replace(base, blocks={"layer": replace(base.blocks["layer"], mixer=changed)})
    assert read_text(to_yaml(architecture)).architecture == architecture


def test_claims_with_quotes_survive():
    claim = Claim(about="parameters", says="8B", source='they said: "8B", and more {sic}')
    architecture = replace(preset("tiny-llama"), claims=[claim])
    assert read_text(to_yaml(architecture)).architecture == architecture


def test_a_block_without_a_mixer_survives():
    base = preset("tiny-llama")
    blocks = {"m": Block(mixer=Attention(heads=4)), "f": Block(ffn=base.blocks["layer"].ffn)}
    architecture = replace(base, blocks=blocks, layers=["m*2", "f*2"])
    assert read_text(to_yaml(architecture)).architecture == architecture
