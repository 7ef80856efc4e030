"""Rotary shares, LongRoPE lists, T5 classes and gated tables that do not fit are refused, with the way out."""

from __future__ import annotations

import pytest

from vitruvius.errors import SpecError
from vitruvius.nn import build
from vitruvius.spec import preset, read_text, resolve
from vitruvius.spec.node import Scope
from vitruvius.spec.positions.gated import GatedAdditivePosition
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.spec.positions.scalings import LongRopeScaling, NtkScaling
from vitruvius.spec.positions.t5 import T5Position
from vitruvius.spec.shrink import shrink

HEAD = "name: a\nvocab_size: 61\nwidth: 64\ncontext: 64\n"


def spec(position: str, *, embedding: str = "none", head_width: int = 16, context: int = 64) -> str:
    return f"""{HEAD.replace("context: 64", f"context: {context}")}
embedding: {{position: {embedding}}}
blocks:
  layer:
    mixer: {{kind: attention, heads: 4, head_width: {head_width}, sees: causal, position: {position}}}
    ffn: {{kind: swiglu, hidden: 48}}
layers: layer*2
"""


def refused(text: str):
    with pytest.raises(SpecError) as caught:
        read_text(text)
    [finding] = caught.value.findings
    assert finding.fix
    return finding


# ----------------------------------------------------------------------------------------------------------- rotary


@pytest.mark.parametrize(("head_width", "fraction", "width"), [(10, 0.5, 5), (12, 0.25, 3), (16, 0.1, 1), (8, 0.01, 0)])
def test_a_share_that_is_no_whole_number_of_pairs_is_refused(head_width, fraction, width):
    finding = refused(spec(f"{{kind: rope, fraction: {fraction}}}", head_width=head_width))
    assert finding.path == "blocks.layer.mixer.position.fraction"
    assert f"of a head of {head_width} is {width}" in finding.what
    first = float(finding.fix.split()[1])
    assert RotaryPosition(fraction=first).rotary_width(head_width) % 2 == 0
    assert not list(RotaryPosition(fraction=first).findings_for_heads(head_width, 8, SCOPE))


SCOPE = Scope(width=64, vocab_size=61, context=64, depth=2)


@pytest.mark.parametrize("fraction", ["0", "-0.5", "1.5"])
def test_a_share_lies_between_none_and_all(fraction):
    assert "out of range" in refused(spec(f"{{kind: rope, fraction: {fraction}}}")).what


def test_a_share_written_as_a_decimal_gives_the_channels_that_are_meant():
    for width in range(1, 300):
        for channels in range(1, width + 1):
            assert RotaryPosition(fraction=channels / width).rotary_width(width) == channels
    assert RotaryPosition(fraction=0.4).rotary_width(72) == 28  # 28.8, rounded down as Hugging Face does
    assert RotaryPosition(fraction=0.4).rotary_width(80) == 32


def test_channels_that_do_not_turn_keep_the_sum_of_cosines_up():
    assert RotaryPosition().first_negative(128, 10**5) == 1707
    assert RotaryPosition(fraction=0.5).first_negative(128, 10**5) is None
    assert (RotaryPosition(fraction=0.9375).first_negative(128, 10**5) or 0) > 1707


def test_a_pairing_is_one_of_two():
    assert "'halves' or 'interleaved'" in refused(spec("{kind: rope, pairing: neox}")).fix


# --------------------------------------------------------------------------------------------------------- scalings


@pytest.mark.parametrize("name", ["short_factor", "long_factor"])
@pytest.mark.parametrize("count", [1, 7, 9])
def test_a_longrope_list_has_one_entry_for_each_pair(name, count):
    lists = {"short_factor": [1.0] * 8, "long_factor": [1.0] * 8} | {name: [1.0] * count}
    written = ", ".join(f"{key}: {value}" for key, value in lists.items())
    finding = refused(spec(f"{{kind: rope, scaling: {{kind: longrope, {written}, original_context: 32}}}}"))
    assert finding.path == f"blocks.layer.mixer.position.scaling.{name}"
    assert f"{count} factors for 8 pairs" in finding.what
    assert "give 8" in finding.fix


def test_a_longrope_list_counts_the_pairs_that_turn():
    scaling = "{kind: longrope, short_factor: [1, 1], long_factor: [2, 3], original_context: 32}"
    assert read_text(spec(f"{{kind: rope, fraction: 0.25, scaling: {scaling}}}")).architecture


@pytest.mark.parametrize("wrong", ["[]", "4", "[1, none]", "[1, -1]"])
def test_a_longrope_list_is_a_list_of_numbers_above_zero(wrong):
    scaling = f"{{kind: longrope, short_factor: {wrong}, long_factor: [2, 3], original_context: 32}}"
    assert "short_factor" in refused(spec(f"{{kind: rope, fraction: 0.25, scaling: {scaling}}}")).path


def test_an_ntk_factor_that_does_not_reach_the_context_is_a_warning():
    reading = read_text(spec("{kind: rope, scaling: {kind: ntk, factor: 2, original_context: 16}}"))
    assert ("warning", "factor") in [(f.severity, f.path.rpartition(".")[2]) for f in reading.findings]
    enough = read_text(spec("{kind: rope, scaling: {kind: ntk, factor: 4, original_context: 16}}"))
    assert not [f for f in enough.findings if f.path.endswith("factor")]


