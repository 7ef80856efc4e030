"""Rooflines against the figures of the documents, and against sums by hand."""

from __future__ import annotations

import pytest

from vitruvius.patterns import parse
from vitruvius.sizing.hardware import catalogue, device_named
from vitruvius.sizing.memory import kv_cache_bytes, state_bytes
from vitruvius.sizing.speed import decode_flops, demand_of, prefill_flops, speed_of, train_flops
from vitruvius.sizing.traffic import decode_traffic, experts_touched, share_touched, weights_touched
from vitruvius.sizing.workload import Adapters, Workload
from vitruvius.spec import preset, preset_names
from vitruvius.spec.rules import ensure

LLAMA, MIXTURE = ensure(preset("llama-3-8b")), ensure(preset("llama-moe"))
WINDOWS = ["blocks.local.mixer.sees=causal & sliding(4096)"]
LAYOUT = ensure(preset("longcontext", overrides=WINDOWS))
FULL = ensure(preset("longcontext", overrides=[f"blocks.{b}.mixer.sees=causal" for b in ("local", "dilated")]))
CARD = device_named("rtx-4090")


@pytest.mark.parametrize(
    ("graph", "weights", "tokens_per_second"),
    [(LLAMA, "bf16", 67), (LLAMA, "int8", 125), (LLAMA, "nf4", 217), (MIXTURE, "nf4", 165)],
)
def test_an_rtx_4090_decodes_at_most_so_fast(graph, weights, tokens_per_second):
    speed = speed_of(graph, Workload(context=1, weights=weights), CARD)
    assert speed.tokens_per_second_bound == pytest.approx(tokens_per_second, abs=0.5)
    assert speed.bound_by == "bandwidth"


def test_the_30_tokens_a_second_of_the_overview_are_45_percent_of_what_the_card_allows():
    bound = speed_of(LLAMA, Workload(context=1), CARD).tokens_per_second_bound
    assert 30 / bound == pytest.approx(0.45, abs=0.01)


def test_the_layout_of_longcontext_reads_2_gigabytes_of_keys_at_100k():
    per_key = 2 * 8 * 128 * 2
    by_hand = per_key * (16 * 4096 + 12 * 1024 + 4 * 102_400)
    assert decode_traffic(LAYOUT, Workload()).kv_read == by_hand
    assert by_hand / 1e9 == pytest.approx(1.996, abs=5e-4)


ROOFLINES = [
    (LAYOUT, "a100-80gb", 5.88, 6.67),
    (FULL, "a100-80gb", 5.95, 12.27),
    (LAYOUT, "h100-80gb", 3.58, 4.06),
    (FULL, "h100-80gb", 3.62, 7.47),
    (LAYOUT, "h200-141gb", 2.50, 2.83),
    (FULL, "h200-141gb", 2.53, 5.21),
]


@pytest.mark.parametrize(("graph", "device", "short", "long"), ROOFLINES)
def test_milliseconds_of_a_token_at_4k_and_100k(graph, device, short, long):
    found = [
        1e3 * speed_of(graph, Workload(context=tokens), device_named(device)).decode_seconds
        for tokens in (4096, 102_400)
    ]
    assert found == pytest.approx([short, long], abs=6e-3)


def slowdown(graph, batch):
    device = device_named("a100-80gb")
    at = [speed_of(graph, Workload(context=n, batch=batch), device).decode_seconds for n in (102_400, 4096)]
    return at[0] / at[1]


def test_less_than_twice_as_slow_at_100k_holds_for_the_layout_up_to_nine_sequences():
    assert slowdown(LAYOUT, 1) == pytest.approx(1.13, abs=5e-3)
    assert slowdown(FULL, 1) == pytest.approx(2.06, abs=5e-3)
    assert slowdown(LAYOUT, 9) < 2 < slowdown(LAYOUT, 10)


def test_prefill_of_a_token_grows_by_a_third_with_the_layout_and_threefold_without():
    def growth(graph):
        each = [prefill_flops(graph, Workload(context=tokens)) / tokens for tokens in (102_400, 4096)]
        return each[0] / each[1]

    assert growth(LAYOUT) == pytest.approx(1.32, abs=6e-3)
    assert growth(FULL) == pytest.approx(3.08, abs=6e-3)


