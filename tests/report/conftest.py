"""Architectures that drawings and comparisons are tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from vitruvius.spec import Architecture, Block, node, preset, read_text
from vitruvius.spec.node import FeedForward, Mixer, Scope, StateSpec, TensorSpec, register

if TYPE_CHECKING:
    from collections.abc import Iterator

ODD = """
name: odd
description: <b>"Nested" & shared</b>
vocab_size: 1000
width: 64
context: 4096
embedding: {scale: sqrt(width), position: sinusoidal, norm: rmsnorm}
head: {kind: lm, softcap: 30}
blocks:
  local:
    norm_place: none
    mixer:
      kind: attention
      heads: 96
      kv_heads: 1
      head_width: 8
      sees: causal & (sliding(128) | global(every=64) | sinks(4) | dilated(16, every=8))
      position: alibi
      score_scale: 0.5
      bias: qkv
    ffn: {kind: mlp, hidden: 128, activation: relu2}
  a_block_with_quite_a_long_name_that_fits_nowhere:
    norm_place: post
    mixer: {kind: attention, heads: 200, head_width: 2, sees: causal}
    ffn:
      kind: moe
      experts: 16
      top_k: 3
      expert: {kind: geglu, hidden: 10}
      shared_expert: {kind: swiglu, hidden: 20}
      router: {kind: softmax, renormalise: false}
  mixer_only:
    mixer: {kind: attention, heads: 48, kv_heads: 12, head_width: 2, sees: causal & stride(8)}
  ffn_only:
    ffn: {kind: moe, experts: 1000, top_k: 20, expert: {kind: geglu, hidden: 10}}
layers: (local*5 a_block_with_quite_a_long_name_that_fits_nowhere)*5 (mixer_only ffn_only^2)^3 local*4
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign(Mixer):
    """A mixer that no drawing knows."""

    kind: Literal["foreign"] = "foreign"
    state: int = 16
    note: str = ""

    def tensors(self, scope: Scope):
        return {"w": TensorSpec(shape=(scope.width, self.state))}

    def state_tensors(self, scope: Scope, capacity: int):
        return {"state": StateSpec(shape=(self.state, 4), role="state")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFeedForward(FeedForward):
    """A feed-forward network that no drawing knows."""

    kind: Literal["foreign-ffn"] = "foreign-ffn"
    inner: FeedForward | None = None

    @property
    def hidden_width(self) -> int:
        return 7


@pytest.fixture(scope="session")
def odd() -> Architecture:
    """Nested and shared repeats, many heads, many experts, no norms, post norms, blocks with one half only."""
    return read_text(ODD).architecture


@pytest.fixture
def foreign() -> Iterator[Architecture]:
    """A block of kinds that came from elsewhere, for one test."""
    register(Foreign)
    register(ForeignFeedForward)
    yield Architecture(
        name="foreign",
        vocab_size=100,
        width=32,
        context=64,
        blocks={
            "layer": Block(
                mixer=Foreign(state=2048, note="a\x1b[2J<script>"),
                ffn=ForeignFeedForward(inner=preset("tiny-llama").blocks["layer"].ffn),
            )
        },
        layers="layer*3",
    )
    del node._registry["mixer"]["foreign"], node._registry["ffn"]["foreign-ffn"]