def test_a_layer_that_looks_no_farther_needs_no_longer_reach():
    text = spec("{kind: rope, scaling: {kind: linear, factor: 1, original_context: 16}}", context=128)
    assert [f.path for f in read_text(text).findings if f.path.endswith("factor")]
    near = text.replace("sees: causal", "sees: causal & sliding(16)")
    assert not [f for f in read_text(near).findings if f.path.endswith("factor")]


def test_scaling_a_single_pair_leaves_it_alone():
    rope = RotaryPosition(fraction=2 / 64, scaling=NtkScaling(factor=8.0))
    assert rope.frequencies(64) == (1.0,)


# --------------------------------------------------------------------------------------------------------------- T5


@pytest.mark.parametrize(
    ("fields", "path", "what"),
    [
        ("buckets: 1", "buckets", "1 classes cannot be divided over near and far keys"),
        ("buckets: 5, direction: both", "buckets", "earlier and later"),
        ("buckets: 2, direction: both", "buckets", "earlier and later"),
        ("buckets: 5000", "buckets", "more than anyone trains"),
        ("farthest: 16", "farthest", "the first 16 distances"),
        ("buckets: 32, farthest: 8, direction: both", "farthest", "the first 8 distances"),
    ],
)
def test_t5_classes_that_make_no_sense_are_refused(fields, path, what):
    finding = refused(spec(f"{{kind: t5, {fields}}}"))
    assert finding.path == f"blocks.layer.mixer.position.{path}"
    assert what in finding.what


@pytest.mark.parametrize(("buckets", "farthest"), [(2, 3), (2, 2**31 - 1), (1024, 513), (1024, 2**31 - 1), (33, 17)])
def test_t5_classes_begin_in_order_and_the_last_one_before_the_farthest(buckets, farthest):
    starts = T5Position(buckets=buckets, farthest=farthest).starts()
    assert len(starts) == buckets - 1
    assert list(starts) == sorted(starts)
    assert starts[0] == 1
    assert starts[-1] <= farthest


def test_t5_adds_a_table_to_every_layer():
    text = spec("{kind: t5, buckets: 8, farthest: 20}")
    tensors = resolve(read_text(text).architecture).tensors()
    assert [tensors[f"layers.{i}.mixer.position.weight"].shape for i in (0, 1)] == [(8, 4), (8, 4)]


def test_t5_and_gated_positions_each_have_their_place():
    assert "act inside attention" in refused(spec("none", embedding="t5")).what
    assert "added to the embedding" in refused(spec("gated-additive")).what


# ------------------------------------------------------------------------------------------------------------ gated


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ("size: 128", "size"),
        ("start: 4", "start"),
        ("table: learned, base: 100", "base"),
        ("table: learned, size: 8", "size"),
        ("table: learned, start: 90", "start"),
    ],
)
def test_a_gated_table_takes_only_its_own_fields(fields, path):
    finding = refused(spec("none", embedding=f"{{kind: gated-additive, {fields}}}"))
    assert finding.path == f"embedding.position.{path}"


def test_a_gated_learned_table_is_as_long_as_a_learned_one():
    table = GatedAdditivePosition(table="learned", size=100, start=8).learned_table(SCOPE)
    assert (table.name, table.rows, table.limit) == ("table.weight", 8, 100)
    assert GatedAdditivePosition().learned_table(SCOPE) is None


# ------------------------------------------------------------------------------------------------------------ twins


@pytest.mark.parametrize("fraction", [1.0, 0.75, 0.5, 0.25, 2 / 64])
def test_a_twin_turns_whole_pairs_and_its_lists_fit(fraction):
    scaling = LongRopeScaling(
        short_factor=tuple(1 + 0.1 * i for i in range(round(32 * fraction))),
        long_factor=tuple(1 + 0.5 * i for i in range(round(32 * fraction))),
        original_context=512,
    )
    rope = RotaryPosition(fraction=fraction, scaling=scaling)
    for after in range(2, 70, 2):
        small = rope.resized(64, after)
        assert not [f for f in small.findings_for_heads(after, 16, SCOPE) if f.severity == "error"]
        assert small.scaling.long_factor[0] == 1.0
        if len(small.scaling.long_factor) > 1:
            assert small.scaling.long_factor[-1] == pytest.approx(scaling.long_factor[-1])


@pytest.mark.parametrize("name", ["pythia-160m", "smollm3-3b", "longcontext-per-layer"])
def test_the_twin_of_a_preset_keeps_its_positions(name):
    whole, twin = preset(name), shrink(preset(name))
    assert twin.blocks.keys() == whole.blocks.keys()
    for block, small in twin.blocks.items():
        old, new = whole.blocks[block].mixer.position, small.mixer.position
        assert type(old) is type(new)
        if old is not None:
            assert type(old.scaling) is type(new.scaling)
            assert new.pairing == old.pairing
    build(twin, device="meta")


def test_a_large_theta_leaves_no_warning_and_the_documents_theta_does():
    assert not [f for f in read_text(_file("longcontext-large-theta")).findings if f.severity == "warning"]
    found = [f for f in read_text(_file("longcontext")).findings if f.severity == "warning"]
    assert any("24,338" in f.what for f in found)


def _file(name: str) -> str:
    from vitruvius.spec.reading import presets_folder

    return (presets_folder() / f"{name}.yaml").read_text(encoding="utf-8")
