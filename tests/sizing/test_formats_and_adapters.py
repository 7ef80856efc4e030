"""Bytes of weights as they are really quantised, and of adapters beside them: the sums that the documents get wrong."""

from __future__ import annotations

import pytest

from vitruvius.errors import UsageError
from vitruvius.sizing.adapters import adapter_counts, adapter_parameters, adapter_tensors
from vitruvius.sizing.formats import FORMATS, is_quantisable, weight_format
from vitruvius.sizing.memory import memory_of, stored_tensors, weights_bytes
from vitruvius.sizing.workload import Adapters, Workload
from vitruvius.spec import preset, preset_names
from vitruvius.spec.costs import TensorSpec
from vitruvius.spec.rules import ensure

GB = 10**9
LLAMA, MIXTURE, LONG = (ensure(preset(name)) for name in ("llama-3-8b", "llama-moe", "longcontext"))


@pytest.mark.parametrize(
    ("graph", "dtype", "gigabytes"),
    [
        (LLAMA, "bf16", 16.06),
        (LLAMA, "int8", 9.08),
        (LLAMA, "nf4", 5.70),
        (MIXTURE, "bf16", 55.5),
        (MIXTURE, "nf4", 15.9),
        (LONG, "bf16", 11.60),
    ],
)
def test_quantised_weights_keep_tables_and_head_in_bf16(graph, dtype, gigabytes):
    assert weights_bytes(graph, dtype) / GB == pytest.approx(gigabytes, rel=2e-3)


def test_four_bits_are_half_a_byte_a_scale_and_a_scale_of_scales():
    # One map of 4096 x 4096 in blocks of 64, scales in 8 bits, in blocks of 256 with one fp32 each.
    tensor = TensorSpec(shape=(4096, 4096))
    numbers, scales = 4096 * 4096, 4096 * 4096 // 64
    assert weight_format("nf4").bytes_of(tensor, quantised=True) == numbers // 2 + scales + scales // 256 * 4
    assert weight_format("nf4").bytes_of(tensor, quantised=False) == 2 * numbers
    assert weight_format("int8").bytes_of(tensor, quantised=True) == numbers + 4096 * 4
    assert weight_format("int4").bytes_of(tensor, quantised=True) == numbers // 2 + numbers // 128 * 20 // 8


@pytest.mark.parametrize("name", preset_names())
def test_what_is_not_a_map_inside_a_layer_is_never_quantised(name):
    graph = ensure(preset(name))
    plain = {tensor: size for tensor, _, size in stored_tensors(graph, "bf16")}
    for tensor_name, tensor, size in stored_tensors(graph, "nf4"):
        is_map = tensor.role in {"matrix", "output"} and "layers." in tensor_name and len(tensor.shape) > 1
        kept = not is_map or tensor.shape[-1:] <= (8,)  # a convolution's taps
        assert (size == plain[tensor_name]) == kept, tensor_name
        assert size <= plain[tensor_name]


def test_routers_norms_tables_and_head_stay_as_they_are():
    kept = {name for name, t in MIXTURE.tensors().items() if not is_quantisable(name, t)}
    assert {"embedding.tokens.weight", "head.weight", "final_norm.weight", "layers.1.ffn.router.weight"} <= kept
    assert "layers.1.ffn.experts.up_weight" not in kept


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_says_what_it_is_and_where_that_is_written(name):
    form = FORMATS[name]
    assert form.about
    assert form.source or not form.is_quantised
    assert weights_bytes(LLAMA, name) > 0


def test_an_unknown_format_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match="there is no weight format 'int7'") as refused:
        weights_bytes(LLAMA, "int7")
    assert "nf4" in refused.value.fix


# ----------------------------------------------------------------------------------------------------------------------
# Adapters


def test_rank_64_on_every_map_of_the_8b_is_167_8_million_parameters():
    # q and out: 64 x (4096 + 4096); k and v: 64 x (4096 + 1024); gate, up and down: 64 x (4096 + 14336); 32 layers
    each = 64 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert adapter_parameters(LLAMA, Adapters(rank=64)) == 32 * each == 167_772_160


def test_each_expert_has_adapters_of_its_own_unless_experts_have_none():
    attention, dense = 64 * (2 * 8192 + 2 * 5120), 64 * 3 * 18432
    assert adapter_parameters(MIXTURE, Adapters(rank=64)) == 32 * attention + 16 * dense + 16 * 8 * dense
    assert adapter_parameters(MIXTURE, Adapters(rank=64, experts="none")) == 32 * attention + 16 * dense
    assert adapter_parameters(MIXTURE, Adapters(rank=64, targets="attention")) == 32 * attention


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("adapters", [Adapters(rank=3), Adapters(rank=5, targets="attention", experts="none")], ids=str)
def test_parameters_of_adapters_are_those_of_their_tensors(name, adapters):
    graph = ensure(preset(name))
    tensors = adapter_tensors(graph, adapters).values()
    assert adapter_parameters(graph, adapters) == sum(tensor.count for tensor in tensors)


def test_adapters_stand_beside_maps_with_the_shapes_of_the_paper():
    tensors = adapter_tensors(MIXTURE, Adapters(rank=8))
    assert tensors["layers.0.mixer.k.lora_A"].shape == (8, 4096)
    assert tensors["layers.0.mixer.k.lora_B"].shape == (1024, 8)
    assert tensors["layers.1.ffn.experts.down.lora_A"].shape == (8, 8, 14336)
    assert tensors["layers.1.ffn.experts.down.lora_B"].shape == (8, 4096, 8)
    assert not any("router" in name or "head" in name or "embedding" in name for name in tensors)