# ----------------------------------------------------------------------------------------------------------------------
# What is moved


def test_a_step_reads_every_weight_but_the_table_of_tokens():
    rest = 8_030_261_248 - 128_256 * 4096
    assert weights_touched(LLAMA, "bf16", 1) == 2 * (rest + 4096)
    tied = ensure(preset("smollm2-135m"))  # the table is the head
    assert weights_touched(tied, "bf16", 1) == 2 * 134_515_008


@pytest.mark.parametrize("batch", [1, 2, 8, 64, 10_000])
def test_a_batch_reads_the_experts_that_uniform_routing_touches_on_average(batch):
    expected = 8 * (1 - (1 - 2 / 8) ** batch)
    assert experts_touched(MIXTURE, batch) == pytest.approx(expected, rel=1e-12)
    one, all_of_them = weights_touched(MIXTURE, "bf16", 1), weights_touched(MIXTURE, "bf16", 10**9)
    stacked, rows = 16 * 8 * 3 * 4096 * 14336 * 2, 2 * 4096 * (128_256 - 1)
    assert all_of_them - one == pytest.approx(stacked * (1 - 2 / 8) + rows, rel=1e-9)
    assert one <= weights_touched(MIXTURE, "bf16", batch) <= all_of_them


def test_the_share_of_touched_experts_is_exact_where_one_can_count_them():
    # Two tokens, each choosing one of three: the same in 3 of 9 cases.
    assert share_touched((1, 3), 2) == pytest.approx((3 * 1 + 6 * 2) / 9 / 3)
    assert share_touched((1, 1), 5) == 1
    assert share_touched((8, 256), 1) == 8 / 256


@pytest.mark.parametrize("name", [name for name in preset_names() if not name.startswith("tiny-")])
def test_what_is_read_is_never_more_than_what_is_cached_unless_layers_share_it(name):
    graph = ensure(preset(name))
    for tokens in (1, 100, graph.scope.context):
        work = Workload(context=tokens, batch=3)
        traffic = decode_traffic(graph, work)
        cached = kv_cache_bytes(graph, tokens, 3, "bf16")
        if not any(layer.keys_from is not None for layer in graph.layers):
            assert traffic.kv_read <= cached
        assert (traffic.kv_read > 0) == (cached > 0)
        assert traffic.kv_written <= traffic.kv_read


def test_keys_that_layers_share_are_read_by_each_of_them():
    own = ensure(preset("tiny-llama"))
    spec = ["blocks.borrow={extends: layer, mixer: {kv_from: layer}}", "layers=layer*2 borrow*2"]
    shared = ensure(preset("tiny-llama", overrides=spec))
    work = Workload(context=100)
    assert decode_traffic(shared, work).kv_read == decode_traffic(own, work).kv_read
    assert decode_traffic(shared, work).kv_written == decode_traffic(own, work).kv_written // 2


def test_recurrent_state_is_read_and_written():
    graph = ensure(preset("mamba2"))
    traffic = decode_traffic(graph, Workload(batch=5))
    assert traffic.state == 2 * state_bytes(graph, 2048, 5, "bf16")
    assert traffic.kv_read == 0


def test_an_own_pattern_is_read_key_by_key_and_beyond_reason_on_average_with_its_error():
    sees = "causal & where((q * k) % 7 < 3)"
    graph = ensure(preset("tiny-llama", overrides=[f'blocks.layer.mixer.sees="{sees}"']))
    per_key = 4 * 2 * 2 * 32 * 2  # layers x (k, v) x heads x channels x bytes
    near = decode_traffic(graph, Workload(context=1000))
    assert near.kv_read == per_key * parse(sees).reads(999, 1000)
    assert near.unsure == 0
    far = decode_traffic(graph, Workload(context=2**17 + 1))
    truth = per_key * parse(sees).reads(2**17, 2**17 + 1)
    assert far.unsure > 0
    assert abs(far.kv_read - truth) <= far.unsure


# ----------------------------------------------------------------------------------------------------------------------
# What is computed


