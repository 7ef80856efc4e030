"""The JSON Schema that editors use accepts what the reader accepts, and refuses what no editor should let pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from vitruvius.errors import SpecError
from vitruvius.spec import kinds, preset_names, read_text
from vitruvius.spec.model import Architecture, Block
from vitruvius.spec.node import FAMILIES
from vitruvius.spec.reading import presets_folder
from vitruvius.spec.schema import DRAFT, field_docs, json_schema, summary
from vitruvius.spec.source import load, parse_text
from vitruvius.spec.tree import to_plain

SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)

HEAD = "name: a\nvocab_size: 100\nwidth: 64\ncontext: 128\n"
LAYER = "{mixer: {kind: attention, heads: 4}, ffn: {kind: swiglu, hidden: 64}}"


def _spec(*, top: str = "", layer: str = LAYER, more: str = "", layers: str = "layers: layer*2\n") -> str:
    return f"{HEAD}{top}blocks:\n  layer: {layer}\n{more}{layers}"


def _complaints(text: str) -> list[str]:
    data = to_plain(parse_text(text, file="spec"))
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(data)]


def test_the_schema_is_a_schema_of_the_draft_that_it_names():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == DRAFT
    json.dumps(SCHEMA, allow_nan=False)


def test_every_reference_leads_to_a_definition():
    found = set()

    def walk(part):
        if isinstance(part, dict):
            if "$ref" in part:
                found.add(part["$ref"])
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(SCHEMA)
    assert found
    assert found <= {f"#/$defs/{name}" for name in SCHEMA["$defs"]}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_fits(name):
    data = to_plain(load(presets_folder() / f"{name}.yaml"))
    assert [error.message for error in VALIDATOR.iter_errors(data)] == []


GOOD = {
    "bare names": _spec(top="norm: layernorm\ninit: xavier\nhead: lm\n"),
    "none removes": _spec(layer="{mixer: {kind: attention, heads: 4, position: none}, ffn: none}"),
    "null removes": _spec(layer="{mixer: {kind: attention, heads: 4, qk_norm: null}, ffn: null}"),
    "values by layer": _spec(
        layer="{mixer: {kind: attention, heads: {each: [2, 4]}, position: {each: [rope, none]}}, "
        "ffn: {each: [{kind: mlp, hidden: 8}, {kind: swiglu, hidden: 8}]}}"
    ),
    "a child with values by layer": _spec(more="  wide: {extends: layer, ffn: {hidden: {each: [128]}}}\n"),
    "a child gives only what differs": _spec(more="  wide: {extends: layer, ffn: {hidden: 128}}\n"),
    "a child gives nothing": _spec(more="  same: {extends: layer}\n"),
    "a child of another kind": _spec(more="  plain: {extends: layer, ffn: {kind: mlp, hidden: 9}}\n"),
    "a child reaches deep": _spec(
        layer="{mixer: {kind: attention, heads: 4, position: {kind: rope, scaling: {kind: linear, factor: 2}}}}",
        more="  far: {extends: layer, mixer: {position: {scaling: {factor: 4}}}}\n",
    ),
    "stacked lines": _spec(
        layer="{ffn: {kind: swiglu, hidden: 64}}",
        more="  see: {mixer: {kind: attention, heads: 4}}\n",
        layers='layers: ["layer*2", "see*2"]\n',
    ),
    "numbers as YAML 1.2 has them": _spec(top="norm: {kind: rmsnorm, eps: 1e-6}\n"),
    "expressions": _spec(top="embedding: {scale: sqrt(width), position: sinusoidal}\n"),
    "claims": _spec(top="claims: [{about: parameters, says: 8B}]\n"),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_the_reader_takes_the_schema_takes(text):
    read_text(text)
    assert _complaints(text) == []


BAD = {
    "unknown key at the top": _spec(top="widht: 64\n"),
    "unknown key in a component": _spec(layer="{mixer: {kind: attention, heads: 4, headz: 4}}"),
    "unknown key in a child": _spec(more="  b: {extends: layer, mixer: {headz: 4}}\n"),
    "unknown kind": _spec(layer="{mixer: {kind: attenshun, heads: 4}}"),
    "unknown bare name": _spec(top="norm: layernrom\n"),
    "a bare name that needs fields": _spec(layer="{mixer: attention}"),
    "text for a number": _spec(layer="{mixer: {kind: attention, heads: four}}"),
    "a fraction for a count": _spec(layer="{mixer: {kind: attention, heads: 4.5}}"),
    "a negative count": _spec(layer="{mixer: {kind: attention, heads: -4}}"),
    "a boolean for a count": _spec(layer="{mixer: {kind: attention, heads: true}}"),
    "a missing field": _spec(layer="{mixer: {kind: attention}}"),
    "a missing kind": _spec(layer="{mixer: {heads: 4}}"),
    "a choice that is none": _spec(layer="{norm_place: before, mixer: {kind: attention, heads: 4}}"),
    "a kind of another family": _spec(top="norm: {kind: swiglu, hidden: 4}\n"),
    "none where something must be": _spec(top="head: none\n"),
    "a list at the top": "- a\n- b\n",
    "no blocks": f"{HEAD}blocks: {{}}\nlayers: a\n",
    "no layers": _spec(layers=""),
    "an empty list by layer": _spec(layer="{mixer: {kind: attention, heads: {each: []}}}"),
    "a wrong value by layer": _spec(layer="{mixer: {kind: attention, heads: {each: [4, four]}}}"),
    "values by layer with company": _spec(layer="{mixer: {kind: attention, heads: {each: [4, 4], more: 4}}}"),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_what_the_schema_refuses_the_reader_refuses_too(text):
    assert _complaints(text) if not text.startswith("-") else list(VALIDATOR.iter_errors(["a", "b"]))
    with pytest.raises(SpecError):
        read_text(text)


def test_every_kind_can_be_completed_and_says_what_it_is():
    for family in FAMILIES:
        for kind, node in kinds(family).items():
            definition = SCHEMA["$defs"][node.__name__]
            named = definition["properties"]["kind"]
            assert named.get("enum", [named.get("const")]) == [kind, *node.aliases]
            assert definition["properties"]["kind"]["description"] == summary(node)
            assert "kind" in definition["required"]
            assert "required" not in SCHEMA["$defs"][f"{node.__name__}.partial"]


def test_every_field_is_documented_in_the_code_and_so_in_the_schema():
    undocumented = [
        f"{name}.{field}"
        for name, definition in SCHEMA["$defs"].items()
        for field, schema in definition.get("properties", {}).items()
        if not schema.get("description")
    ]
    assert undocumented == []


def test_documentation_is_found_where_a_field_is_inherited_from():
    assert field_docs(Architecture)["width"] == "Width of the residual stream (d_model)."
    assert field_docs(Block)["norm_place"].startswith("Where it stands")
    assert field_docs(kinds("ffn")["swiglu"])["hidden"] == "Width between the maps."


def test_a_class_without_source_has_no_documentation_and_no_error():
    made = type("Made", (kinds("norm")["rmsnorm"],), {"__slots__": ()})
    assert "eps" in field_docs(made)


def test_the_committed_presets_are_files_of_their_own():
    assert {Path(name).stem for name in preset_names()} == {path.stem for path in presets_folder().glob("*.yaml")}
