"""A prototype keeps the ratios that matter, meets its parameters, and says what it lost."""

from __future__ import annotations

from functools import cache
from math import log

import pytest

from vitruvius.errors import UsageError
from vitruvius.sizing import count_parameters
from vitruvius.sizing.laws import DEFAULT
from vitruvius.sizing.prototype import scale_down
from vitruvius.sizing.prototype.layout import distortion, shallower
from vitruvius.sizing.prototype.scaling import Small, scaled_block
from vitruvius.spec import ensure, findings, preset, preset_names, read_text, resolve, to_yaml
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.positions.rope import RotaryPosition

LARGE = [name for name in preset_names() if count_parameters(resolve(preset(name))).total > 40e6]


@cache
def made(name):
    """The 15 M prototype of a preset."""
    return scale_down(preset(name), 15_000_000)


@pytest.mark.parametrize("name", LARGE)
def test_it_meets_the_parameters_within_two_percent_and_reads_back(name) -> None:
    architecture = made(name).architecture
    total = count_parameters(ensure(architecture)).total
    assert total == made(name).parameters.total
    assert abs(total / 15e6 - 1) < 0.02
    assert made(name).missed_by == pytest.approx(total / 15e6 - 1)
    assert read_text(to_yaml(architecture)).architecture == architecture
    assert not [f for f in findings(architecture) if f.severity == "error"]


@pytest.mark.parametrize("name", LARGE)
def test_kinds_and_the_order_of_blocks_stay(name) -> None:
    before, after = preset(name), made(name).architecture
    for block, old in before.blocks.items():
        new = after.blocks[block]
        for part in ("mixer", "ffn", "cross", "norm"):
            kinds = [getattr(getattr(each, part), "kind", None) for each in (old, new)]
            assert kinds[0] == kinds[1]
    order = list(dict.fromkeys(layer.name for layer in resolve(before).layers))
    assert list(dict.fromkeys(layer.name for layer in resolve(after).layers)) == order
    assert (before.encoder is None) == (after.encoder is None)


@pytest.mark.parametrize("name", LARGE)
def test_heads_to_a_key_head_and_experts_to_a_chosen_one_stay(name) -> None:
    before, after = preset(name), made(name).architecture
    for block, old in before.blocks.items():
        new = after.blocks[block]
        pairs = [each.mixer.heads_and_groups() if each.mixer else None for each in (old, new)]
        if pairs[0] and pairs[0][1] > 1:
            assert pairs[0][0] / pairs[0][1] == pairs[1][0] / pairs[1][1]
            assert pairs[1][1] > 1, "two groups can be mixed up, one cannot"
        if isinstance(old.ffn, Moe):
            assert isinstance(new.ffn, Moe)
            assert (new.ffn.experts, new.ffn.top_k) == (old.ffn.experts, old.ffn.top_k)


@pytest.mark.parametrize("name", LARGE)
def test_inner_widths_stay_in_proportion_to_the_width(name) -> None:
    before, after = preset(name), made(name).architecture
    for block, old in before.blocks.items():
        if old.ffn is None:
            continue
        networks = [each.ffn.expert if isinstance(each.ffn, Moe) else each.ffn for each in (old, after.blocks[block])]
        ratios = [net.hidden / arch.width for net, arch in zip(networks, (before, after), strict=True)]
        assert abs(log(ratios[0] / ratios[1])) < 0.12


@pytest.mark.parametrize("name", LARGE)
def test_windows_and_wavelengths_stay_in_proportion_to_the_context(name) -> None:
    before, after = preset(name), made(name).architecture
    scope = resolve(before).scope, resolve(after).scope
    for block, old in before.blocks.items():
        new = after.blocks[block]
        patterns = [each.mixer.pattern() if each.mixer else None for each in (old, new)]
        if patterns[0] is not None and (patterns[0].widest_window or 0) > 200:
            shares = [p.widest_window / s.context for p, s in zip(patterns, scope, strict=True)]
            assert abs(log(shares[0] / shares[1])) < 0.1
        positions = [getattr(each.mixer, "position", None) for each in (old, new)]
        if isinstance(positions[0], RotaryPosition):
            slowest = [
                min(p.frequencies(each.mixer.heads_of(s).width)) * s.context
                for p, each, s in zip(positions, (old, new), scope, strict=True)
            ]
            assert abs(log(slowest[0] / slowest[1])) < 0.25, block


@pytest.mark.slow
def test_the_same_run_is_one_rule() -> None:
    for name in LARGE:
        prototype = made(name)
        run, active = prototype.run, prototype.parameters.active
        assert run.tokens == run.steps * run.batch * run.context == run.steps * run.tokens_per_step
        assert run.tokens == pytest.approx(DEFAULT.best_tokens(active), rel=0.01), name
        assert run.batch % run.accumulate == 0 and run.warmup < run.steps
        wanted = 0.292 * (6 * active * DEFAULT.best_tokens(active)) ** 0.3271
        assert 0.5 < run.tokens_per_step / wanted < 2 or run.batch == 1
        assert run.lr == pytest.approx(3e-3 * 128 / prototype.architecture.width, rel=0.01)


