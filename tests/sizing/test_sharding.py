"""Every parameter of every preset is on some rank, whatever the degrees; what ranks store follows ZeRO's formulas."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import pytest

from vitruvius.sizing.parallel.ranks import Shelf, Storing
from vitruvius.sizing.parallel.sharding import Part, end_parts, layer_parts, outside, problems
from vitruvius.spec import preset, preset_names, read_text, resolve
from vitruvius.spec.costs import TensorSpec

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph

LONGCONTEXT = 5_802_037_248


def storing(ranks: int, zero: int, **more: object) -> Storing:
    fields = {"experts": ranks, "optimizer": "adamw", "value_bytes": 2, "sums": "none"} | more
    return Storing(dense=ranks, zero=zero, **fields)  # type: ignore[arg-type]


def stage(graph: Graph, how: Storing, *, tensor: int = 1, expert: int = 1):
    shelf = Shelf(graph, how, (), tensor=tensor, expert=expert)
    return shelf.stage(list(graph.every_layer()), is_first=True, is_last=True)


def all_parts(graph: Graph, *, tensor: int, expert: int) -> dict[str, Part]:
    parts = dict(end_parts(outside(graph), tensor=tensor))
    for layer in graph.every_layer():
        if layer.owns_weights:
            own = layer_parts(layer, tensor=tensor, expert=expert)
            parts |= {f"{layer.path}.{name}": part for name, part in own.items()}
    return parts


@pytest.mark.parametrize("name", preset_names())
def test_parts_of_one_rank_alone_are_the_whole_model(name: str) -> None:
    graph = resolve(preset(name))
    parts = all_parts(graph, tensor=1, expert=1)
    assert {name: part.shape for name, part in parts.items()} == {n: t.shape for n, t in graph.tensors().items()}


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("tensor", [2, 4])
def test_tensor_parallel_ranks_hold_everything_between_them(name: str, tensor: int) -> None:
    graph = resolve(preset(name))
    closed = list(problems(graph, tensor=tensor))
    if closed:
        assert all("cannot be dealt out" in why for why in closed)
        return
    for at, part in all_parts(graph, tensor=tensor, expert=1).items():
        whole = part.spec.count
        if part.how == "whole":
            assert part.count == whole, at
        elif part.how in {"rows", "columns"} and "embedding" not in at and "head" not in at:
            assert part.count * tensor == whole, at
        else:
            # Copies of key heads, of Mamba-2's B and C, and padding of the vocabulary: more than a share, never less.
            assert whole <= part.count * tensor <= whole * tensor, at


def test_a_vocabulary_that_does_not_divide_is_padded() -> None:
    graph = resolve(preset("gpt2", overrides=["vocab_size=50257"]))
    table = end_parts(outside(graph), tensor=4)["embedding.tokens.weight"]
    assert table.shape == (12_565, 768)
    assert table.shape[0] * 4 >= 50_257 > (table.shape[0] - 1) * 4


def test_key_heads_fewer_than_ranks_are_copied() -> None:
    graph = resolve(preset("gemma-2-2b"))
    layer = graph.layers[0]
    four, eight = (layer_parts(layer, tensor=t, expert=1) for t in (4, 8))
    assert four["mixer.k.weight"].shape == eight["mixer.k.weight"].shape == (256, 2304)
    assert eight["mixer.q.weight"].shape == (256, 2304)


def test_heads_that_do_not_divide_are_told() -> None:
    assert "heads=9 cannot be dealt out to 2 ranks" in " ".join(problems(resolve(preset("smollm2-135m")), tensor=2))
    assert not list(problems(resolve(preset("smollm2-135m")), tensor=3))


def test_expert_parallel_ranks_hold_their_experts_alone() -> None:
    graph = resolve(preset("qwen3-30b-a3b"))
    parts = layer_parts(graph.layers[0], tensor=1, expert=16)
    assert parts["ffn.experts.gate_weight"].shape == (8, 768, 2048)
    assert parts["ffn.router.weight"].shape == (128, 2048)
    assert parts["ffn.experts.gate_weight"].is_expert
    assert not parts["ffn.router.weight"].is_expert


def test_mixtures_are_cut_inside_their_experts_too() -> None:
    parts = layer_parts(resolve(preset("mixtral-8x7b")).layers[0], tensor=2, expert=4)
    assert parts["ffn.experts.up_weight"].shape == (2, 7168, 4096)
    assert parts["ffn.experts.down_weight"].shape == (2, 4096, 7168)


@pytest.mark.parametrize(("zero", "each"), [(0, 16.0), (1, 4 + 12 / 8), (2, 2 + 14 / 8), (3, 16 / 8)])
def test_zero_stores_what_its_formulas_say(zero: int, each: float) -> None:
    """FACTS of ZeRO (Rajbhandari et al., 2020): 16, 4 + 12/N, 2 + 14/N and 16/N bytes a parameter."""
    graph = resolve(preset("longcontext"))
    found = stage(graph, storing(8, zero))
    assert found.parameters == LONGCONTEXT
    assert found.weights + found.gradients + found.optimizer == each * LONGCONTEXT


def test_the_document_of_longcontext_needs_more_than_one_gpu() -> None:
    """AdamW with fp32 masters takes 92.8 GB before any activation, more than the 80 GB of the claim."""
    found = stage(resolve(preset("longcontext")), storing(1, 0))
    assert found.total == 16 * LONGCONTEXT == 92_832_595_968


def test_fully_sharded_ranks_have_room_for_layers_whole() -> None:
    graph = resolve(preset("longcontext"))
    layer = sum(t.count for t in graph.layers[0].tensors().values())
    assert stage(graph, storing(8, 3)).gathered == layer * 6
    assert stage(graph, storing(8, 2)).gathered == layer * 2
    assert stage(graph, storing(8, 1)).gathered == 0
    assert stage(graph, storing(1, 3)).gathered == 0


def test_sums_over_micro_batches_take_four_bytes_more() -> None:
    graph = resolve(preset("longcontext"))
    plain, summed = (stage(graph, storing(8, 1, sums=sums)) for sums in ("none", "fp32"))
    assert summed.gradients - plain.gradients == 4 * LONGCONTEXT


def test_rows_that_do_not_divide_are_stored_as_torch_chunks_them() -> None:
    part = Part(shape=(10, 3), is_expert=False, how="whole", spec=TensorSpec(shape=(10, 3)))
    assert part.stored_over(4) == 9
    gain = Part(shape=(7,), is_expert=False, how="whole", spec=TensorSpec(shape=(7,)))
    assert gain.stored_over(64) == 1
    stacked = Part(shape=(8, 100, 6), is_expert=True, how="rows", spec=TensorSpec(shape=(8, 100, 6)))
    assert stacked.stored_over(16) == 8 * 7 * 6
    assert stacked.stored_over(4) == 2 * 100 * 6


def test_weights_that_layers_share_are_stored_once() -> None:
    text = """
