"""What every kind of mixer, mixture and position keeps while training, to the byte, and how high a step rises."""

from __future__ import annotations

import pytest
from test_activations import agrees

from vitruvius.sizing.training import training_memory
from vitruvius.sizing.workload import Workload
from vitruvius.spec import read_text, resolve
from vitruvius.training.measuring import measure_step

ATTENTION = "heads: 4, kv_heads: 2, head_width: 12"
SOFTMAX = "{kind: softmax, order: top-k-then-softmax, z_loss: 0.001, balance_loss: 0}"
MIXERS = {
    "mamba": "{kind: mamba, expand: 2, state: 6}",
    "mamba, normed inside": "{kind: mamba, expand: 1, state: 5, bias: all, inner_norm: rmsnorm}",
    "mamba2": "{kind: mamba2, heads: 6, head_width: 24, groups: 2, state: 20}",
    "mamba2, one group": "{kind: mamba2, heads: 4, head_width: 16, groups: 1, state: 16, bias: all}",
    "gated deltanet": "{kind: gated-deltanet, heads: 6, key_heads: 2, head_width: 24, value_width: 20}",
    "deltanet": "{kind: gated-deltanet, heads: 4, decay: none}",
    "gla": "{kind: gla, heads: 6, head_width: 24, value_width: 20}",
    "retnet": "{kind: retnet, heads: 6, head_width: 24, value_width: 20}",
    "retnet, not turned": "{kind: retnet, heads: 4, theta: null}",
    "kda": "{kind: kda, heads: 6, head_width: 24, value_width: 20, rank: 12}",
    "rwkv7": "{kind: rwkv7, head_width: 16, decay_rank: 12, rate_rank: 10, gate_rank: 14}",
    "short convolution": "{kind: short-conv, bias: all}",
    "mla": "{kind: mla, heads: 4, q_rank: 24, kv_rank: 20, nope_width: 12, rope_width: 8, value_width: 16, "
    "position: rope}",
    "mla, plain": "{kind: mla, heads: 4, kv_rank: 20, nope_width: 12, rope_width: 0, value_width: 12, "
    "sees: 'causal & sliding(20)'}",
    "mla, fox": "{kind: mla, heads: 4, kv_rank: 20, nope_width: 12, rope_width: 8, value_width: 12, position: fox}",
    "differential": "{kind: differential, heads: 4, kv_heads: 2, head_width: 12, position: rope}",
    "differential, biased": "{kind: differential, heads: 2, bias: all, position: alibi}",
    "fox": f"{{kind: attention, {ATTENTION}, position: fox}}",
    "cumulative rope": f"{{kind: attention, {ATTENTION}, position: cumulative-rope}}",
    "cumulative rope of heads": f"{{kind: attention, {ATTENTION}, "
    "position: {kind: cumulative-rope, rate: linear, per: head}}",
    "cope": f"{{kind: attention, {ATTENTION}, position: {{kind: cope, positions: 20}}}}",
    "cope of heads": f"{{kind: attention, {ATTENTION}, position: {{kind: cope, positions: 20, table: per-head}}}}",
    "path": f"{{kind: attention, {ATTENTION}, position: path}}",
    "path, forgetting": f"{{kind: attention, {ATTENTION}, "
    "position: {kind: path, rank: null, kernel: 1, forget: fox}}",
}
MIXTURES = {
    "softmax": "{kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 128}}",
    "softmax over the chosen": "{kind: moe, experts: 5, top_k: 2, expert: {kind: mlp, hidden: 50}, "
    f"router: {SOFTMAX}}}",
    "sigmoid, shared expert": "{kind: moe, experts: 8, top_k: 3, "
    "expert: {kind: mlp, hidden: 64, bias: true, activation: relu2}, router: {kind: sigmoid, balance_loss: 0.01}, "
    "shared_expert: {kind: swiglu, hidden: 96}, shared_gate: sigmoid}",
    "hash": "{kind: moe, experts: 6, top_k: 1, expert: {kind: geglu, hidden: 64}, router: hash}",
    "capacity": "{kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 64}, capacity: 1.25}",
    "odd widths": "{kind: moe, experts: 5, top_k: 2, expert: {kind: mlp, hidden: 50, bias: true}, "
    "router: {kind: sigmoid, renormalise: false}}",
}
SIZES = [(2, 100, "bf16"), (1, 64, "fp32"), (3, 33, "bf16"), (1, 1, "fp32")]


