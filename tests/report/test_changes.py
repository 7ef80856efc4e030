"""A comparison names what differs, where, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitruvius.report.changes import ABSENT, Change, compare, differences
from vitruvius.report.changes_text import comparison_text, places
from vitruvius.spec import preset, preset_names, read_text, to_yaml


def _with_layers(line):
    return replace(preset("longcontext"), layers=line)


@pytest.mark.parametrize("name", preset_names())
def test_nothing_differs_between_an_architecture_and_itself(name):
    architecture = preset(name)
    comparison = compare(architecture, replace(architecture, name="other", description="other"))
    assert comparison.is_empty
    assert all(figure.before == figure.after for figure in comparison.figures)
    assert "nothing differs" in comparison_text(comparison)


def test_two_ways_of_writing_the_same_thing_do_not_differ():
    architecture = preset("longcontext")
    assert compare(architecture, read_text(to_yaml(architecture)).architecture).is_empty
    one_by_one = " ".join(["local"] * 16 + ["dilated"] * 12 + ["full"] * 4)
    assert compare(architecture, _with_layers(one_by_one)).is_empty


def test_the_mixture_differs_from_the_dense_model_in_every_second_layer():
    comparison = compare(preset("llama-3-8b"), preset("llama-moe"))
    dense, moe = comparison.layers
    assert (dense.before, dense.after) == (tuple(range(0, 32, 2)), tuple(range(0, 32, 2)))
    assert [change.path for change in dense.changes] == ["mixer.position.scaling"]
    assert [change.path for change in moe.changes] == ["mixer.position.scaling", "ffn"]
    assert [change.path for change in comparison.fields] == ["context"]


def test_bills_are_made_at_the_shorter_context_or_the_one_asked_for():
    llamas = preset("llama-3-8b"), preset("llama-moe")
    assert compare(*llamas).context == 8192
    assert compare(*llamas, context=4096).context == 4096
    figures = {figure.name: figure for figure in compare(*llamas).figures}
    assert figures["parameters"].before == 8_030_261_248
    assert figures["parameters"].after == 27_760_791_552
    assert figures["KV cache bytes"].ratio == 1
    assert f"{figures['active parameters'].ratio:.3f}" == "1.351"


def test_a_layer_that_was_put_in_is_found_where_it_stands():
    comparison = compare(_with_layers("local*4 full"), _with_layers("local*2 dilated local*2 full"))
    added = [layer for layer in comparison.layers if not layer.before]
    assert [(layer.after, layer.names) for layer in added] == [((2,), ("", "dilated"))]
    assert all(not layer.changes for layer in comparison.layers)
    removed = [layer for layer in compare(_with_layers("local full"), _with_layers("full")).layers if not layer.after]
    assert [layer.before for layer in removed] == [(0,)]


def test_every_layer_of_both_stacks_is_accounted_for():
    for before, after in [("local*3", "full*7"), ("(local full)*300", "full*2 local*500"), ("local*600", "local*601")]:
        comparison = compare(_with_layers(before), _with_layers(after))
        olds = sorted(i for layer in comparison.layers for i in layer.before)
        news = sorted(i for layer in comparison.layers for i in layer.after)
        assert olds == list(range(len(olds))) and news == list(range(len(news)))
        assert len(olds) == {"local*3": 3, "(local full)*300": 600, "local*600": 600}[before]


def test_sharing_weights_is_a_difference():
    comparison = compare(_with_layers("local*4"), _with_layers("local^4"))
    assert not comparison.is_empty
    assert [change.path for layer in comparison.layers for change in layer.changes] == ["weights"]
    assert comparison.figures[0].after < comparison.figures[0].before


def test_leaves_differ_by_value_and_by_type():
    assert list(differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})) == [
        Change(path="b.c", before=2, after=3)
    ]
    assert [change.path for change in differences({"a": 1}, {"a": 1.0})] == ["a"]
    assert list(differences({"a": 1}, {})) == [Change(path="a", before=1, after=ABSENT)]
    old, new = {"kind": "mlp", "hidden": 1}, {"kind": "swiglu", "hidden": 1}
    assert list(differences({"ffn": old}, {"ffn": new})) == [Change(path="ffn", before=old, after=new)]


@pytest.mark.parametrize(
    ("indices", "shown"),
    [
        ((0,), "0"),
        ((0, 1), "0, 1"),
        ((0, 1, 2, 3), "0-3"),
        ((1, 3, 5), "1, 3 ... 5"),
        ((0, 1, 2, 7), "0-2, 7"),
        ((0, 5, 7), "0, 5, 7"),
    ],
)
def test_places_are_short_to_read(indices, shown):
    assert places(indices) == shown


def test_a_comparison_reads_as_fields_with_what_was_and_what_is():
    text = comparison_text(compare(preset("longcontext"), preset("longcontext-7b")))
    assert "~ layers 0-15: local" in text
    assert "  ffn.hidden  11,008  ->  14,080" in text
    assert "x 1.208" in text
