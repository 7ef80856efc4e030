"""The next experiment: cheap to name, concrete, and it changes with what is known."""

from __future__ import annotations

import click
import pytest

from vitruvius.cli.verbs import LazyGroup
from vitruvius.sizing.experiment import next_experiment
from vitruvius.sizing.hardware import catalogue
from vitruvius.sizing.hardware.catalogue import machine_file
from vitruvius.sizing.memory import kv_cache_bytes, weights_bytes
from vitruvius.sizing.prototype import scale_down
from vitruvius.spec import preset, preset_names, resolve


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("after", ["size", "check", "validate"])
def test_every_architecture_has_a_next_experiment_that_is_the_same_every_time(name, after) -> None:
    architecture = preset(name)
    first, second = (next_experiment(architecture, after=after) for _ in range(2))
    assert first == second
    assert first.seconds > 0 and first.off_by >= 1
    assert first.dollars is None or first.dollars > 0
    assert first.command in first.to_text() and first.decides in first.to_text()
    assert set(first.to_dict()) == {"command", "decides", "seconds", "dollars", "off_by", "device", "basis"}


def test_after_sizing_comes_the_check_then_a_prototype_then_the_hardware() -> None:
    architecture = preset("llama-3-8b")
    kinds = [next_experiment(architecture, after=after).command.split()[1] for after in ("size", "check", "validate")]
    assert kinds == ["check", "scale-down", "bench"]


def test_the_command_names_the_spec_as_it_was_given_and_quotes_it() -> None:
    assert next_experiment(preset("gpt2"), spec="my designs/a.yaml").command == "vitruvius check 'my designs/a.yaml'"


def test_its_verbs_and_options_are_those_of_the_command_line() -> None:
    from vitruvius.cli.front import front

    assert isinstance(front, LazyGroup)
    for after in ("size", "check", "validate"):
        for part in next_experiment(preset("longcontext"), after=after).command.split(" && "):
            verb = front.get_command(click.Context(front), part.split()[1])
            assert verb is not None
            known = {flag for option in verb.params for flag in option.opts}
            assert {word for word in part.split() if word.startswith("--")} <= known


@pytest.mark.parametrize("name", ["tiny-llama", "longcontext", "deepseek-v3"])
def test_the_prototype_that_it_names_can_be_made_and_is_named_so(name) -> None:
    command = next_experiment(preset(name), after="check").command
    first, second = command.split(" && ")
    parameters = int(first.split("--parameters ")[1].split()[0])
    made = scale_down(preset(name), parameters)
    assert second == f"vitruvius train prototypes/{made.architecture.name}-run.yaml"


def test_what_is_rented_holds_the_model() -> None:
    graph = resolve(preset("llama-3-8b"))
    found = next_experiment(graph.architecture, after="validate")
    device = catalogue()[found.device]
    needed = weights_bytes(graph, "bf16") + kv_cache_bytes(graph, 8192, 1, "bf16")
    assert device.usable_bytes >= needed
    cheaper = [d for d in catalogue().values() if d.rent and not d.untested and d.rent < device.rent]
    assert all(d.usable_bytes < 1.25 * needed for d in cheaper)


def test_a_measured_machine_is_believed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assumed = next_experiment(preset("longcontext"), after="check")
    assert "assumed" in assumed.basis and assumed.off_by == 10
    machine_file().parent.mkdir(parents=True)
    machine_file().write_text("not a device")
    assert next_experiment(preset("longcontext"), after="check") == assumed