@pytest.mark.parametrize("name", ["llama-3-8b", "llama-moe", "longcontext", "gemma-2-2b", "mamba2", "deepseek-v3"])
@pytest.mark.parametrize("tokens", [1, 2, 1000, 9000])
def test_a_step_computes_what_the_last_token_adds_to_a_pass(name, tokens):
    graph = ensure(preset(name))
    before = graph.flops(tokens - 1).useful if tokens > 1 else 0
    assert decode_flops(graph, Workload(context=tokens, batch=3)) == 3 * (graph.flops(tokens).useful - before)


def test_prefill_computes_one_row_of_logits():
    tokens = 4096
    logits = 2 * 128_256 * 4096
    assert prefill_flops(LLAMA, Workload(context=tokens)) == LLAMA.flops(tokens).useful - (tokens - 1) * logits


def test_a_full_step_costs_three_passes_and_frozen_maps_save_one_of_them():
    tokens = 4096
    forward, backward = train_flops(LLAMA, Workload(context=tokens, mode="train"))
    assert backward == 2 * forward == 2 * LLAMA.flops(tokens).useful
    adapters = Workload(context=tokens, mode="lora", adapters=Adapters(rank=1))
    ahead, back = train_flops(LLAMA, adapters)
    maps = 2 * (8_030_261_248 - 128_256 * 4096 - 65 * 4096) * tokens
    small = 2 * 167_772_160 // 64 * tokens
    assert ahead == LLAMA.flops(tokens).useful + small
    assert back == maps + 2 * (LLAMA.flops(tokens).useful - maps) + 2 * small


def test_checkpointing_computes_the_forward_pass_once_more():
    plain, again, half = (
        demand_of(LLAMA, Workload(context=4096, mode="train", checkpointing=kept)).train[0]
        for kept in ("none", "layers", "layers/2")
    )
    assert again[0] == pytest.approx(4 / 3 * plain[0])
    assert half[0] == pytest.approx(7 / 6 * plain[0])


def test_multi_token_prediction_is_trained_and_not_decoded():
    graph = ensure(preset("tiny-llama", overrides=["mtp={block: layer, depth: 1}"]))
    assert weights_touched(graph, "bf16", 1) == weights_touched(ensure(preset("tiny-llama")), "bf16", 1)
    assert train_flops(graph, Workload(context=64, mode="train"))[0] > graph.flops(64).useful


# ----------------------------------------------------------------------------------------------------------------------
# Rooflines


@pytest.mark.parametrize("name", ["rtx-4090", "h100-80gb", "m3-max-128gb", "epyc-9654", "tpu-v5e"])
@pytest.mark.parametrize("mode", ["inference", "train", "lora"])
def test_no_expectation_is_faster_than_its_bound(name, mode):
    speed = speed_of(MIXTURE, Workload(context=4096, mode=mode), catalogue()[name])
    phases = [phase for phase in (speed.prefill, speed.decode, *speed.train) if phase is not None]
    assert phases
    for phase in phases:
        assert phase.expected_seconds > phase.seconds == max(phase.compute_seconds, phase.bandwidth_seconds) > 0


def test_several_devices_add_their_peaks():
    one, four = (speed_of(LLAMA, Workload(batch=4), CARD, count) for count in (1, 4))
    assert one.tokens_per_second_bound == pytest.approx(four.tokens_per_second_bound / 4)
    assert one.prefill_seconds == pytest.approx(4 * four.prefill_seconds)


def test_prefill_is_bound_by_compute_and_one_sequence_of_decoding_by_bandwidth():
    speed = speed_of(LLAMA, Workload(context=4096), CARD)
    assert (speed.prefill.bound_by, speed.decode.bound_by) == ("compute", "bandwidth")
    many = speed_of(LLAMA, Workload(context=16, batch=4096), CARD)
    assert many.decode.bound_by == "compute"


def test_a_stack_that_sees_later_tokens_decodes_nothing():
    speed = speed_of(ensure(preset("context-aware-bert")), Workload(), CARD)
    assert speed.decode is None
    assert speed.tokens_per_second_bound is None
    assert speed.prefill_seconds > 0


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_a_speed_on_every_kind_of_device(name):
    graph = ensure(preset(name))
    for device in ("rtx-4090", "m1-16gb", "ryzen-7950x", "tpu-v6e", "t4"):
        speed = speed_of(graph, Workload(context=64), catalogue()[device])
        assert speed.prefill_seconds > 0
        assert (speed.decode is not None) == graph.is_causal
