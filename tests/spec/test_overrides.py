"""`--set a.b=c`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import Finding, SpecError
from vitruvius.spec.merge import resolve_blocks
from vitruvius.spec.overrides import apply_overrides
from vitruvius.spec.source import Node, key_positions, parse_text, positions, to_plain

BARE = frozenset({"norm", "position", "head"})
TEXT = """\
width: 512
norm: rmsnorm
head: {kind: lm, tied: true}
blocks:
  local:
    norm: rmsnorm
    mixer: {kind: attention, heads: 8, sees: causal & sliding(16), position: {kind: rope, theta: 1e4}}
  full: {extends: local, mixer: {sees: causal, position: none}}
layers: [local*2 full*2, dense*4]
"""
TREE = parse_text(TEXT)


def after(*settings: str) -> Any:
    """The resolved data after some settings."""
    return to_plain(resolve_blocks(apply_overrides(TREE, settings, bare=BARE), bare=BARE))


def findings(*settings: str):
    with pytest.raises(SpecError) as caught:
        apply_overrides(TREE, settings, bare=BARE)
    return caught.value.findings


def test_without_settings_nothing_changes():
    assert apply_overrides(TREE, []) == TREE


def test_a_setting_replaces_a_value():
    assert after("width=1024")["width"] == 1024


def test_children_follow_because_settings_come_before_extends():
    blocks = after("blocks.local.mixer.heads=16")["blocks"]
    assert blocks["local"]["mixer"]["heads"] == blocks["full"]["mixer"]["heads"] == 16


def test_later_settings_win():
    assert after("width=1", "width=2")["width"] == 2


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("16", 16),
        ("1e-3", 0.001),
        ("4.0", 4.0),
        ("true", True),
        ("no", "no"),
        ("null", None),
        ('"16"', "16"),
        ("causal & dilated(1024, every=4)", "causal & dilated(1024, every=4)"),
        ("{kind: alibi}", {"kind": "alibi"}),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("(a b)*4", "(a b)*4"),
        ("a=b", "a=b"),
        (" 7 ", 7),
    ],
)
def test_a_value_is_read_as_in_a_file(value, read):
    assert after(f"new={value}")["new"] == read


def test_a_whole_mapping_can_be_set():
    position = after("blocks.local.mixer.position={kind: alibi}")["blocks"]["local"]["mixer"]["position"]
    assert position == {"kind": "alibi"}


def test_a_bare_name_becomes_a_mapping_when_reached_into():
    data = after("norm.eps=1e-5", "blocks.full.norm.eps=1e-6")
    assert data["norm"] == {"kind": "rmsnorm", "eps": 1e-5}
    assert data["blocks"]["local"]["norm"] == {"kind": "rmsnorm"}
    assert data["blocks"]["full"]["norm"] == {"kind": "rmsnorm", "eps": 1e-6}


def test_none_can_be_given_another_kind_and_nothing_else():
    full = after("blocks.full.mixer.position.kind=alibi")["blocks"]["full"]
    assert full["mixer"]["position"] == {"kind": "alibi"}
    (finding,) = findings("blocks.full.mixer.position.theta=1e5")
    assert "absent" in finding.what
    assert "set the whole" in finding.fix


def test_a_child_can_be_set_apart_in_what_it_inherits():
    blocks = after("blocks.full.mixer.heads=4")["blocks"]
    assert (blocks["local"]["mixer"]["heads"], blocks["full"]["mixer"]["heads"]) == (8, 4)
    tree = parse_text("blocks:\n  a: {ffn: {kind: mlp, hidden: 8}}\n  b: {extends: a}\n  c: {extends: b}\n")
    tree = resolve_blocks(apply_overrides(tree, ["blocks.c.ffn.hidden=9"]))
    assert to_plain(tree) == {
        "blocks": {
            "a": {"ffn": {"kind": "mlp", "hidden": 8}},
            "b": {"ffn": {"kind": "mlp", "hidden": 8}},
            "c": {"ffn": {"kind": "mlp", "hidden": 9}},
        }
    }


def test_a_list_is_set_by_index():
    assert after("layers.0=local*4")["layers"] == ["local*4", "dense*4"]


def test_a_new_block_can_be_set():
    assert after("blocks.new={extends: full}")["blocks"]["new"] == after()["blocks"]["full"]


def test_what_was_set_is_placed_at_its_setting():
    tree = apply_overrides(TREE, ["blocks.local.mixer.heads=16", "head={kind: lm, tied: false}"])
    heads = ("blocks", "local", "mixer", "heads")
    assert positions(tree)[heads] == ("--set blocks.local.mixer.heads=16", 1, 26)
    assert key_positions(tree)[heads] == ("--set blocks.local.mixer.heads=16", 1, 20)
    assert positions(tree)["head", "tied"] == ("--set 'head={kind: lm, tied: false}'", 1, 23)
    assert positions(tree)["width",] == positions(TREE)["width",]


@pytest.mark.parametrize(
    ("setting", "column", "path", "what", "fix"),
    [
        ("width", 1, "", "no '='", "--set PATH=VALUE"),
        ("", 1, "", "no '='", "--set PATH=VALUE"),
        ("=3", 1, "", "empty name", "--set PATH=VALUE"),
        ("a..b=3", 3, "", "empty name", "--set PATH=VALUE"),
        ("a.=3", 3, "", "empty name", "--set PATH=VALUE"),
        ("width=", 7, "", "no value", "null"),
        ("width =3", 1, "", "a space in the path", "without spaces"),
        ("w\u0456dth=3", 2, "", "CYRILLIC", "type 'width' in ASCII"),
        ("wi\x1bdth=3", 3, "", "U+001B", "delete"),
        ("width.x=3", 7, "width.x", "'width' is '512', not a mapping", "set 'width' itself"),
        ("width.hed=3", 7, "width.hed", "not a mapping", "did you mean 'head'?"),
        ("blocks.lcoal.mixer.heads=3", 8, "blocks.lcoal", "no block 'lcoal'", "did you mean 'local'?"),
        ("blocks.full.mixr.heads=3", 13, "blocks.full.mixr", "no field 'mixr'", "did you mean 'mixer'?"),
        ("blocks.full.nrm.eps=3", 13, "blocks.full.nrm", "no field 'nrm'", "did you mean 'norm'?"),
        ("embedding.scale=3", 1, "embedding", "no field 'embedding'", "--set 'embedding={scale: ...}'"),
        ("layers.2=a", 8, "layers.2", "list of 2", "0 to 1"),
        ("layers.x=a", 8, "layers.x", "list of 2", "0 to 1"),
        ("layers.-1=a", 8, "layers.-1", "list of 2", "0 to 1"),
        ("layers.99999999999999999999=a", 8, "layers.99999999999999999999", "list of 2", "0 to 1"),
        ("width=007", 7, "width", "leading zero", "write 7"),
        ("head={kind: lm", 6, "head", "never closed", "'}'"),
        ("head={a: f(1, b=2)}", 10, "head.a", "comma", '"f(1, b=2)"'),
        ("width=&x 3", 7, "width", "anchors", "quote"),
        ("width=*x", 7, "width", "aliases", "quote"),
        ("width=\x00", 7, "width", "NUL", "delete"),
        ("width=# nothing", 1, "width", "empty", ""),
    ],
)
def test_a_bad_setting_is_pointed_at(setting, column, path, what, fix):
    (finding,) = findings(setting)
    assert finding.file.startswith("--set ")
    assert "\x00" not in str(finding)
    assert "\x1b" not in str(finding)
    assert finding.line in {1, None}
    assert (finding.column or 1, finding.path) == (column, path)
    assert what in finding.what
    assert fix in finding.fix


def test_all_bad_settings_are_reported_at_once():
    found = findings("width", "blocks.lcoal.x=1", "width=1024", "head=08")
    assert len(found) == 3


def test_settings_cannot_pile_up_a_tree_too_deep_to_walk():
    deep = "[" * 60 + "]" * 60
    tree = apply_overrides(TREE, [f"a={deep}"])
    with pytest.raises(SpecError, match="levels deep"):
        apply_overrides(tree, [f"a{'.0' * 59}.x={deep}"])


def test_a_tree_that_is_set_twice_is_not_changed_the_first_time():
    before = to_plain(TREE)
    apply_overrides(TREE, ["blocks.local.mixer.heads=16", "layers.0=x", "norm.eps=1"], bare=BARE)
    assert to_plain(TREE) == before


paths = st.sampled_from(
    [
        "width",
        "norm.eps",
        "head.tied",
        "blocks.local.mixer.heads",
        "blocks.full.ffn",
        "blocks.full.norm.eps",
        "layers.1",
    ]
)


@given(paths, st.integers(0, 10**6) | st.booleans() | st.sampled_from(["causal", "a & b", "x(1, y=2)"]))
def test_a_value_that_was_set_is_found_at_its_path(path, value):
    text = str(value).lower() if isinstance(value, bool) else str(value)
    found = after(f"{path}={text}")
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    assert found == value


@given(st.text(alphabet="ab.=[]{}:, &*!'\"%\t\n0\u0430width", max_size=40))
def test_any_setting_is_applied_or_refused(setting):
    outcome = tree_or_findings(setting)
    if isinstance(outcome, Node):
        assert isinstance(to_plain(outcome), dict)
    else:
        assert outcome
        assert all(finding.file.startswith("--set") for finding in outcome)


def tree_or_findings(setting: str) -> Node | tuple[Finding, ...]:
    try:
        return apply_overrides(TREE, [setting], bare=BARE)
    except SpecError as error:
        return error.findings
