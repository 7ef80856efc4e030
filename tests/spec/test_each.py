"""Values by layer: `each` gives the i-th layer of a block the i-th value, and says where a list does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.sizing import count_parameters
from vitruvius.spec import read_text, resolve, to_yaml
from vitruvius.spec.positions.rope import RotaryPosition

HEAD = "name: a\nvocab_size: 61\nwidth: 32\ncontext: 64\n"
"""Four lines: what follows starts on line 5."""


def read(text: str, *overrides: str):
    return read_text(HEAD + text, overrides=overrides).architecture


def layers(text: str, *overrides: str):
    return resolve(read(text, *overrides)).layers


def refused(text: str, *overrides: str):
    with pytest.raises(SpecError) as caught:
        read(text, *overrides)
    return caught.value.findings


def only(text: str, *overrides: str):
    [finding] = refused(text, *overrides)
    return finding


def block(heads: str = "4", *, more: str = "") -> str:
    return f"  local:\n    mixer: {{kind: attention, heads: {heads}{more}}}\n    ffn: {{kind: swiglu, hidden: 48}}\n"


# ------------------------------------------------------------------------------------------------------------ values


def test_the_ith_layer_takes_the_ith_value():
    text = f"blocks:\n{block('{each: [1, 2, 4]}')}  full: {{extends: local, mixer: {{heads: 8}}}}\n"
    found = layers(text + "layers: local (full local)*2\n")
    assert [layer.mixer.heads for layer in found] == [1, 8, 2, 8, 4]
    assert [layer.name for layer in found] == ["local-1", "full", "local-2", "full", "local-3"]


def test_several_fields_go_in_step():
    rope = ", position: {kind: rope, theta: {each: [1e4, 1e6]}}"
    found = layers(f"blocks:\n{block('{each: [2, 4]}', more=rope)}layers: local*2\n")
    assert [(layer.mixer.heads, layer.mixer.position.theta) for layer in found] == [(2, 1e4), (4, 1e6)]


def test_a_value_may_be_a_whole_node_a_bare_name_or_none():
    values = "{each: [rope, none, {kind: rope, theta: 5e5}]}"
    found = layers(f"blocks:\n{block(more=f', position: {values}')}layers: local*3\n")
    assert [layer.mixer.position for layer in found] == [RotaryPosition(), None, RotaryPosition(theta=5e5)]


def test_widths_by_layer_are_counted_layer_by_layer():
    by_layer = "blocks:\n  a: {ffn: {kind: mlp, hidden: {each: [8, 16, 40]}}}\nlayers: a*3\n"
    counts = count_parameters(resolve(read(by_layer)))
    assert counts.by_component["ffns"] == 2 * 32 * (8 + 16 + 40)


def test_stacked_lines_count_each_block_in_its_own_line():
    text = """
blocks:
  m: {mixer: {kind: attention, heads: {each: [1, 2, 4, 8]}}}
  f: {ffn: {kind: mlp, hidden: {each: [8, 16]}}}
  g: {ffn: {kind: mlp, hidden: 24}}
