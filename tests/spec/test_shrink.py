"""The twin keeps kinds and proportions, and is small."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitruvius.patterns import parse
from vitruvius.spec import findings, preset, preset_names, resolve, shrink
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
    assert sum(t.count for t in resolve(twin).tensors().values()) < 4_000_000
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


def test_claims_of_the_full_size_are_left_behind():
    assert shrink(PRESETS["llama-moe"]).claims == []
