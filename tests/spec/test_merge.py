"""`extends`, and bare names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError
from vitruvius.spec.merge import MAX_RESOLVED_NODES, resolve_blocks
from vitruvius.spec.source import key_positions, parse_text, positions, to_plain

BARE = frozenset({"norm", "position", "head", "qk_norm"})


def resolved(text: str, **settings: Any) -> Any:
    return to_plain(resolve_blocks(parse_text(text), bare=BARE, **settings))


def blocks(text: str, **settings: Any) -> Any:
    return resolved(text, **settings)["blocks"]


def findings(text: str):
    with pytest.raises(SpecError) as caught:
        resolve_blocks(parse_text(text), bare=BARE)
    return caught.value.findings


LONGCONTEXT = """\
blocks:
  local:
    mixer:
      kind: attention
      heads: 32
      sees: causal & sliding(4096)
      position: {kind: rope, theta: 1e4, scaling: {kind: yarn, factor: 25}}
    ffn: {kind: swiglu, hidden: 11008}
  full: {extends: local, mixer: {sees: causal, position: {theta: 1e6, scaling: {kind: linear}}}}
  mamba: {extends: full, mixer: {kind: mamba, state: 16}}
"""


def test_a_child_says_only_what_differs():
    full = blocks(LONGCONTEXT)["full"]
    assert full == {
        "mixer": {
            "kind": "attention",
            "heads": 32,
            "sees": "causal",
            "position": {"kind": "rope", "theta": 1e6, "scaling": {"kind": "linear"}},
        },
        "ffn": {"kind": "swiglu", "hidden": 11008},
    }


def test_a_mapping_of_another_kind_replaces_its_parents_whole():
    assert blocks(LONGCONTEXT)["mamba"] == {
        "mixer": {"kind": "mamba", "state": 16},
        "ffn": {"kind": "swiglu", "hidden": 11008},
    }


def test_a_mapping_of_the_same_kind_is_merged():
    text = "blocks:\n  a: {f: {kind: x, p: 1, q: 2}}\n  b: {extends: a, f: {kind: x, q: 3}}\n"
    assert blocks(text)["b"] == {"f": {"kind": "x", "p": 1, "q": 3}}


def test_lists_and_scalars_replace():
    text = "blocks:\n  a: {l: [1, 2], s: 1, m: {x: 1}}\n  b: {extends: a, l: [3], s: null, m: 4}\n"
    assert blocks(text)["b"] == {"l": [3], "s": None, "m": 4}


def test_the_order_of_blocks_does_not_matter():
    text = "blocks:\n  c: {extends: b, z: 3}\n  b: {extends: a, y: 2}\n  a: {x: 1}\n"
    assert blocks(text) == {"c": {"x": 1, "y": 2, "z": 3}, "b": {"x": 1, "y": 2}, "a": {"x": 1}}


def test_parents_are_left_as_they_were():
    tree = parse_text(LONGCONTEXT)
    before = to_plain(tree)
    resolve_blocks(tree)
    assert to_plain(tree) == before


def test_what_is_inherited_keeps_the_place_where_it_was_written():
    tree = resolve_blocks(parse_text(LONGCONTEXT))
    values, keys = positions(tree), key_positions(tree)
    heads = ("blocks", "full", "mixer", "heads")
    assert values[heads].line == keys[heads].line == 5
    assert values["blocks", "full", "mixer", "sees"].line == 9
    assert values["blocks", "full", "mixer"].line == 9
    assert values["blocks", "mamba", "ffn", "hidden"].line == 8


def test_keys_of_ones_own_are_not_inherited():
    text = "blocks:\n  a: {shared: true, x: 1}\n  b: {extends: a}\n  c: {extends: a, shared: false}\n"
    assert blocks(text, own=frozenset({"shared"})) == {
        "a": {"shared": True, "x": 1},
        "b": {"x": 1},
        "c": {"shared": False, "x": 1},
    }


def test_what_is_no_mapping_is_left_for_the_schema():
    assert resolved("blocks: 3") == {"blocks": 3}
    assert resolved("width: 3") == {"width": 3}
    assert blocks("blocks:\n  a: 3\n  b: {extends: a, x: 1}\n") == {"a": 3, "b": {"x": 1}}


# ------------------------------------------------------------------------------------------------------- bare names


def test_a_bare_name_means_a_mapping_with_that_kind():
    assert resolved("norm: layernorm\nblocks: {a: {mixer: {qk_norm: rmsnorm, sees: causal}}}") == {
        "norm": {"kind": "layernorm"},
        "blocks": {"a": {"mixer": {"qk_norm": {"kind": "rmsnorm"}, "sees": "causal"}}},
    }


def test_a_bare_name_stands_where_its_kind_stands():
    tree = resolve_blocks(parse_text("name: x\nnorm: layernorm"), bare=BARE)
    assert positions(tree)["norm", "kind"] == positions(tree)["norm",] == ("arch.yaml", 2, 7)


def test_a_bare_name_and_a_mapping_merge_either_way_round():
    text = "blocks:\n  a: {norm: rmsnorm}\n  b: {extends: a, norm: {eps: 1e-5}}\n  c: {extends: b, norm: rmsnorm}\n"
    assert blocks(text)["b"] == {"norm": {"kind": "rmsnorm", "eps": 1e-5}}
    assert blocks(text)["c"] == {"norm": {"kind": "rmsnorm", "eps": 1e-5}}
    assert blocks(text.replace("c: {extends: b, norm: rmsnorm", "c: {extends: b, norm: layernorm"))["c"] == {
        "norm": {"kind": "layernorm"}
    }


def test_none_removes_what_would_be_inherited():
    text = "blocks:\n  a: {position: rope}\n  b: {extends: a, position: none}\n"
    assert blocks(text)["b"] == {"position": None}
    assert blocks(text, none="kind")["b"] == {"position": {"kind": "none"}}


def test_a_block_or_a_stack_may_be_called_like_a_field():
    text = "blocks: {norm: {x: 1}, head: {extends: norm}}\nlayers: {head: norm*2}\n"
    assert resolved(text) == {"blocks": {"norm": {"x": 1}, "head": {"x": 1}}, "layers": {"head": "norm*2"}}


# ----------------------------------------------------------------------------------------------------------- errors


def test_an_unknown_parent_is_named_with_the_nearest_block():
    (finding,) = findings("blocks:\n  local: {x: 1}\n  full: {extends: locl}\n")
    assert (finding.line, finding.column, finding.path) == (3, 19, "blocks.full.extends")
    assert finding.what == "no block 'locl'"
    assert finding.fix == "did you mean 'local'?"


def test_a_circle_is_drawn_once():
    text = "blocks:\n  a: {extends: b}\n  b: {extends: c}\n  c: {extends: a}\n  d: {extends: a}\n"
    (finding,) = findings(text)
    assert "a -> b -> c -> a" in finding.what
    assert finding.line == 4


def test_a_block_cannot_extend_itself():
    (finding,) = findings("blocks:\n  a: {extends: a}\n")
    assert "a -> a" in finding.what


@pytest.mark.parametrize("parent", ["[a, b]", "3", "{a: b}", "true"])
def test_extends_takes_one_name(parent):
    (finding,) = findings(f"blocks:\n  a: {{x: 1}}\n  b: {{extends: {parent}}}\n")
    assert "name of one block" in finding.what


def test_every_bad_parent_is_reported_at_once():
    found = findings("blocks:\n  a: {extends: x}\n  b: {extends: [y]}\n  c: {extends: c}\n")
    assert [finding.line for finding in found] == [2, 3, 4]


def test_a_long_chain_is_resolved_without_recursion():
    links = "".join(f"  b{i}: {{extends: b{i + 1}}}\n" for i in range(500))
    assert blocks(f"blocks:\n{links}  b500: {{x: 1}}\n")["b0"] == {"x": 1}


@pytest.mark.parametrize("order", [1, -1])
def test_a_long_circle_is_refused_without_recursion(order):
    links = [f"  b{i}: {{extends: b{(i + 1) % 10_000}}}\n" for i in range(10_000)][::order]
    (finding,) = findings("blocks:\n" + "".join(links))
    assert "circle" in finding.what
    assert len(finding.what) < 200


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "blocks:\n  b0: {x: 1}\n" + "".join(f"  b{i + 1}: {{extends: b{i}, k{i}: 1}}\n" for i in range(5_000)),
            id="each a little larger",
        ),
        pytest.param(
            f"blocks:\n  a: {{{', '.join(f'k{i}: 1' for i in range(10_000))}}}\n"
            + "".join(f"  b{i}: {{extends: a}}\n" for i in range(5_000)),
            id="a large parent of many",
        ),
    ],
)
def test_inheritance_cannot_make_a_small_file_huge(text):
    (finding,) = findings(text)
    assert f"{MAX_RESOLVED_NODES:,}" in finding.what


leaves = st.sampled_from(["kind: x", "kind: y", "p: 1", "q: [1]", "r: {s: 1}", "r: {kind: z}", "r: 5", "norm: none"])
bodies = st.lists(leaves, unique_by=lambda leaf: leaf.partition(":")[0], max_size=4)


@given(bodies, bodies)
def test_extending_and_saying_nothing_copies_and_saying_it_again_changes_nothing(first, second):
    one, two = ", ".join(first), ", ".join(second)
    more = f", {two}" if two else ""
    result = blocks(
        f"blocks:\n  a: {{{one}}}\n  b: {{extends: a}}\n  c: {{extends: a{more}}}\n  d: {{extends: c{more}}}\n"
    )
    assert result["a"] == result["b"]
    assert result["c"] == result["d"]
    own = blocks(f"blocks:\n  e: {{{two}}}\n")["e"]
    assert own.keys() <= result["c"].keys()
    assert all(result["c"][key] == value for key, value in own.items() if not isinstance(value, dict))
