"""Every preset goes through, by its twin: every sublayer shows something, and the page can be drawn."""

from __future__ import annotations

import json

import pytest

from vitruvius.evals.inspecting import subject_of
from vitruvius.evals.inspecting.subject import LARGEST_BYTES
from vitruvius.evals.inspecting.text import PARAGRAPH
from vitruvius.report.inspect_page import inspect_page
from vitruvius.report.inspect_text import inspect_text
from vitruvius.spec import preset, preset_names, resolve, shrink

FAST = ("tiny-llama-moe", "seq2seq-small", "context-aware-bert", "context-aware-decoder", "deepseek-v3", "mamba2")
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in preset_names()]


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_shows_all_of_its_sublayers(name, look) -> None:
    architecture = shrink(preset(name))
    document = look(architecture, tokens=12, sample=128)
    graph = resolve(architecture)
    expected = [
        f"{layer.path}.{part}"
        for layer in (*graph.encoder, *graph.layers)
        for part, component in layer.sublayers()
        if part != "ffn" and component is not None
    ]
    assert [layer["path"] for layer in document["layers"]] == expected
    assert {layer["keeps"] for layer in document["layers"]} <= {"attention", "influence"}
    assert all(layer["heads"] for layer in document["layers"] if layer["keeps"] == "attention")
    assert {found["path"] for found in document["maps"]} == set(expected)
    json.dumps(document, allow_nan=False)
    page, text = inspect_page(document), inspect_text(document)
    assert page.count("<img") == len(document["maps"])
    assert "Traceback" not in text and all(layer["path"] in page for layer in document["layers"])


def test_an_encoder_decoder_shows_where_it_looks_in_its_source(look) -> None:
    document = look(shrink(preset("seq2seq-small")), tokens=16)
    vocabulary = shrink(preset("seq2seq-small")).vocab_size
    assert [token["id"] for token in document["text"]["source"]] == [ord(ch) % vocabulary for ch in PARAGRAPH[:16]]
    assert [token["id"] for token in document["text"]["tokens"]] == [ord(ch) % vocabulary for ch in PARAGRAPH[16:32]]
    assert f"modulo {vocabulary}" in document["text"]["origin"]
    assert "where the decoder looks in its source" in inspect_page(document)
    cross = [layer for layer in document["layers"] if layer["part"] == "cross"]
    assert cross and all(layer["sees"] == "the source" for layer in cross)
    for layer in cross:
        for head in layer["heads"]:
            assert head["distance"] is None and head["scores"]["previous"] is None
            assert head["scores"]["broad"] is not None
    encoder = [layer for layer in document["layers"] if layer["stack"] == "encoder"]
    assert all(head["scores"]["next"] is not None for layer in encoder for head in layer["heads"])


def test_a_source_can_be_given(look) -> None:
    document = look(shrink(preset("seq2seq-small")), tokens=16, text="what the decoder reads", source="abc")
    assert len(document["text"]["source"]) == 3
    assert all(token["text"] == f"<{token['id']}>" for token in document["text"]["source"])
    cross = next(found for found in document["maps"] if found["path"].endswith(".cross"))
    assert len(cross["cells"]) == 16 and all(len(row) == 3 for row in cross["cells"])


def test_a_spec_too_big_to_build_is_looked_into_through_its_twin() -> None:
    inspected = subject_of("llama-3-8b")
    assert sum(parameter.numel() for parameter in inspected.model.parameters()) * 4 < LARGEST_BYTES
    assert any("twin" in note for note in inspected.notes)
    assert any("fresh weights" in note for note in inspected.notes)


def test_a_spec_is_looked_into_with_fresh_weights_of_its_seed() -> None:
    first, again, other = (subject_of("tiny-llama", seed=seed).model.head for seed in (1, 1, 2))
    assert first is not again is not other
    weights = [subject_of("tiny-llama", seed=seed).model.embedding.tokens.weight for seed in (1, 1, 2)]
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