def design(block, *, extra="", head="lm", vocab=97, layers="a*2"):
    frame = f"name: one\nvocab_size: {vocab}\nwidth: 64\ncontext: 512\nhead: {head}\nlayers: {layers}\n{extra}"
    return read_text(f"{frame}\nblocks:\n  a: {block}\n").architecture


@pytest.mark.parametrize(("batch", "tokens", "dtype"), SIZES)
@pytest.mark.parametrize("name", MIXERS)
def test_what_a_mixer_keeps_is_known_to_the_byte(name, batch, tokens, dtype):
    block = f"{{mixer: {MIXERS[name]}, ffn: {{kind: mlp, hidden: 48}}}}"
    agrees(design(block), batch=batch, tokens=tokens, dtype=dtype)


@pytest.mark.parametrize(("batch", "tokens", "dtype"), SIZES)
@pytest.mark.parametrize("name", MIXTURES)
def test_what_a_mixture_keeps_lies_within_what_routing_may_change(name, batch, tokens, dtype):
    agrees(design(f"{{ffn: {MIXTURES[name]}}}"), batch=batch, tokens=tokens, dtype=dtype)


@pytest.mark.parametrize("name", ["softmax", "hash", "odd widths"])
def test_without_rounding_how_loads_fall_changes_nothing(name):
    graph = resolve(design(f"{{ffn: {MIXTURES[name]}}}"))
    assert training_memory(graph, Workload(mode="train", weights="fp32", context=64)).unsure == 0


def test_experts_that_choose_take_their_share_exactly():
    mixture = "{kind: moe, experts: 5, top_k: 2, expert: {kind: swiglu, hidden: 32}, router: expert-choice}"
    architecture = design(f"{{ffn: {mixture}}}", head="mlm")
    for batch, tokens, dtype in ((2, 50, "fp32"), (3, 33, "bf16")):
        agrees(architecture, batch=batch, tokens=tokens, dtype=dtype)


@pytest.mark.parametrize("table", ["sinusoidal", "learned"])
def test_what_gated_positions_keep_is_known_to_the_byte(table):
    extra = f"embedding: {{position: {{kind: gated-additive, table: {table}}}}}"
    architecture = design("{ffn: {kind: mlp, hidden: 48}}", extra=extra)
    for batch, tokens, dtype in ((2, 50, "fp32"), (3, 33, "bf16")):
        agrees(architecture, batch=batch, tokens=tokens, dtype=dtype)


@pytest.mark.parametrize("heads", ["heads: 4", "heads: 4, kv_heads: 2, bias: all", "heads: 1"])
def test_what_a_decoder_keeps_of_its_source_is_known_to_the_byte(heads):
    block = f"{{mixer: {{kind: attention, heads: 4}}, cross: {{kind: attention, {heads}}}}}"
    source = "  e: {mixer: {kind: attention, heads: 4, sees: everything}, ffn: {kind: mlp, hidden: 48}}"
    architecture = design(f"{block}\n{source}", extra="encoder: {layers: e*2}")
    for batch, tokens, dtype in ((2, 50, "fp32"), (3, 33, "bf16"), (2, 1, "fp32")):
        agrees(architecture, batch=batch, tokens=tokens, dtype=dtype)


PEAKS = {name: mixer for name, mixer in MIXERS.items() if "," not in name}


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "tokens", "dtype"), [(2, 200, "bf16"), (1, 300, "fp32")])
@pytest.mark.parametrize("name", PEAKS)
def test_the_peak_of_a_step_is_known_within_five_percent(name, batch, tokens, dtype):
    architecture = design(f"{{mixer: {PEAKS[name]}, ffn: {{kind: swiglu, hidden: 96}}}}", layers="a*4")
    measured = measure_step(architecture, batch=batch, tokens=tokens, dtype=dtype).peak
    workload = Workload(mode="train", weights=dtype, batch=batch, context=tokens)
    error = training_memory(resolve(architecture), workload).peak / measured - 1
    assert -0.02 <= error <= 0.05, f"{error:+.1%}"
