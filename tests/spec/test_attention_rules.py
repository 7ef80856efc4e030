"""What does not fit in the attention family is refused where it is written, with the reason and the way out."""

from __future__ import annotations

import pytest

from vitruvius.errors import SpecError
from vitruvius.spec import read_text

SPEC = """
name: tiny
vocab_size: 61
width: 32
context: 48
blocks:
  a: {mixer: {kind: attention, heads: 4, kv_heads: 2, position: rope}}
  b: {mixer: {kind: attention, heads: 4, kv_heads: 2, position: rope, B}}
  m: {mixer: M}
  f: {ffn: {kind: swiglu, hidden: 48}}
layers: LAYERS
"""


def finding(
    b: str = "qk_norm: rmsnorm", *, m: str = "{kind: attention, heads: 2, position: rope}", layers: str = "a b f m"
):
    """The one error of the spec."""
    text = SPEC.replace("B}}", f"{b}}}}}").replace("M}", f"{m}}}").replace("LAYERS", layers)
    with pytest.raises(SpecError) as refused:
        read_text(text)
    (only,) = [each for each in refused.value.findings if each.severity == "error"]
    assert only.fix
    assert only.line
    return only


KV, VALUE, POSITION = (f"blocks.b.mixer.{name}" for name in ("kv_from", "value_from", "position"))
LENDERS = {
    "itself": ("kv_from: b", "a b", KV, "no layer stands before it"),
    "a later block": ("kv_from: m", "a b m", KV, "no layer stands before it"),
    "a block that is not there": ("kv_from: q", "a b", KV, "there is no block 'q'"),
    "a block of no layer": ("kv_from: m", "a b", KV, "of which this stack has no layer"),
    "a block without a mixer": ("kv_from: f", "f b", KV, "no keys and values of their own"),
    "other heads": ("kv_from: m", "m b", KV, "has 2 key heads of 16 channels"),
    "values of other heads": ("value_from: m", "m b", VALUE, "has 2 key heads of 16 channels"),
    "values of itself": ("value_from: b", "a b", VALUE, "no layer stands before it"),
    "values of a block without a mixer": ("value_from: f", "f b", VALUE, "no values of their own"),
    "both": ("kv_from: a, value_from: a", "a b", VALUE, "none of its own to mix"),
}


@pytest.mark.parametrize("name", LENDERS)
def test_keys_and_values_come_from_a_layer_that_has_them(name):
    fields, layers, path, what = LENDERS[name]
    found = finding(fields, layers=layers)
    assert found.path == path
    assert what in found.what


@pytest.mark.parametrize(
    "mixer",
    [
        "{kind: mla, heads: 4, kv_rank: 8, nope_width: 8, rope_width: 0, value_width: 8}",
        "{kind: differential, heads: 2}",
        "{kind: short-conv}",
    ],
)
@pytest.mark.parametrize("field", ["kv_from", "value_from"])
def test_a_mixer_without_plain_keys_lends_none(mixer, field):
    found = finding(f"{field}: m", m=mixer, layers="m b")
    assert found.path == f"blocks.b.mixer.{field}"
    assert "of their own that another layer could read" in found.what


def test_a_reader_lends_nothing_on():
    found = finding("kv_from: a", m="{kind: attention, heads: 4, kv_heads: 2, value_from: b}", layers="a b m")
    assert found.path == "blocks.m.mixer.value_from"
    assert "layers of block 'b' have no values of their own" in found.what


def test_stacked_lines_are_told_at_the_block_that_has_the_mixer():
    text = SPEC.replace("B}}", "kv_from: q}}").replace("M}", "{kind: attention, heads: 2}}")
    with pytest.raises(SpecError) as refused:
        read_text(text.replace("LAYERS", '["f*2", "a b"]'))
    assert [each.path for each in refused.value.findings if each.severity == "error"] == [KV]


