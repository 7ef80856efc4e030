"""The bill of a training step adds up, opens to its formulas and knows every optimizer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vitruvius.errors import UsageError
from vitruvius.nn import build
from vitruvius.patterns import parse
from vitruvius.patterns.blocks import block_sizes
from vitruvius.sizing.training import training_memory
from vitruvius.sizing.updates import optimizer_memory
from vitruvius.sizing.workload import Workload
from vitruvius.spec import preset, preset_names, resolve, shrink
from vitruvius.training import TrainConfig
from vitruvius.training.optim import make_optimizer

TRAIN = Workload(mode="train", batch=2)
GRAPH = resolve(preset("tiny-llama-moe"))


def adds_up(part):
    if part.parts:
        assert sum(each.size for each in part.parts) == part.size, part.name
    for each in part.parts:
        adds_up(each)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("checkpointing", ["none", "layers"])
def test_the_parts_of_a_peak_add_up_to_it(name, checkpointing):
    workload = replace(TRAIN, checkpointing=checkpointing)
    memory = training_memory(resolve(shrink(preset(name))), workload)
    assert memory.parts.size == memory.peak == memory.highest.total
    adds_up(memory.parts)
    assert {part.name for part in memory.parts.parts} >= {"weights", "optimizer", "gradients", "saved", "transient"}
    if memory.highest.name != "update":
        assert memory.gradients + memory.activations + memory.optimizer + memory.weights + memory.buffers >= memory.peak
    assert memory.peak == max(moment.total for moment in memory.moments)


@pytest.mark.parametrize("name", ["tiny-llama-moe", "seq2seq-small", "mamba2", "deepseek-v3"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit", "muon"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_masters_and_moments_are_those_of_the_real_optimizer(name, optimizer, dtype):
    if optimizer == "adamw-8bit":
        pytest.importorskip("bitsandbytes")
    design = shrink(preset(name))
    model = build(design, dtype=dtype)
    config = TrainConfig(dtype=dtype, optimizer=optimizer)
    kept = make_optimizer(model, config).tensors()
    real = sum(t.numel() * t.element_size() for key, t in kept.items() if key != "step")
    said = optimizer_memory(resolve(design), optimizer, 4 if dtype == "fp32" else 2)
    assert said.total == real


def test_eight_bit_moments_are_a_byte_each_with_a_scale_per_block_but_in_small_tensors():
    graph = resolve(preset("tiny-llama"))
    tensors = graph.tensors().values()
    small = sum(t.count for t in tensors if t.count < 4096)
    large = sum(t.count for t in tensors if t.count >= 4096)
    blocks = sum(-(-t.count // 256) for t in tensors if t.count >= 4096)
    said = optimizer_memory(graph, "adamw-8bit", 2)
    assert said.states == 8 * small + 2 * (large + 4 * blocks)
    assert said.masters == 4 * (small + large)


def test_moments_in_the_weights_format_have_no_masters():
    said = optimizer_memory(GRAPH, "adamw-bf16", 2)
    assert (said.masters, said.states) == (0, 4 * sum(t.count for t in GRAPH.tensors().values()))


def test_an_average_of_the_weights_takes_four_bytes_of_each_all_along():
    alone, with_average = (training_memory(GRAPH, replace(TRAIN, average=kind)) for kind in ("none", "fp32"))
    count = sum(t.count for t in GRAPH.tensors().values())
    assert with_average.peak - alone.peak == with_average.states - alone.states == 4 * count
    assert "fp32 average" in next(part.formula for part in with_average.parts.parts if part.name == "optimizer")
    adds_up(with_average.parts)


def test_less_is_needed_with_checkpointing_and_with_smaller_pieces_and_more_with_all_logits_or_scores():
    graph = resolve(preset("llama-3-8b"))
    base = training_memory(graph, replace(TRAIN, context=4096))
    assert training_memory(graph, replace(TRAIN, context=4096, checkpointing="layers")).saved < base.saved / 8
    assert training_memory(graph, replace(TRAIN, context=4096, batch=1)).saved < base.saved
    assert training_memory(graph, replace(TRAIN, context=4096, loss="whole")).peak > base.peak
    assert training_memory(graph, replace(TRAIN, context=4096, attention="full")).saved > 1.3 * base.saved
    summed = training_memory(graph, replace(TRAIN, context=4096, accumulate=4))
    parameters = sum(tensor.count for tensor in graph.tensors().values())
    assert summed.gradients - base.gradients == 4 * parameters


def test_frozen_weights_have_neither_gradients_nor_moments():
    frozen = training_memory(GRAPH, replace(TRAIN, mode="qlora", weights="nf4"))
    assert (frozen.gradients, frozen.optimizer) == (0, 0)
    assert frozen.highest.name != "update"
    assert frozen.activations == frozen.highest.saved + frozen.highest.transient


def test_quantised_weights_cannot_be_trained_as_they_are():
    with pytest.raises(UsageError, match="nf4 cannot be trained") as refused:
        training_memory(GRAPH, replace(TRAIN, weights="nf4"))
    assert "qlora" in refused.value.fix


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"context": 0}, {"accumulate": 0}, {"batch": -3}])
def test_numbers_below_one_are_refused(wrong):
    with pytest.raises(UsageError, match="out of range"):
        training_memory(GRAPH, replace(TRAIN, **wrong))


def test_absurd_numbers_get_an_answer_in_no_time():
    for name in ("llama-3-8b", "longcontext", "gemma-2-2b", "speedrun"):
        graph = resolve(preset(name))
        memory = training_memory(graph, Workload(mode="train", batch=2**31, context=2**40 - 1))
        assert memory.peak > 2**71


@pytest.mark.parametrize("sees", ["causal", "causal & sliding(200)", "causal & (sinks(4) | sliding(300))"])
def test_the_blocks_on_paper_are_the_blocks_of_the_kernel(sees):
    from vitruvius.nn.backends.plans import plan_rows
    from vitruvius.nn.ops.query_blocks import count

    pattern = parse(sees)
    for length in (1, 127, 128, 129, 700, 1500):
        real = plan_rows(pattern, length, torch.device("cpu"), None)
        said = block_sizes(pattern, length)
        assert [b.q_stop - b.q_start for b in real] == [b.queries for b in said]
        assert [count(b.keys, length) for b in real] == [b.keys for b in said]
        assert [len(b.keys) for b in real] == [b.runs for b in said]


def test_very_long_sequences_stand_for_stretches_and_count_about_the_same_pairs():
    pattern = parse("causal")
    for length in (2**17, 2**19, 2**20 + 77):
        sizes = block_sizes(pattern, length)
        assert len(sizes) <= 1025
        assert sum(size.count for size in sizes) == -(-length // 128)
        pairs = sum(size.pairs * size.count for size in sizes)
        assert pairs == pytest.approx(length * length / 2, rel=0.05)


@pytest.mark.parametrize("name", preset_names())
def test_at_the_end_every_parameter_has_one_gradient(name):
    graph = resolve(preset(name))
    memory = training_memory(graph, Workload(mode="train", context=min(64, graph.scope.context)))
    assert memory.gradients == 2 * sum(tensor.count for tensor in graph.tensors().values())
