"""Elasticities against formulas by hand, and neighbours that are sound."""

from __future__ import annotations

from math import log

import pytest

from vitruvius.errors import SpecError
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.parameters import count_parameters
from vitruvius.sizing.sensitivity import Effect, Sensitivity, fields_of, sensitivity
from vitruvius.sizing.workload import Workload
from vitruvius.spec import preset, preset_names, read_text, resolve
from vitruvius.spec.model import Architecture  # noqa: TC001 (a type in signatures of helpers)
from vitruvius.spec.writing import to_data, to_yaml


def effect(found: Sensitivity, field: str) -> Effect:
    return next(effect for effect in found.effects if effect.field == field)


def again(architecture: Architecture, overrides: tuple[str, ...]) -> Architecture:
    import shlex

    settings = [shlex.split(text)[1] for text in overrides]
    return read_text(to_yaml(architecture), overrides=settings).architecture


def test_layers_move_parameters_by_their_share() -> None:
    found = sensitivity(preset("tiny-llama"), Workload())
    graph = resolve(preset("tiny-llama"))
    layer = sum(t.count for t in graph.layers[0].tensors().values())
    total = count_parameters(graph).total
    expected = log((total + layer) / (total - layer)) / log(5 / 3)
    assert effect(found, "layers: layer*4").parameters == pytest.approx(expected)


def test_the_context_moves_the_cache_and_no_parameters() -> None:
    architecture = preset("llama-3-8b")
    found = effect(sensitivity(architecture, Workload(batch=4)), "context")
    high, low = (memory_of(resolve(architecture), Workload(batch=4, context=c)).peak for c in (8193, 8191))
    assert found.parameters == 0
    assert found.memory == pytest.approx(log(high / low) / log(8193 / 8191))


def test_a_context_that_the_workload_names_stays() -> None:
    found = sensitivity(preset("tiny-llama"), Workload(context=64))
    assert "context" in found.inert


def test_windows_inside_patterns_are_fields() -> None:
    found = sensitivity(preset("tiny-longcontext"), Workload())
    fields = [effect.field for effect in found.effects]
    assert any("sliding(" in field for field in fields)
    assert any("dilated(every=" in field for field in fields)


def test_numbers_that_stand_alike_in_several_blocks_are_one_field() -> None:
    labels = [field.label for field in fields_of(to_data(preset("llama-moe"), defaults="keep"))]
    assert "blocks.*.mixer.heads" in labels
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize("name", [n for n in preset_names() if n.startswith("tiny-")] + ["seq2seq-small", "mamba2"])
def test_neighbours_are_sound_and_their_settings_work(name: str) -> None:
    architecture = preset(name)
    found = sensitivity(architecture, Workload())
    assert found.effects
    for each in found.effects:
        assert each.smaller is None or each.smaller < each.value
        assert each.larger is None or each.larger > each.value
        changed = again(architecture, each.overrides)
        assert changed != architecture


def test_effects_are_ranked_by_their_strongest_elasticity() -> None:
    found = sensitivity(preset("llama-3-8b"), Workload())
    strengths = [effect.strength for effect in found.effects]
    assert strengths == sorted(strengths, reverse=True)
    assert found.effects[0].field == "width"
    assert "norm.eps" in found.inert


def test_key_heads_move_decode_speed_where_the_cache_is_large() -> None:
    device = device_named("h100-80gb")
    found = sensitivity(preset("llama-3-8b"), Workload(context=8192, batch=64), device)
    keys = effect(found, "blocks.layer.mixer.kv_heads")
    assert keys.decode_speed is not None
    assert -0.9 < keys.decode_speed < -0.4
    assert keys.smaller == 4
    assert keys.larger == 16


def test_without_a_device_there_is_no_decode_speed() -> None:
    found = sensitivity(preset("tiny-llama"), Workload())
    assert all(effect.decode_speed is None for effect in found.effects)


def test_experts_move_storage_and_not_the_work() -> None:
    found = sensitivity(preset("mixtral-8x7b"), Workload())
    experts = effect(found, "blocks.layer.ffn.experts")
    assert experts.parameters > 0.9
    assert experts.training_cost < 0.001
    assert effect(found, "blocks.layer.ffn.top_k").training_cost > 0.5


def test_stacked_lines_that_must_stay_equally_long_are_told() -> None:
    found = sensitivity(preset("jamba-like"), Workload(context=1024))
    assert any("layers.0" in field for field in found.fixed)


def test_one_layer_and_shared_weights_are_no_obstacle() -> None:
    one = read_text(to_yaml(preset("tiny-llama")), overrides=["layers=layer"]).architecture
    assert effect(sensitivity(one, Workload()), "width").parameters > 0
    shared = read_text(to_yaml(preset("tiny-llama")), overrides=["layers=layer^4"]).architecture
    repeats = effect(sensitivity(shared, Workload()), "layers: layer^4")
    assert repeats.parameters == 0
    assert repeats.training_cost > 0.5


def test_an_unsound_spec_is_refused() -> None:
    from dataclasses import replace

    with pytest.raises(SpecError):
        sensitivity(replace(preset("tiny-llama"), layers="nobody*3"), Workload())


def test_the_record_has_every_key() -> None:
    record = sensitivity(preset("tiny-llama"), Workload()).to_dict()
    assert record["schema"] == "vitruvius.sensitivity/1"
    assert set(record["fields"][0]) == {"field", "value", "smaller", "larger", "elasticity", "set"}
    assert set(record["fields"][0]["elasticity"]) == {"parameters", "memory", "decode_speed", "training_cost"}
