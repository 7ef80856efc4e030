"""The twin keeps kinds and proportions, and is small."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitruvius.patterns import parse
from vitruvius.spec import Architecture, Block, findings, preset, preset_names, resolve, shrink
from vitruvius.spec.ffn.mlp import SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.attention import Attention

PRESETS = {name: preset(name) for name in preset_names()}


def kinds_of(value) -> set[str]:
    if isinstance(value, dict):
        return {kind for part in value.values() for kind in kinds_of(part)}
    if not hasattr(value, "__dataclass_fields__"):
        return set()
    own = {f"{type(value).__name__}"}
    return own | {kind for name in value.__dataclass_fields__ for kind in kinds_of(getattr(value, name))}


@pytest.mark.parametrize("name", PRESETS)
def test_the_twin_is_small_and_sound(name):
    twin = shrink(PRESETS[name])
    assert not [finding for finding in findings(twin) if finding.severity == "error"]
    # 71 query heads to one key head (Falcon) need their width
    assert sum(t.count for t in resolve(twin).tensors().values()) < 8_000_000
    assert twin.context <= 96


@pytest.mark.parametrize("name", PRESETS)
def test_the_twin_has_the_same_kinds(name):
    assert kinds_of(shrink(PRESETS[name])) == kinds_of(replace(PRESETS[name], claims=[]))


@pytest.mark.parametrize("name", PRESETS)
def test_the_twin_keeps_the_order_of_kinds_of_layers(name):
    def runs(architecture):
        names = [layer.name for layer in resolve(architecture).layers]
        return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]

    full, small = runs(PRESETS[name]), runs(shrink(PRESETS[name]))
    assert small == full[: len(small)]
    assert set(small) == set(full)


@pytest.mark.parametrize("name", PRESETS)
def test_the_twin_keeps_the_ratio_of_query_to_key_heads_and_of_experts(name):
    twin = shrink(PRESETS[name])
    for block_name, block in PRESETS[name].blocks.items():
        small = twin.blocks[block_name]
        if isinstance(block.mixer, Attention):
            assert small.mixer.heads * block.mixer.groups == block.mixer.heads * small.mixer.groups
        if isinstance(block.ffn, Moe):
            assert small.ffn.experts * block.ffn.top_k == block.ffn.experts * small.ffn.top_k


@pytest.mark.parametrize("name", PRESETS)
def test_the_context_of_the_twin_is_at_least_three_windows_long(name):
    twin = shrink(PRESETS[name])
    for block in twin.blocks.values():
        pattern = block.mixer.pattern() if block.mixer is not None else None
        if pattern is not None and pattern.widest_window is not None:
            assert 3 * pattern.widest_window <= twin.context


def test_windows_shrink_in_proportion_and_dilation_steps_stay():
    twin = shrink(PRESETS["longcontext"])
    assert twin.blocks["local"].mixer.sees == "causal & (sliding(32) | global(every=2))"
    assert twin.blocks["dilated"].mixer.sees == "causal & dilated(8, every=4)"
    assert twin.blocks["full"].mixer.sees == "causal"


def test_three_windows_of_a_dilated_layer_alone_fit_too():
    base = PRESETS["longcontext"]
    mixer = replace(base.blocks["full"].mixer, sees="causal & dilated(1024, every=4)")
    lone = replace(base, blocks={"full": replace(base.blocks["full"], mixer=mixer)}, layers="full*4")
    (block,) = shrink(lone).blocks.values()
    assert 3 * parse(block.mixer.sees).widest_window <= shrink(lone).context


def test_shrinking_twice_changes_nothing_more():
    for name, architecture in PRESETS.items():
        assert shrink(shrink(architecture)) == shrink(architecture), name


def test_a_pattern_without_windows_is_kept():
    assert shrink(PRESETS["llama-3-8b"]).blocks["layer"].mixer.sees == "causal"


@pytest.mark.parametrize(
    ("layers", "shorter"),
    [
        ("a*32", "a*2"),
        ("(a*5 b)*5 a*4", "(a*5 b)*2 a*2"),
        ("((a*3 b)*2 c)*4", "((a*3 b)*2 c)*2"),
        ("(a*2 b^3)^9", "(a*2 b^3)^2"),
        ("(a*11 b)*8", "(a*11 b)*2"),
        ("(a*40 b)*2", "(a*2 b)*2"),
        ("((a*3 b)*6 c)*2", "((a*3 b)*2 c)*2"),
        ("(a*32)", "(a*2)"),
        ("a b c a b c", "a b c a b c"),
    ],
)
def test_the_twin_keeps_the_period_of_the_layout_and_cuts_inner_counts_only_where_it_would_be_deep(layers, shorter):
    assert shrink(laid_out(layers)).layers == shorter


@pytest.mark.parametrize(
    ("layers", "shorter"),
    [
        (["(m*4 n m*3)*4", "(f g)*16"], ["(m*4 n m*3)*2", "(f g)*8"]),
        (["m*16 n*16", "f*16 g*16"], ["m*2 n*2", "f*2 g*2"]),
        (["m*32", "(f g)*16"], ["m*4", "(f g)*2"]),
        (["m*32", "f*31 g"], ["m*32", "f*31 g"]),
    ],
)
def test_stacked_lines_stay_equally_long_and_keep_every_combination(layers, shorter):
    full = laid_out(layers)
    assert shrink(full).layers == shorter
    assert {layer.name for layer in resolve(shrink(full)).layers} == {layer.name for layer in resolve(full).layers}


def laid_out(layers) -> Architecture:
    mixer, ffn = Block(mixer=Attention(heads=4)), Block(ffn=SwiGLU(hidden=64))
    both = replace(mixer, ffn=ffn.ffn)
    stacked = dict.fromkeys("mn", mixer) | dict.fromkeys("fg", ffn)
    blocks = dict.fromkeys("abc", both) if isinstance(layers, str) else stacked
    return Architecture(name="lines", vocab_size=64, width=32, context=64, blocks=blocks, layers=layers)


@pytest.mark.parametrize(("width", "heads", "head_width"), [(2048, 32, 128), (2560, 8, 256), (2880, 64, 64)])
def test_the_twin_keeps_the_ratio_of_its_width_to_that_of_its_heads(width, heads, head_width):
    mixer = Attention(heads=heads, kv_heads=heads // 2, head_width=head_width)
    twin = shrink(replace(laid_out("a*8"), width=width, blocks={"a": Block(mixer=mixer)}))
    small = twin.blocks["a"].mixer
    assert twin.width * heads * head_width == width * small.heads * small.head_width
    assert shrink(twin) == twin


def test_queries_of_a_twin_of_qwen3_moe_are_wider_than_its_stream():
    twin = shrink(PRESETS["qwen3-30b-a3b"])
    shapes = {name: tensor.shape for name, tensor in resolve(twin).tensors().items()}
    assert shapes["layers.0.mixer.q.weight"] == (128, 64)
    assert shapes["layers.0.mixer.out.weight"] == (64, 128)


def test_mixers_with_different_heads_keep_their_own_ratio_in_one_twin():
    blocks = {
        "wide": Block(mixer=Attention(heads=32, kv_heads=8, head_width=128)),
        "plain": Block(mixer=Attention(heads=16)),
    }
    twin = shrink(replace(laid_out("a"), width=2048, blocks=blocks, layers="(wide plain)*8"))
    wide, plain = (twin.blocks[name].mixer for name in blocks)
    assert wide.heads * wide.head_width == 2 * twin.width
    assert plain.heads * plain.width_of_head(resolve(twin).scope) == twin.width


def test_claims_of_the_full_size_are_left_behind():
    assert shrink(PRESETS["llama-moe"]).claims == []
