"""Positions on the embedding: what they add, how their tables grow, what they report."""

from __future__ import annotations

import pytest
import torch

from vitruvius.checks.growth import at_length
from vitruvius.errors import PositionOverflowError
from vitruvius.nn import Signals, build
from vitruvius.nn.place import Place
from vitruvius.nn.weights import MODEL_FILE, load_weights, weights_of, write_tensors
from vitruvius.spec import read_text

SPEC = """
name: a
vocab_size: 61
width: 32
context: 48
embedding: {scale: SCALE, position: POSITION}
blocks:
  layer:
    mixer: {kind: attention, heads: 4, sees: causal}
    ffn: {kind: swiglu, hidden: 48}
layers: layer*2
"""
GATED = "{kind: gated-additive, table: learned, size: 40, start: 4}"


def architecture(position: str, scale: str = "null"):
    text = SPEC.replace("POSITION", position).replace("SCALE", scale)
    return read_text(text.replace("context: 48", "context: 40")).architecture


def tokens(length: int) -> torch.Tensor:
    return torch.randint(61, (2, length), generator=torch.Generator().manual_seed(length))


def test_a_gated_table_grows_up_to_its_size_and_no_further():
    model = build(architecture(GATED), dtype="fp64")
    table = model.embedding.position.table
    first = table.weight.detach().clone()
    model(tokens(9))
    assert table.weight.shape[0] == 9
    assert torch.equal(table.weight[:4], first)
    with pytest.raises(PositionOverflowError, match="40"):
        model(tokens(41))


def test_a_gated_table_grows_alike_in_whatever_steps():
    slowly, at_once = (build(architecture(GATED), seed=3) for _ in range(2))
    for length in (5, 11, 40):
        slowly(tokens(length))
    at_once(tokens(40))
    assert torch.equal(slowly.embedding.position.table.weight, at_once.embedding.position.table.weight)


@pytest.mark.parametrize("length", [3, 17, 40])
def test_a_gated_model_works_at_every_length_of_its_table(length):
    run = at_length(architecture(GATED), length)
    assert run.passed
    assert run.rows_before == 4
    assert run.rows_after >= length


def test_a_table_that_grew_is_read_back(tmp_path):
    trained = build(architecture(GATED), seed=1)
    trained(tokens(30))
    write_tensors(tmp_path / MODEL_FILE, weights_of(trained))
    fresh = build(architecture(GATED), seed=2)
    load_weights(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(fresh(tokens(30)), trained(tokens(30)))


def test_the_gate_reads_the_embedding_as_it_was_scaled():
    model = build(architecture("gated-additive", scale="sqrt(width)"), dtype="fp64", seed=4)
    rows = model.embedding.tokens(tokens(7)) * 32**0.5
    gate = (rows @ model.embedding.position.gate.weight.T + model.embedding.position.gate.bias).sigmoid()
    sines = model.embedding.position.table.rows(torch.arange(7), rows)
    placed = model.embedding(tokens(7), Place(positions=torch.arange(7)))
    assert (placed - (rows + gate * sines)).abs().max() < 1e-12


@pytest.mark.parametrize("position", ["sinusoidal", "learned", "gated-additive"])
def test_whoever_listens_hears_the_variance_of_what_positions_add(position):
    model = build(architecture(position), seed=5)
    signals = Signals()
    model(tokens(20), signals=signals)
    [variance] = signals.metrics["position_variance"]
    if position == "sinusoidal":
        table = model.embedding.position.rows(torch.arange(20), torch.empty(1, 32))
        assert variance.item() == pytest.approx(table.var(correction=0).item(), rel=1e-5)
    assert variance.item() > 0
    assert ("position_gate_mean" in signals.metrics) == (position == "gated-additive")


def test_without_positions_on_the_embedding_nothing_is_reported():
    signals = Signals()
    build(architecture("none"))(tokens(20), signals=signals)
    assert signals.metrics == {}
