"""What linear-time mixers say of themselves: their size as their pages state it, their twins, what does not fit."""

from __future__ import annotations

from math import prod

import pytest

from vitruvius.errors import SpecError
from vitruvius.spec import Scope, findings, read_text, resolve, shrink
from vitruvius.spec.mixers.deltanet import GatedDeltaNet
from vitruvius.spec.mixers.gla import GatedLinearAttention
from vitruvius.spec.mixers.kda import KimiDelta
from vitruvius.spec.mixers.mamba import Mamba
from vitruvius.spec.mixers.mamba2 import Mamba2
from vitruvius.spec.mixers.retnet import RetNet
from vitruvius.spec.mixers.rwkv7 import RWKV7
from vitruvius.spec.mixers.short_conv import ShortConvolution
from vitruvius.spec.widen import widen

D = 96
SCOPE = Scope(width=D, vocab_size=61, context=256, depth=2)


def text_of(mixer: str) -> str:
    return f"""
name: t
vocab_size: 61
width: {D}
context: 4096
blocks:
  a: {{mixer: {mixer}, ffn: {{kind: swiglu, hidden: 128}}}}
layers: a*3
"""


SIZES = {
    "mamba": (
        Mamba(state=5, conv=3, dt_rank=7, bias="none"),
        2 * D * 192 + 192 * 3 + 192 * (7 + 10) + 7 * 192 + 192 + 192 * 5 + 192 + 192 * D,
        4 * 192 * 5,
        192 * 5 + 192 * 2,
    ),
    "mamba2": (
        Mamba2(heads=6, head_width=10, groups=2, state=5, conv=3, bias="none"),
        D * (120 + 20 + 6) + (60 + 20) * 3 + 18 + 60 + 60 * D,
        4 * 60 * 5,
        60 * 5 + 80 * 2,
    ),
    "gated-deltanet": (
        GatedDeltaNet(heads=6, key_heads=2, head_width=5, value_width=7, conv=3),
        D * (20 + 84 + 12) + 62 * 3 + 12 + 7 + 42 * D,
        6 * 6 * 5 * 7,
        6 * 5 * 7 + 62 * 2,
    ),
    "deltanet": (
        GatedDeltaNet(heads=6, key_heads=2, head_width=5, value_width=7, conv=3, decay="none"),
        D * (20 + 84 + 6) + 62 * 3 + 7 + 42 * D,
        6 * 6 * 5 * 7,
        6 * 5 * 7 + 62 * 2,
    ),
    "kda": (
        KimiDelta(heads=3, head_width=5, value_width=7, rank=4, conv=3),
        D * (51 + 3 + 8) + 51 * 3 + 4 * 3 * 12 + 15 + 3 + 7 + 21 * D,
        6 * 3 * 5 * 7,
        3 * 5 * 7 + 51 * 2,
    ),
    "gla": (
        GatedLinearAttention(heads=3, head_width=5, value_width=7, rank=4),
        D * (30 + 42 + 4) + 4 * 15 + 15 + 7 + 21 * D,
        4 * 3 * 5 * 7,
        3 * 5 * 7,
    ),
    "retnet": (
        RetNet(heads=3, head_width=6, value_width=7),
        D * (36 + 42) + 21 * D,
        4 * 3 * 6 * 7,
        3 * 6 * 7,
    ),
    "rwkv7": (
        RWKV7(head_width=8, decay_rank=3, rate_rank=4, gate_rank=5),
        4 * D * D + 2 * D * 12 + 13 * D,
        8 * D * 8,
        D * 8 + D,
    ),
    "short-conv": (ShortConvolution(conv=3, bias="all"), 4 * D * D + 3 * D + 5 * D, 0, 2 * D),
}
"""Name: a mixer, and its parameters, FLOPs of the recurrence and numbers kept by the formulas of its page."""


@pytest.mark.parametrize("name", SIZES)
def test_a_page_states_the_size_of_its_mixer(name):
    mixer, parameters, flops, kept = SIZES[name]
    tensors = mixer.tensors(SCOPE)
    assert sum(tensor.count for tensor in tensors.values()) == parameters
    maps = sum(2 * tensor.count for tensor in tensors.values() if tensor.is_linear)
    total = mixer.flops(SCOPE, 11)
    assert total.useful == total.dense == 11 * (maps + flops)
    state = mixer.state_tensors(SCOPE, 1000)
    assert sum(prod(spec.shape) for spec in state.values()) == kept
    assert state == mixer.state_tensors(SCOPE, 10)
    assert all(spec.role == "state" for spec in state.values())