@pytest.mark.parametrize("name", LARGE)
def test_every_changed_field_is_listed_and_no_other(name) -> None:
    before, after = preset(name), made(name).architecture
    listed = {row.field for row in made(name).deviations}
    assert ("width" in listed) == (before.width != after.width)
    assert ("context" in listed) == (before.context != after.context)
    assert ("vocab_size" in listed) == (before.vocab_size != after.vocab_size)
    for row in made(name).deviations:
        assert row.before != row.after
        assert row.kept in {"kept", "near", "lost"}
    kept = {row.field.rpartition(".")[2]: row.kept for row in made(name).deviations}
    assert kept.get("context", "lost") == "lost"


def spots(prototype) -> str:
    """Everything it cannot catch, as one text."""
    return "\n".join(f"{spot.what}: {spot.because}" for spot in prototype.blind_spots)


def test_blind_spots_follow_from_what_was_cut() -> None:
    architecture = preset("longcontext")
    short, long = (scale_down(architecture, 15_000_000, context=n) for n in (2048, 102_400))
    assert "positions beyond 2,048" in spots(short) and "position 102,399" in spots(short)
    assert "cache eviction of local" in spots(short) and "not 4,096" in spots(short)
    for word in ("positions beyond", "thins out", "eviction"):
        assert word not in spots(long)
    assert long.architecture.blocks["local"].mixer.sees == architecture.blocks["local"].mixer.sees
    assert long.architecture.context == 102_400
    whole = scale_down(architecture, 15_000_000, vocab=32_000)
    assert "full vocabulary" not in spots(whole) and "full vocabulary" in spots(short)
    assert whole.architecture.vocab_size == 32_000


def test_experts_that_do_not_fit_are_divided_and_the_router_s_collapse_becomes_a_blind_spot() -> None:
    cut = scale_down(preset("deepseek-v3"), 100_000)
    experts = cut.architecture.blocks["moe"].ffn.experts
    assert experts < 256
    assert f"256 experts became {experts}" in spots(cut)
    row = next(row for row in cut.deviations if row.field.endswith("ffn.experts"))
    assert (row.before, row.after) == ("256", str(experts))
    assert "collapse" not in spots(scale_down(preset("deepseek-v3"), 15_000_000))


def test_mup_carries_the_rate_and_plain_inits_do_not() -> None:
    plain = scale_down(preset("tiny-llama"), 200_000)
    carried = scale_down(preset("tiny-llama", overrides=["init={kind: mup, base_width: 32}"]), 200_000)
    assert "learning rate that is too high" in spots(plain)
    assert "learning rate that is too high" not in spots(carried)
    assert carried.architecture.init == preset("tiny-llama", overrides=["init={kind: mup, base_width: 32}"]).init
    assert carried.run.lr == pytest.approx(0.012)


# ----------------------------------------------------------------------------------------------------------------------
# Parts


def test_fewer_layers_keep_the_period_and_share_out_the_rest() -> None:
    for name, exact in (("llama-moe", {2, 4, 8, 16}), ("longcontext", {8, 16, 24, 32}), ("jamba-like", {8, 16, 32})):
        whole = resolve(preset(name)).layers
        depths = {len(resolve(each).layers): each for each in shallower(preset(name))}
        assert exact <= set(depths)
        for depth in exact:
            assert distortion(whole, resolve(depths[depth]).layers) == 0


def test_a_line_without_counts_is_folded_before_it_is_cut() -> None:
    architecture = preset("tiny-llama", overrides=["layers=layer layer layer layer layer layer"])
    assert {len(resolve(each).layers) for each in shallower(architecture)} == {1, 2, 3, 4, 5, 6}


def test_shared_weights_stay_shared() -> None:
    architecture = preset("tiny-llama", overrides=["layers=layer^8"])
    for each in shallower(architecture):
        assert sum(layer.owns_weights for layer in resolve(each).layers) == 1


def test_a_third_party_s_widths_shrink_as_they_grow() -> None:
    block = preset("context-aware-decoder").blocks["layer"]
    small = Small(width=192, old_width=768, context=1024, old_context=4096)
    made = scaled_block(block, small)
    assert made.ffn.hidden == 512 and made.mixer.heads * (made.mixer.head_width or 192 // made.mixer.heads) == 192
    assert made.mixer.position.horizon == block.mixer.position.horizon / 4


@pytest.mark.parametrize(
    ("parameters", "options", "says"),
    [
        (10**12, {}, "and fewer than"),
        (1, {}, "has no prototype of 1 parameters"),
        (10**6, {"context": 10**7}, "is made for"),
        (10**6, {"context": 0}, "is made for"),
        (10**6, {"vocab": 10**6}, "use at most"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(parameters, options, says) -> None:
    with pytest.raises(UsageError) as raised:
        scale_down(preset("longcontext"), parameters, **options)
    assert says in str(raised.value) and raised.value.fix
