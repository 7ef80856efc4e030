"""Vectors of texts: what is pooled, and that neighbours and padding have no part in them."""

from __future__ import annotations

import pytest
import torch

from vitruvius.errors import UsageError
from vitruvius.inference import embed
from vitruvius.nn import build
from vitruvius.spec import read_text

ENCODER = """
name: reader
vocab_size: 31
width: 16
context: 12
head: mlm
blocks:
  a: {mixer: {kind: attention, heads: 2, sees: everything, position: rope}, ffn: {kind: mlp, hidden: 32}}
layers: a*2
"""
CAUSAL = ENCODER.replace("everything", "causal").replace("head: mlm\n", "")
BOTH = """
name: both
vocab_size: 31
width: 16
context: 12
blocks:
  a: {mixer: {kind: attention, heads: 2, sees: everything, position: rope}, ffn: {kind: mlp, hidden: 32}}
  d: {mixer: {kind: attention, heads: 2}, cross: {kind: attention, heads: 2}, ffn: {kind: mlp, hidden: 32}}
encoder: {layers: a}
layers: d
"""
TEXTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11]]


def model(text: str):
    return build(read_text(text).architecture, dtype="fp64")


@pytest.mark.parametrize("text", [ENCODER, CAUSAL, BOTH])
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_a_vector_does_not_depend_on_the_other_texts(text, pooling):
    built = model(text)
    together = embed(built, TEXTS, pooling=pooling)
    assert together.shape == (3, 16)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3))
    alone = torch.cat([embed(built, [tokens], pooling=pooling) for tokens in TEXTS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_each_pooling_takes_the_tokens_it_says():
    built = model(ENCODER)
    h_TD = built.hidden(torch.tensor([TEXTS[1]]))[0].float().detach()
    for pooling, expected in (("mean", h_TD.mean(0)), ("first", h_TD[0]), ("last", h_TD[-1])):
        found = embed(built, [TEXTS[1]], pooling=pooling)[0]
        torch.testing.assert_close(found, expected / expected.norm(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "pooling", "what"),
    [
        ([], "mean", "no texts"),
        ([[1], []], "mean", "text 2 is empty"),
        ([[1] * 13], "mean", "13 tokens long and the context holds 12"),
        ([[31]], "mean", "outside the vocabulary"),
        ([[1]], "sum", "no pooling 'sum'"),
    ],
)
def test_what_cannot_be_embedded_is_refused(texts, pooling, what):
    with pytest.raises(UsageError, match=what):
        embed(model(ENCODER), texts, pooling=pooling)