@pytest.mark.parametrize(
    ("mixer", "path", "says"),
    [
        ("{kind: gated-deltanet, heads: 6, key_heads: 4}", "key_heads", "4 does not divide heads=6"),
        ("{kind: gated-deltanet, heads: 7}", "heads", "7 does not divide width=96"),
        ("{kind: kda, heads: 7}", "heads", "7 does not divide width=96"),
        ("{kind: gla, heads: 32}", "heads", "2 x 32 does not divide width=96"),
        ("{kind: retnet, heads: 32}", "theta", "a head has 3"),
        ("{kind: retnet, heads: 48}", "heads", "which is never"),
        ("{kind: rwkv7}", "head_width", "64 does not divide width=96"),
        ("{kind: mamba2, heads: 6, groups: 4}", "groups", "4 does not divide heads=6"),
        ("{kind: mamba, state: 1, inner_norm: rmsnorm}", "state", "a single number"),
        ("{kind: mamba, dt_rank: 1, inner_norm: layernorm}", "dt_rank", "a single number"),
        ("{kind: mamba, conv: 1}", "conv", "1 taps are no short convolution"),
        ("{kind: short-conv, conv: 9}", "conv", "9 taps are no short convolution"),
        ("{kind: rwkv7, head_width: 8, value_from: a}", "value_from", ""),
    ],
)
def test_what_does_not_fit_is_said_where_it_stands(mixer, path, says):
    with pytest.raises(SpecError) as error:
        read_text(text_of(mixer))
    found = [f for f in error.value.findings if f.path == f"blocks.a.mixer.{path}"]
    assert found
    assert says in found[0].what
    assert found[0].fix


def test_values_are_borrowed_from_layers_that_have_as_many():
    text = """
name: t
vocab_size: 61
width: 96
context: 256
blocks:
  first: {mixer: MIXER, ffn: {kind: mlp, hidden: 128}}
  rest: {mixer: {kind: rwkv7, head_width: 8, value_from: first}, ffn: {kind: mlp, hidden: 128}}
layers: first rest*2
"""
    read_text(text.replace("MIXER", "{kind: rwkv7, head_width: 8}"))
    for lender, says in {
        "{kind: gla, heads: 2}": "have no values of their own",
        "{kind: attention, heads: 4, kv_heads: 2}": "have 48 channels, and these 96",
    }.items():
        with pytest.raises(SpecError, match=says):
            read_text(text.replace("MIXER", lender))


@pytest.mark.parametrize(
    "mixer",
    [
        "{kind: mamba, dt_rank: 6}",
        "{kind: mamba2, heads: 12, head_width: 16, groups: 3}",
        "{kind: gated-deltanet, heads: 12, key_heads: 4, head_width: 64, value_width: 128}",
        "{kind: kda, heads: 12}",
        "{kind: gla, heads: 4}",
        "{kind: retnet, heads: 4}",
        "{kind: rwkv7, head_width: 32}",
        "{kind: short-conv}",
    ],
)
def test_a_twin_is_small_and_sound(mixer):
    architecture = read_text(text_of(mixer)).architecture
    twin = shrink(architecture)
    assert not [f for f in findings(twin) if f.severity == "error"]
    small = twin.blocks["a"].mixer
    assert type(small) is type(architecture.blocks["a"].mixer)
    assert sum(tensor.count for tensor in resolve(twin).tensors().values()) < 150_000
    if isinstance(small, GatedDeltaNet):
        assert small.heads == 3 * small.groups
    if isinstance(small, Mamba2):
        assert small.heads % small.groups == 0


def test_twice_as_wide_is_twice_as_many_heads():
    wide = widen(read_text(text_of("{kind: gated-deltanet, heads: 4, key_heads: 2, head_width: 24}")).architecture, 2)
    assert (wide.blocks["a"].mixer.heads, wide.blocks["a"].mixer.key_heads) == (8, 4)
    wide = widen(read_text(text_of("{kind: mamba2, heads: 6, head_width: 32}")).architecture, 2)
    assert wide.blocks["a"].mixer.heads == 12
