"""Parameter counts against published figures and against arithmetic done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitruvius.sizing import count_parameters
from vitruvius.spec import Architecture, Block, preset, preset_names, resolve
from vitruvius.spec.embeddings import Embedding
from vitruvius.spec.ffn.mlp import Mlp, SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.heads import LanguageModelHead
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.norms import RMSNorm
from vitruvius.spec.positions.gated import GatedAdditivePosition
from vitruvius.spec.positions.tables import LearnedPosition


def counted(name: str):
    return count_parameters(resolve(preset(name)))


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("llama-3-8b", 8_030_261_248),
        ("gpt2", 124_439_808),
        ("smollm2-135m", 134_515_008),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("longcontext", 5_802_037_248),
        ("longcontext-large-theta", 5_802_037_248),
        ("longcontext-per-layer", 5_802_037_248),
        ("longcontext-7b", 7_009_996_800),
        ("smollm3-3b", 3_075_098_624),
        ("pythia-160m", 162_322_944),
        ("gemma-2-2b", 2_614_341_888),
        ("falcon-7b", 6_921_720_704),
        ("deepseek-v3", 671_026_419_200 - 58 * 256),  # the checkpoint counts the biases that balance its experts
    ],
)
def test_totals_equal_the_published_checkpoints(name, total):
    assert counted(name).total == total


def test_the_overviews_eight_billion_are_the_dense_model_alone():
    parameters = counted("llama-moe")
    assert parameters.total == pytest.approx(27.76e9, rel=2e-4)
    assert parameters.active == pytest.approx(10.85e9, rel=5e-4)
    assert parameters.active_without_embedding == pytest.approx(10.32e9, rel=5e-4)


def test_the_course_projects_seven_billion_need_a_wider_ffn():
    assert counted("longcontext").total == 5_802_037_248
    assert counted("longcontext-7b").total == pytest.approx(7.01e9, rel=1e-3)


def test_sixteen_experts_store_sixteen_ffns_and_use_two():
    eight, sixteen = counted("llama-moe"), counted("llama-moe-16e")
    experts = 16 * 3 * 4096 * 14336
    routers = 16 * 8 * 4096
    assert sixteen.total - eight.total == 8 * experts + routers
    assert sixteen.active - eight.active == routers


def test_components_add_up_to_the_total():
    for name in preset_names():
        parameters = counted(name)
        assert sum(parameters.by_component.values()) == parameters.total, name


BASE = Architecture(
    name="base",
    vocab_size=10,
    width=4,
    context=8,
    blocks={"layer": Block(mixer=Attention(heads=2), ffn=SwiGLU(hidden=6))},
    layers="layer*3",
)


def test_a_count_by_hand():
    per_layer = 4 * 16 + 3 * 4 * 6 + 2 * 4
    parameters = count_parameters(resolve(BASE))
    assert parameters.total == 2 * 40 + 3 * per_layer + 4
    assert parameters.by_component == {
        "embedding": 40,
        "mixers": 3 * 64,
        "ffns": 3 * 72,
        "norms": 3 * 8 + 4,
        "head": 40,
    }


def test_a_tied_head_is_counted_once():
    tied = replace(BASE, head=LanguageModelHead(tied=True))
    assert count_parameters(resolve(BASE)).total - count_parameters(resolve(tied)).total == 40


def test_shared_weights_are_counted_once():
    shared = replace(BASE, layers="layer^3")
    single = replace(BASE, layers="layer")
    assert count_parameters(resolve(shared)).total == count_parameters(resolve(single)).total


def test_position_tables_count_as_embedding_and_an_untied_head_does_not():
    learned = replace(BASE, embedding=Embedding(position=LearnedPosition()))
    parameters = count_parameters(resolve(learned))
    assert parameters.embedding == 40 + 8 * 4
    assert parameters.active_without_embedding == parameters.active - parameters.embedding


def test_the_gate_of_a_position_is_no_table():
    gated = replace(BASE, embedding=Embedding(position=GatedAdditivePosition(table="learned")))
    parameters = count_parameters(resolve(gated))
    assert parameters.embedding == parameters.by_component["embedding"] == 40 + 8 * 4
    assert parameters.by_component["positions"] == 4 * 4 + 4
    assert sum(parameters.by_component.values()) == parameters.total


def test_norms_within_attention_are_norms():
    mixer = Attention(heads=2, qk_norm=RMSNorm())
    with_norms = replace(BASE, blocks={"layer": Block(mixer=mixer, ffn=SwiGLU(hidden=6))})
    before, after = (count_parameters(resolve(a)).by_component for a in (BASE, with_norms))
    assert after["norms"] - before["norms"] == 3 * 2 * 2
    assert after["mixers"] == before["mixers"]


def test_a_router_and_its_experts_are_told_apart():
    mixture = Moe(experts=4, top_k=1, expert=Mlp(hidden=6, bias=True), shared_expert=SwiGLU(hidden=3))
    architecture = replace(BASE, blocks={"layer": Block(ffn=mixture)}, layers="layer")
    parameters = count_parameters(resolve(architecture))
    expert, shared = 2 * 4 * 6 + 6 + 4, 3 * 4 * 3
    assert parameters.by_component["routers"] == 16
    assert parameters.by_component["ffns"] == 4 * expert + shared
    assert parameters.total - parameters.active == 3 * expert