def test_a_token_keeps_a_rank_for_each_map_that_it_meets():
    assert adapter_counts(LLAMA, Adapters(rank=4)).kept == 32 * 7 * 4
    assert adapter_counts(MIXTURE, Adapters(rank=4)).kept == 4 * (16 * 7 + 16 * (4 + 2 * 3))


def test_a_frozen_base_has_no_gradients_and_no_states():
    memory = memory_of(LLAMA, Workload(context=4096, mode="lora", adapters=Adapters(rank=64)))
    count = 167_772_160
    assert memory.weights == weights_bytes(LLAMA, "bf16")
    assert (memory.adapters, memory.gradients, memory.optimizer) == (2 * count, 2 * count, 12 * count)


def qlora(graph, **more):
    work = Workload(
        mode="qlora", weights="nf4", checkpointing="layers", adapters=Adapters(rank=64), **{"context": 4096, **more}
    )
    return memory_of(graph, work).peak / GB


@pytest.mark.parametrize(
    ("context", "loss", "gigabytes"), [(4096, "whole", 15.6), (4096, "chunked", 10.3), (8192, "whole", 22.8)]
)
def test_qlora_of_the_8b_takes_what_the_facts_say(context, loss, gigabytes):
    assert qlora(LLAMA, context=context, loss=loss) == pytest.approx(gigabytes, rel=0.05)


def test_qlora_of_the_mixture_does_not_fit_24_gigabytes():
    assert qlora(MIXTURE, loss="whole") > 29.7
    assert qlora(MIXTURE, loss="chunked") > 25.8


def test_smaller_adapters_take_less_and_fewer_targets_keep_less():
    base = Workload(context=4096, mode="qlora", weights="nf4", adapters=Adapters(rank=64))
    peaks = [
        memory_of(MIXTURE, Workload(context=4096, mode="qlora", weights="nf4", adapters=adapters)).peak
        for adapters in (
            Adapters(rank=64),
            Adapters(rank=16),
            Adapters(rank=16, experts="none"),
            Adapters(rank=16, targets="attention"),
        )
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4
    assert memory_of(MIXTURE, base).peak == peaks[0]


def test_what_frozen_maps_do_not_keep_is_subtracted_and_stated_as_the_error():
    work = Workload(context=4096, mode="lora", adapters=Adapters(rank=8, targets="attention"))
    all_maps = memory_of(LLAMA, Workload(context=4096, mode="lora", adapters=Adapters(rank=8)))
    some = memory_of(LLAMA, work)
    # The normalised stream and the product of each of 32 ffns, in bf16; A x of three maps fewer.
    spared = 32 * (4096 + 14336) * 4096 * 2
    assert some.unsure - all_maps.unsure == spared
    assert all_maps.activations - some.activations == spared + 32 * 3 * 8 * 4096 * 2


# ----------------------------------------------------------------------------------------------------------------------
# Training


@pytest.mark.parametrize(
    ("optimizer", "each"), [("adamw", 16), ("adamw-bf16", 8)], ids=["masters and fp32 moments", "no masters"]
)
def test_training_keeps_so_many_bytes_of_each_parameter(optimizer, each):
    memory = memory_of(LONG, Workload(context=1024, mode="train", optimizer=optimizer))
    assert memory.weights + memory.gradients + memory.optimizer == each * 5_802_037_248


def test_training_longcontext_takes_92_8_gigabytes_before_its_first_activation():
    memory = memory_of(LONG, Workload(context=1024, mode="train"))
    assert (memory.weights + memory.gradients + memory.optimizer) / GB == pytest.approx(92.8, abs=0.05)


def test_sums_over_micro_batches_are_kept_in_fp32():
    one = memory_of(LLAMA, Workload(context=1024, mode="train"))
    several = memory_of(LLAMA, Workload(context=1024, mode="train", accumulate=4))
    assert several.gradients - one.gradients == 4 * 8_030_261_248


def test_peak_is_the_sum_of_the_parts_and_the_margin_stands_apart():
    for mode, weights in (("inference", "bf16"), ("train", "bf16"), ("lora", "bf16"), ("qlora", "nf4")):
        memory = memory_of(MIXTURE, Workload(context=2048, mode=mode, weights=weights))
        parts = memory.weights + memory.buffers + memory.kv_cache + memory.state + memory.activations
        parts += memory.gradients + memory.optimizer + memory.adapters
        assert memory.peak == parts
        assert memory.total == memory.peak + memory.margin
        assert 0 < memory.margin < 0.1 * memory.peak


@pytest.mark.parametrize("name", ["tiny-llama-moe", "tiny-longcontext", "tiny-llama"])
@pytest.mark.parametrize("mode", ["inference", "train", "lora"])
def test_more_tokens_and_more_sequences_never_take_less(name, mode):
    graph = ensure(preset(name))
    # A length that is no multiple of a dilation is filled up: 255 tokens may take a little more than 256.
    for field, sizes in (("context", [1, 2, 4, 64, 128, 256, 512, 1024]), ("batch", [1, 2, 3, 7, 64, 65, 1001])):
        totals = [memory_of(graph, Workload(mode=mode, **{field: size})).total for size in sizes]
        assert totals == sorted(totals), field
