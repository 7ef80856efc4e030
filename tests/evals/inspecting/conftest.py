"""What tests of looking inside share: one thread, models of a few lines, and a way to look into them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vitruvius.evals.inspecting import Ask, inspect
from vitruvius.evals.inspecting.subject import Inspected, of_architecture
from vitruvius.spec import read_text

sys.path.insert(0, str(Path(__file__).parent))

SPEC = """\
name: small
vocab_size: 64
width: 32
context: 64
head: {{kind: {head}, tied: true}}
blocks:
  a:
    mixer: {mixer}
    ffn: {ffn}
layers: a*2
"""
ATTENTION = "{kind: attention, heads: 4, kv_heads: 2, sees: causal, position: rope}"
MLP = "{kind: swiglu, hidden: 48}"


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test of this folder."""


@pytest.fixture
def small():
    """An architecture with this mixer and this feed-forward network."""

    def make(mixer=ATTENTION, ffn=MLP, head="lm"):
        return read_text(SPEC.format(mixer=mixer, ffn=ffn, head=head)).architecture

    return make


@pytest.fixture
def look():
    """The document about an architecture or a model."""

    def call(examined, **options):
        options = {"tokens": 24, "sample": 256, **options}
        inspected = Inspected(name="given", model=examined) if hasattr(examined, "graph") else of_architecture(examined)
        return inspect(inspected, Ask(**options))

    return call