name: shared
vocab_size: 100
width: 64
context: 32
blocks:
  layer:
    mixer: {kind: attention, heads: 4}
    ffn: {kind: swiglu, hidden: 128}
layers: layer^6
"""
    graph = resolve(read_text(text).architecture)
    found = stage(graph, storing(1, 0))
    assert found.parameters == sum(prod(t.shape) for t in graph.tensors().values())


def test_a_tied_table_stands_at_both_ends_of_a_pipeline() -> None:
    graph = resolve(preset("longcontext"))
    shelf = Shelf(graph, storing(1, 0), (), tensor=1, expert=1)
    table = 32_000 * 4096
    first = shelf.stage(graph.layers[:16], is_first=True, is_last=False)
    last = shelf.stage(graph.layers[16:], is_first=False, is_last=True)
    assert first.parameters + last.parameters == LONGCONTEXT + table


def test_an_untied_table_stands_at_the_first_stage_and_the_head_at_the_last() -> None:
    graph = resolve(preset("llama-3-8b"))
    shelf = Shelf(graph, storing(1, 0), (), tensor=1, expert=1)
    first = shelf.stage(graph.layers[:16], is_first=True, is_last=False)
    last = shelf.stage(graph.layers[16:], is_first=False, is_last=True)
    assert first.parameters + last.parameters == 8_030_261_248
    assert last.parameters - first.parameters == 4096
