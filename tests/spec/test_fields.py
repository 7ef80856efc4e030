"""Paths name fields that may change in training; what they find is what they change, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.spec import preset, preset_names, read_text, resolve
from vitruvius.spec.fields import LONGEST_PATH, all_fields, fields_at, with_values
from vitruvius.spec.schedulable import Schedulable, marks, marks_of
from vitruvius.spec.schema import json_schema

LOCAL = preset("tiny-longcontext")


def test_a_path_is_that_of_set_and_reaches_into_the_text_of_a_pattern():
    assert [f.value for f in fields_at(LOCAL, "blocks.local.mixer.position.theta")] == [10_000.0]
    (window,) = fields_at(LOCAL, "blocks.local.mixer.sees.sliding")
    assert (window.path, window.value) == ("blocks.local.mixer.sees.sliding.window", 64)
    assert [f.value for f in fields_at(LOCAL, "blocks.dilated.mixer.sees.dilated.every")] == [4]


def test_a_star_names_every_block_that_has_the_field():
    assert {f.path.split(".")[1] for f in fields_at(LOCAL, "blocks.*.mixer.position.theta")} == {
        "local",
        "dilated",
        "full",
    }
    assert {f.path.split(".")[1] for f in fields_at(LOCAL, "blocks.*.mixer.sees.sliding")} == {"local"}
    assert {f.path.split(".")[1] for f in fields_at(LOCAL, "blocks.l*.mixer.sees")} == {"local"}


def test_values_go_where_they_were_asked_and_nowhere_else():
    changed = with_values(LOCAL, {"blocks.local.mixer.sees.sliding": 8, "blocks.*.residual_scale": 0.5})
    assert changed.blocks["local"].mixer.sees == "causal & (sliding(8) | global(every=16))"
    assert {block.residual_scale for block in changed.blocks.values()} == {0.5}
    back = with_values(changed, {"blocks.local.mixer.sees.sliding": 64, "blocks.*.residual_scale": None})
    assert back == LOCAL


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "no field"),
        (".", "no field"),
        ("blocks", "no field that may change"),
        ("blocks.local", "no field that may change"),
        ("blocks.local.mixer", "no field that may change"),
        ("blocks.local.mixer.kind", "no field that may change"),
        ("blocks.local.ffn.hidden", "weights depend on it"),
        ("vocab_size", "weights depend on it"),
        ("vocab_size.x", "has no field"),
        ("blocks.local.mixer.sees.global.window", "names no number"),
        ("blocks.local.mixer.sees.causal", "no number to change"),
        ("blocks.local.mixer.sees.sliding.window.x", "names no number"),
        ("blocks.x*.mixer.sees", "has no 'x*'"),
        ("blocks.*.mixer.sees.around", "nothing under"),
        ("mtp.loss_weight", "is None"),
        ("x" * (LONGEST_PATH + 1), "names no field"),
        ("blocks.local.mixer.sees." + "sliding." * 12, "names no number"),
    ],
)
def test_what_names_no_field_is_refused_with_a_way_out(path, words):
    with pytest.raises(UsageError) as caught:
        fields_at(LOCAL, path)
    assert words in caught.value.what
    assert caught.value.fix


def test_a_pattern_with_two_terms_of_a_name_is_scheduled_whole():
    mixer = "{kind: attention, heads: 1, sees: causal & (sliding(4) | sliding(8))}"
    text = f"name: two\nvocab_size: 8\nwidth: 8\ncontext: 64\nblocks: {{a: {{mixer: {mixer}}}}}\nlayers: a"
    two = read_text(text).architecture
    with pytest.raises(UsageError, match="has 2 'sliding'") as caught:
        fields_at(two, "blocks.a.mixer.sees.sliding")
    assert "itself" in caught.value.fix
    assert [f.path for f in all_fields(two) if "sees" in f.path] == ["blocks.a.mixer.sees"]


@given(st.sampled_from(preset_names()), st.data())
def test_every_field_of_every_preset_is_found_by_its_own_path_and_shapes_no_tensor(name, data):
    architecture = preset(name)
    field = data.draw(st.sampled_from(all_fields(architecture)))
    assert fields_at(architecture, field.path) == (field,)
    assert with_values(architecture, {field.path: field.value}) == architecture
    if field.mark.form == "count":
        other = with_values(architecture, {field.path: max(1, field.value - 1)})
        shapes = [{n: t.shape for n, t in resolve(a).tensors().items()} for a in (architecture, other)]
        assert shapes[0] == shapes[1]


@given(st.text(alphabet="blocks.local*mixer sees()[]?", max_size=60))
def test_no_path_does_anything_but_name_fields_or_be_refused(path):
    try:
        assert fields_at(LOCAL, path)
    except UsageError as error:
        assert error.fix


def test_marks_are_inherited_where_the_field_is_there():
    from vitruvius.spec.mixers.attention import Attention
    from vitruvius.spec.mixers.differential import DifferentialAttention

    assert {"sees", "score_scale", "logit_cap"} <= marks_of(Attention).keys()
    assert "logit_cap" not in marks_of(DifferentialAttention)
    assert marks(x=Schedulable(why="a test"))["x"].form == "number"


def test_the_schema_says_which_fields_may_change_in_training():
    properties = json_schema()["$defs"]["SoftmaxRouter"]["properties"]
    assert "May change in training" in properties["noise"]["description"]
    assert "May change in training" not in properties["order"]["description"]