@pytest.mark.parametrize("position", ["none", "alibi", "{kind: rope, theta: 5e5}", "{kind: rope, fraction: 0.5}"])
def test_queries_are_turned_as_the_keys_are_that_they_read(position):
    mixer = f"{{kind: attention, heads: 4, kv_heads: 2, kv_from: a, position: {position}}}"
    found = finding(m=mixer, layers="a b m")
    assert found.path in {"blocks.m.mixer.position", "blocks.m.mixer.kv_from"}
    assert "turned by other positions" in found.what


@pytest.mark.parametrize("position", ["fox", "cope", "path", "cumulative-rope"])
def test_positions_made_of_what_keys_are_made_of_stay_with_their_keys(position):
    mixer = f"{{kind: attention, heads: 4, kv_heads: 2, kv_from: b, position: {position}}}"
    found = finding(m=mixer, layers="b m")
    assert found.path == "blocks.m.mixer.position"
    assert "made of" in found.what


def test_a_reader_that_sees_one_key_would_not_depend_on_its_input():
    assert finding("kv_from: a, sees: causal & sliding(1)", layers="a b").path == "blocks.b.mixer.sees"
    text = SPEC.replace("B}}", "kv_from: a, gate: headwise, sees: causal & sliding(1)}}").replace("LAYERS", "a b")
    assert read_text(text.replace("M}", "{kind: attention, heads: 2}}")).architecture


@pytest.mark.parametrize(("field", "name"), [("sinks: learned", "sinks"), ("logit_cap: 5", "logit_cap")])
def test_a_kernel_that_knows_no_sinks_is_given_none(field, name):
    found = finding(m=f"{{kind: attention, heads: 4, position: cope, {field}}}", layers="a b m")
    assert found.path == f"blocks.m.mixer.{name}"
    assert "knows nothing of" in found.what


LATENTS = {
    "rope_width: 0, position: rope": ("rope_width", "none are set apart"),
    "rope_width: 3, position: rope": ("position", "pairs of channels"),
    "rope_width: 4, position: path": ("position", "computes attention by itself"),
    "rope_width: 4, position: learned": ("position", "added to the embedding"),
    "rope_width: 4, score_scale: sqrt(": ("score_scale", "cannot read"),
    "rope_width: 4, sees: causal & nonsense(3)": ("sees", "nonsense"),
}


@pytest.mark.parametrize("fields", LATENTS)
def test_latents_and_their_positions_fit(fields):
    path, what = LATENTS[fields]
    found = finding(m=f"{{kind: mla, heads: 4, kv_rank: 8, nope_width: 8, value_width: 8, {fields}}}")
    assert found.path == f"blocks.m.mixer.{path}"
    assert what in found.what


def test_a_latent_wider_than_what_it_stands_for_is_worth_a_warning():
    text = SPEC.replace("B}}", "bias: none}}").replace("LAYERS", "m")
    mixer = "{kind: mla, heads: 1, kv_rank: 64, nope_width: 8, rope_width: 4, value_width: 8}}"
    (found,) = [each for each in read_text(text.replace("M}", mixer)).findings if each.severity == "warning"]
    assert found.path == "blocks.m.mixer.kv_rank"


DIFFERENCES = {
    "heads: 3": ("heads", "do not divide width=32"),
    "heads: 4, kv_heads: 3": ("kv_heads", "does not divide"),
    "heads: 4, position: cope": ("position", "here are two"),
    "heads: 4, head_width: 5, position: rope": ("position", "pairs of channels"),
}


@pytest.mark.parametrize("fields", DIFFERENCES)
def test_the_heads_of_a_difference_fit(fields):
    path, what = DIFFERENCES[fields]
    found = finding(m=f"{{kind: differential, {fields}}}")
    assert found.path == f"blocks.m.mixer.{path}"
    assert what in found.what


@pytest.mark.parametrize("sees", ["causal & (", "causal &", "sliding(0)", "causal & sliding(4) | sinks(2)"])
def test_a_pattern_that_cannot_be_read_is_one_finding_even_where_keys_are_lent(sees):
    found = finding(f'kv_from: a, sees: "{sees}"', layers="a b")
    assert found.path == "blocks.b.mixer.sees"
