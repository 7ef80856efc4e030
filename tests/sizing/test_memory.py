"""Bytes of weights and caches against the figures of the documents and against brute force."""

from __future__ import annotations

from math import ceil

import pytest

from vitruvius.errors import UsageError
from vitruvius.sizing import kv_cache_bytes, weights_bytes
from vitruvius.spec import preset, preset_names, resolve

LONGCONTEXT = resolve(preset("longcontext"))


@pytest.mark.parametrize("tokens", [1, 150, 4096, 4097, 16_384, 65_536, 102_400])
def test_the_cache_of_longcontext_follows_its_formula(tokens):
    """16 windows of 4,096 with every 128th key beyond, 12 dilated rings of 4,093 slots, 4 full layers."""
    per_slot = 2 * 8 * 128 * 2
    beyond = ceil(max(0, tokens - 4096) / 128)
    slots = 16 * (min(tokens, 4096) + beyond) + 12 * min(tokens, 4093) + 4 * tokens
    assert kv_cache_bytes(LONGCONTEXT, tokens, 1, "bf16") == per_slot * slots


def test_at_100k_the_layout_keeps_a_sixth_of_full_attention():
    everywhere = [f"blocks.{name}.mixer.sees=causal" for name in ("local", "dilated")]
    full = kv_cache_bytes(resolve(preset("longcontext", overrides=everywhere)), 102_400, 1, "bf16")
    layout = kv_cache_bytes(LONGCONTEXT, 102_400, 1, "bf16")
    assert layout == pytest.approx(2.198e9, rel=1e-3)
    assert full == pytest.approx(13.422e9, rel=1e-3)
    assert full > 6 * layout


def test_150_tokens_take_19_7_megabytes_and_not_2_gigabytes():
    assert kv_cache_bytes(LONGCONTEXT, 150, 1, "bf16") == pytest.approx(19.7e6, rel=2e-3)


def test_the_overviews_cache_is_16_gib_that_it_omits():
    assert kv_cache_bytes(resolve(preset("llama-moe")), 131_072, 1, "bf16") == 16 * 2**30


def test_eight_of_32_heads_save_three_quarters():
    grouped = kv_cache_bytes(resolve(preset("llama-3-8b")), 8192, 1, "bf16")
    every = preset("llama-3-8b", overrides=["blocks.layer.mixer.kv_heads=32"])
    assert kv_cache_bytes(resolve(every), 8192, 1, "bf16") == 4 * grouped


@pytest.mark.parametrize(("dtype", "width"), [("fp64", 8), ("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_bytes_scale_with_the_number_format(dtype, width):
    graph = resolve(preset("tiny-llama"))
    total = sum(tensor.count for tensor in graph.tensors().values())
    assert weights_bytes(graph, dtype) == width * total
    assert kv_cache_bytes(graph, 64, 3, dtype) == 3 * width * kv_cache_bytes(graph, 64, 1, "bf16") // 2


def test_an_unknown_format_is_refused_by_name():
    with pytest.raises(UsageError) as caught:
        weights_bytes(LONGCONTEXT, "int3")
    assert "bf16" in caught.value.fix


@pytest.mark.parametrize("name", preset_names())
def test_a_longer_sequence_never_takes_less(name):
    graph = resolve(preset(name))
    sizes = [kv_cache_bytes(graph, tokens, 1, "bf16") for tokens in (1, 10, 100, 1000, graph.scope.context)]
    assert sizes[: 4 if graph.scope.context < 1000 else 5] == sorted(sizes[: 4 if graph.scope.context < 1000 else 5])