layers: ["m*4", "(f g)*2"]
"""
    found = [(layer.mixer.heads, layer.ffn.hidden) for layer in layers(text)]
    assert found == [(1, 8), (2, 24), (4, 16), (8, 24)]


def test_layers_of_other_blocks_keep_their_shared_weights():
    text = f"blocks:\n{block('{each: [2, 4]}')}  full: {{extends: local, mixer: {{heads: 8}}}}\n"
    found = layers(text + "layers: (full^2 local)*2\n")
    assert [layer.weights for layer in found] == [0, 0, 2, 3, 3, 5]


def test_a_child_inherits_the_list_where_it_has_as_many_layers():
    text = f"blocks:\n{block('{each: [2, 4]}')}  wide: {{extends: local, ffn: {{hidden: 96}}}}\n"
    found = layers(text + "layers: local*2 wide*2\n")
    assert [(layer.name, layer.mixer.heads) for layer in found] == [
        ("local-1", 2),
        ("local-2", 4),
        ("wide-1", 2),
        ("wide-2", 4),
    ]


def test_a_child_replaces_the_list_and_a_list_replaces_what_the_parent_says():
    rope = ", position: {kind: rope, theta: 1e4}"
    text = f"blocks:\n{block('{each: [2, 4]}', more=rope)}"
    text += "  one: {extends: local, mixer: {heads: 8, position: {each: [none, {kind: rope, theta: 2e4}]}}}\n"
    found = layers(text + "layers: local*2 one*2\n")[2:]
    assert [layer.mixer.heads for layer in found] == [8, 8]
    assert [layer.mixer.position for layer in found] == [None, RotaryPosition(theta=2e4)]


def test_a_block_that_no_layer_uses_takes_its_first_value():
    text = f"blocks:\n{block('{each: [2, 4, 8]}')}  own: {{extends: local, mixer: {{heads: 1}}}}\nlayers: own*2\n"
    assert read(text).blocks["local"].mixer.heads == 2


def test_a_block_may_be_called_each():
    found = layers("blocks:\n  each: {mixer: {kind: attention, heads: {each: [1, 2]}}}\nlayers: each*2\n")
    assert [layer.mixer.heads for layer in found] == [1, 2]


def test_set_reaches_the_list_and_what_is_in_it():
    text = f"blocks:\n{block('{each: [2, 4]}')}layers: local*2\n"
    set_one = layers(text, "blocks.local.mixer.heads.each.1=8")
    assert [layer.mixer.heads for layer in set_one] == [2, 8]
    set_all = layers(text, "blocks.local.mixer.heads={each: [1, 2, 4]}", "layers=local*3")
    assert [layer.mixer.heads for layer in set_all] == [1, 2, 4]
    whole = layers(text, "blocks.local.mixer.heads=16")
    assert [(layer.name, layer.mixer.heads) for layer in whole] == [("local", 16), ("local", 16)]


def test_writing_and_reading_the_written_out_form_gives_the_same():
    text = (
        f"blocks:\n{block('{each: [2, 4]}')}  full: {{extends: local, mixer: {{heads: 8}}}}\nlayers: (local full^2)*2\n"
    )
    architecture = read(text)
    assert read_text(to_yaml(architecture)).architecture == architecture
    assert "local-1 full^2 local-2 full^2" in to_yaml(architecture)


names = st.sampled_from(["a", "b", "c"])
items = st.recursive(
    names, lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({' '.join(parts)})"), max_leaves=6
)
counted = st.tuples(items, st.sampled_from(["", "*2", "*3", "*2*2"])).map("".join)


@given(st.lists(counted, min_size=1, max_size=4).map(" ".join))
def test_a_list_of_equal_values_is_the_one_value_as_far_as_layers_and_counts_go(line):
    plain = "blocks:\n" + "".join(f"  {n}: {{ffn: {{kind: mlp, hidden: 8}}}}\n" for n in "abc")
    order = [layer.name for layer in layers(f"{plain}layers: {line}\n")]
    times = order.count("b")
    varied = plain.replace(
        "b: {ffn: {kind: mlp, hidden: 8}}", f"b: {{ffn: {{kind: mlp, hidden: {{each: {[8] * times}}}}}}}"
    )
    if not times:
        return
    found = layers(f"{varied}layers: {line}\n")
    assert [layer.name.partition("-")[0] for layer in found] == order
    assert [layer.name for layer in found if layer.name[0] == "b"] == [f"b-{i}" for i in range(1, times + 1)]


# ---------------------------------------------------------------------------------------------------------- findings


@pytest.mark.parametrize("line", ["local*3", "local", "(local*2)*3"])
def test_a_list_of_another_length_is_refused_at_its_line(line):
    finding = only(f"blocks:\n{block('{each: [2, 4]}')}layers: {line}\n")
    assert (finding.line, finding.column) == (7, 44)
    assert finding.path == "blocks.local.mixer.heads.each"
    assert finding.what.startswith("2 values, and 'local' has")


def test_lists_of_different_lengths_are_each_held_against_the_layers():
    text = "blocks:\n  a:\n    ffn: {kind: mlp, hidden: {each: [8, 8, 8]}}\n    norm: {each: [rmsnorm]}\nlayers: a*2\n"
    assert [(finding.line, finding.what[:7]) for finding in refused(text)] == [(7, "3 value"), (8, "1 value")]


def test_what_is_wrong_with_one_value_is_said_at_that_value():
    finding = only(f"blocks:\n{block('{each: [2, 3, 4]}')}layers: local*3\n")
    assert (finding.line, finding.column) == (7, 48)
    assert finding.path == "blocks.local-2.mixer.heads"
    kinds = "      - {kind: mlp, hidden: 8}\n      - {kind: mpl, hidden: 8}\n"
    finding = only(f"blocks:\n  a:\n    ffn:\n     each:\n{kinds}layers: a*2\n")
    assert (finding.line, finding.path) == (10, "blocks.a-2.ffn.kind")


def test_a_setting_is_named_where_it_brought_the_value():
    text = f"blocks:\n{block('{each: [2, 4]}')}layers: local*2\n"
    finding = only(text, "blocks.local.mixer.heads.each.1=3")
    assert finding.file.startswith("--set")
    assert "3 does not divide" in finding.what


@pytest.mark.parametrize("line", ["local^2", "(local)^2", "(local full)^3", "(local^2 full)*2"])
def test_layers_that_share_weights_cannot_differ(line):
    text = f"blocks:\n{block('{each: [2, 4]}')}  full: {{extends: local, mixer: {{heads: 8}}}}\nlayers: {line}\n"
    found = refused(text)
    assert any("'^' repeats the same weights" in finding.what and finding.path == "layers" for finding in found)


def test_a_block_with_shared_weights_cannot_differ():
    text = "blocks:\n  a: {weights: shared, ffn: {kind: mlp, hidden: {each: [8, 9]}}}\nlayers: a*2\n"
    assert only(text).path == "blocks.a.weights"


FORMS = {
    "an empty list": ("{each: []}", "empty list"),
    "a number": ("{each: 4}", "takes a list"),
    "nothing": ("{each: null}", "takes a list"),
    "a mapping": ("{each: {first: 4}}", "takes a list"),
    "one in another": ("{each: [{each: [1, 2]}, 4]}", "inside another"),
    "with company": ("{each: [2, 4], else: 8}", "stands alone"),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_list_of_values_is_refused_once_at_its_line(form):
    written, what = FORMS[form]
    finding = only(f"blocks:\n{block(written)}layers: local*2\n")
    assert finding.line == 7
    assert what in finding.what
    assert finding.fix


ELSEWHERE = {
    "the embedding": ("embedding: {scale: {each: [1.0]}}", "embedding.scale"),
    "the norm of all": ("norm: {each: [rmsnorm]}", "norm"),
    "the width": ("head: {kind: lm, tied: {each: [true, false]}}", "head.tied"),
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_only_fields_of_blocks_have_values_by_layer(place):
    line, path = ELSEWHERE[place]
    finding = only(f"{line}\nblocks:\n{block()}layers: local*2\n")
    assert (finding.line, finding.path) == (5, path)
    assert "by layer" in finding.what


def test_a_block_is_no_field():
    assert "not for a block" in only("blocks:\n  a: {each: [{ffn: {kind: mlp, hidden: 8}}]}\nlayers: a\n").what


def test_a_block_named_like_a_layer_of_another_is_refused():
    text = f"blocks:\n{block('{each: [2, 4]}')}  local-2: {{extends: local, mixer: {{heads: 8}}}}\n"
    finding = only(text + "layers: local*2 local-2\n")
    assert (finding.line, finding.path) == (9, "blocks.local-2")


def test_nothing_can_name_a_block_whose_layers_differ():
    text = f"mtp: {{block: local}}\nblocks:\n{block('{each: [2, 4]}')}layers: local*2\n"
    assert only(text).path == "mtp.block"


def test_an_unreadable_line_is_said_once_and_the_blocks_are_still_read():
    found = refused(f"blocks:\n{block('{each: [3, 4]}')}layers: local*2 x\n")
    assert sorted(finding.path for finding in found) == ["blocks.local.mixer.heads", "layers"]


def test_all_findings_come_at_once():
    text = f"norm: {{each: []}}\nblocks:\n{block('{each: [2]}')}  b: {{ffn: {{kind: mlp, hidden: -1}}}}\n"
    paths = {finding.path for finding in refused(text + "layers: local*2 b c\n")}
    assert {"norm", "blocks.b.ffn.hidden", "layers"} <= paths


# -------------------------------------------------------------------------------------------------------------- size


def test_thousands_of_layers_are_written_out():
    values = ", ".join(["2", "4"] * 1000)
    text = f"blocks:\n  a: {{mixer: {{kind: attention, heads: {{each: [{values}]}}}}}}\nlayers: a*2000\n"
    assert [layer.mixer.heads for layer in layers(text)[-2:]] == [2, 4]


def test_a_small_file_cannot_become_a_huge_tree():
    noise = ", ".join(f"x{i}: 1" for i in range(200))
    hidden = f"{{each: [{', '.join(['8'] * 5000)}]}}"
    text = f"blocks:\n  a: {{ffn: {{kind: mlp, hidden: {hidden}}}, norm: {{{noise}}}}}\nlayers: a*5000\n"
    assert any("once their layers are written out" in finding.what for finding in refused(text))


def test_a_million_values_are_refused_before_they_are_read():
    text = f"blocks:\n  a: {{ffn: {{kind: mlp, hidden: {{each: [{'8,' * 10**6}]}}}}}}\nlayers: a*2\n"
    assert "1 MiB" in only(text).what
    text = f"blocks:\n  a: {{ffn: {{kind: mlp, hidden: {{each: [{'8,' * 10**5}]}}}}}}\nlayers: a*2\n"
    assert "keys and values" in only(text).what
