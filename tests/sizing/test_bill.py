"""The bill: one JSON contract, honest claims, refused nonsense."""

from __future__ import annotations

import json

import pytest

from vitruvius.errors import UsageError
from vitruvius.sizing import judge, size
from vitruvius.spec import Claim, preset, preset_names, resolve

LLAMA = preset("llama-3-8b")


@pytest.mark.parametrize("name", preset_names())
def test_every_key_of_the_contract_exists(name):
    data = json.loads(json.dumps(size(preset(name)).to_dict(), allow_nan=False))
    assert data["schema"] == "vitruvius.size/1"
    assert {"total", "active", "embedding"} <= data["parameters"].keys()
    assert {"weights_bytes", "kv_cache_bytes", "state_bytes", "activations_bytes", "peak_bytes"} <= data[
        "memory"
    ].keys()
    assert {"forward_per_token", "train_per_token"} <= data["flops"].keys()
    assert "fits" in data
    assert "tokens_per_second_bound" in data["decode"]
    assert isinstance(data["on"], list)


def test_defaults_are_the_specs_context_one_sequence_and_bf16():
    bill = size(LLAMA)
    assert (bill.context, bill.batch, bill.dtype, bill.mode) == (8192, 1, "bf16", "inference")
    assert bill.weights_bytes == 2 * 8_030_261_248


def test_flops_per_token_are_two_per_weight_and_the_pairs():
    bill = size(LLAMA, context=8192)
    weights = 2 * (bill.parameters.total - bill.parameters.embedding - 65 * 4096)
    pairs = 32 * 4 * 4096 * (8192 + 1) / 2
    assert bill.forward_flops_per_token == weights + pairs
    assert bill.train_flops_per_token == 3 * bill.forward_flops_per_token


def test_a_mixture_pays_for_the_experts_it_uses():
    dense, mixture = size(LLAMA, context=1), size(preset("llama-moe"), context=1)
    experts, routers = 16 * 2 * 3 * 4096 * 14336, 16 * 2 * 8 * 4096
    assert mixture.forward_flops - dense.forward_flops == experts + routers


def test_training_keeps_no_cache():
    assert size(LLAMA, mode="train").kv_cache_bytes == 0
    assert size(LLAMA).kv_cache_bytes > 0


def test_layers_of_the_bill_add_up():
    for name in preset_names():
        architecture = preset(name)
        bill, graph = size(architecture), resolve(architecture)
        assert sum(row.layers for row in bill.layers) == len(graph.encoder) + len(graph.layers)
        assert sum(row.layers * row.kv_cache_bytes for row in bill.layers) == bill.kv_cache_bytes
        ends = (architecture.embedding, architecture.head)
        outside = sum(end.flops(graph.scope, bill.context).useful for end in ends)
        assert sum(row.layers * row.useful_flops for row in bill.layers) + outside == bill.forward_flops


@pytest.mark.parametrize(
    "options",
    [
        {"context": 0},
        {"context": -1},
        {"batch": 0},
        {"context": 2**50},
        {"dtype": "int3"},
        {"mode": "guess"},
        {"batch": True},
    ],
)
def test_numbers_out_of_range_are_refused_with_a_way_out(options):
    with pytest.raises(UsageError) as caught:
        size(LLAMA, **options)
    assert caught.value.fix


def verdict(name: str, **claim):
    return judge(Claim(**claim), resolve(preset(name)))


def test_the_documents_wrong_claims_are_told_apart_from_true_ones():
    assert not verdict("llama-moe", about="parameters", says="8B").holds
    assert verdict("llama-3-8b", about="parameters", says="8B").holds
    assert verdict("llama-3-8b", about="weights", says="16 GB", dtype="fp16").holds
    assert not verdict("llama-moe", about="weights", says="16 GB", dtype="fp16").holds
    assert not verdict("longcontext", about="parameters", says="7B").holds
    assert not verdict("longcontext", about="kv_cache", says="2 GB", context=150).holds
    assert verdict("qwen3-30b-a3b", about="parameters", says="30.5B").holds


def test_a_verdict_shows_the_true_number_rounded_and_exact():
    found = verdict("longcontext", about="parameters", says="7B")
    assert found.actual == 5_802_037_248
    assert "5.802 B" in found.shown
    assert "5,802,037,248" in found.shown


def test_a_quoted_number_stands_for_its_written_digits():
    assert verdict("llama-3-8b", about="parameters", says="8.03B").holds
    assert not verdict("llama-3-8b", about="parameters", says="8.00B").holds
