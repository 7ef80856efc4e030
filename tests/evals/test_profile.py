"""Where time goes: rows that add up to the run, backward work with the component that caused it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import torch

from vitruvius.errors import UsageError
from vitruvius.evals.jobs import DECODE_PHASE, PREFILL_PHASE, Subject
from vitruvius.evals.profile import BETWEEN, REST_OF_BACKWARD, STEP, Event, attributed, labelled, record
from vitruvius.lab.steps import PHASES
from vitruvius.nn import build, implements, registry
from vitruvius.spec import node, preset, read_text
from vitruvius.spec.node import FeedForward, register

pytestmark = pytest.mark.usefixtures("one_thread")

LAYER, NORM = "part:dense|mixer attention", "part:dense|norm rmsnorm"
BACK = "autograd::engine::evaluate_function: "


def event(name, start, duration, *, thread=1, sequence=-1, device=0):
    return Event(name=name, thread=thread, start=start, duration=duration, sequence=sequence, device_time=device)


def seconds(found):
    return {
        (part.block, part.component): (round(part.forward * 1e9), round(part.backward * 1e9)) for part in found.parts
    }


# ----------------------------------------------------------------------------------------------------------------------
# Spans as rows


def test_time_belongs_to_the_innermost_component_around_it_and_the_rest_to_nobody():
    found = attributed(
        [
            event(STEP, 0, 100),
            event(LAYER, 10, 60),
            event("aten::mm", 20, 30),
            event("part:dense|mixer attention / position rope", 55, 10),
            event("aten::copy_", 90, 5),
        ]
    )
    assert seconds(found) == {
        ("dense", "mixer attention"): (50, 0),
        ("dense", "mixer attention / position rope"): (10, 0),
        ("", BETWEEN): (40, 0),
    }
    assert found.total == pytest.approx(100e-9)
    assert sum(part.seconds for part in found.parts) == pytest.approx(found.total)


def test_backward_work_goes_to_the_component_under_which_its_node_was_made():
    found = attributed(
        [
            event(STEP, 0, 200),
            event(LAYER, 0, 50),
            event("aten::mm", 10, 20, sequence=7),
            event(NORM, 60, 20),
            event("Norm", 61, 10, sequence=8),
            event("aten::add", 85, 5, sequence=9),
            event("backward", 100, 80),
            event(f"{BACK}Norm", 110, 20, sequence=8),
            event("aten::mul", 112, 10),
            event(f"{BACK}MmBackward0", 135, 30, sequence=7),
            event(f"{BACK}AddBackward0", 170, 5, sequence=9),
            event("optimizer", 185, 10),
        ]
    )
    assert seconds(found) == {
        ("dense", "mixer attention"): (50, 30),
        ("dense", "norm rmsnorm"): (20, 20),
        ("", REST_OF_BACKWARD): (0, 25 + 5),
        ("", BETWEEN): (200 - 50 - 20 - 80 - 10, 0),
        ("", "optimizer"): (10, 0),
    }
    stacks = {";".join(names): round(time * 1e9) for names, time in found.stacks.items()}
    assert stacks["run;backward;dense;norm rmsnorm;Norm;mul"] == 10
    assert sum(stacks.values()) == 200


def test_what_is_outside_the_run_or_on_another_thread_is_left_out():
    found = attributed([event("aten::mm", 0, 5), event(STEP, 10, 10), event("aten::mm", 12, 5, thread=2)])
    assert seconds(found) == {("", BETWEEN): (10, 0)}


def test_on_an_accelerator_what_counts_are_the_kernels_wherever_they_were_launched():
    found = attributed(
        [
            event(STEP, 0, 100),
            event(LAYER, 0, 50),
            event("aten::mm", 10, 20, sequence=3, device=400),
            event("backward", 60, 30),
            event(f"{BACK}MmBackward0", 62, 5, thread=2, sequence=3),
            event("aten::mm", 63, 2, thread=2, device=600),
        ],
        per_device=True,
    )
    by_component = {name: round(time * 1e9) for name, time in found.by_component().items()}
    assert by_component == {"mixer attention": 1000}
    assert found.total == pytest.approx(1000e-9)


# ----------------------------------------------------------------------------------------------------------------------
# Real models


def subject(name="tiny-llama-moe", **more):
    model = build(preset(name) if isinstance(name, str) else name, dtype="bf16").eval()
    return Subject(name="it", model=model, batch=1, backend="auto", seed=0, **more)


def recorded(phase, who, length=32):
    job = phase.prepare(who, length)
    job.reset()
    job.run()
    return record(who.model, job.sample(), reset=job.reset, times=2)


@pytest.mark.parametrize("phase", PHASES)
def test_the_parts_add_up_to_the_run_and_every_component_is_among_them(phase):
    found = recorded(PHASES[phase], subject())
    assert sum(part.seconds for part in found.parts) == pytest.approx(found.total, rel=1e-9)
    assert sum(found.stacks.values()) == pytest.approx(found.total, rel=1e-9)
    assert sum(found.by_block().values()) == pytest.approx(sum(found.by_component().values()))
    parts = {(part.block, part.component) for part in found.parts}
    assert {
        ("dense", "mixer attention"),
        ("dense", "ffn swiglu"),
        ("moe", "ffn moe"),
        ("moe", "ffn moe / router softmax"),
        ("moe", "mixer attention / position rope"),
        ("dense", "norm rmsnorm"),
        ("", "norm rmsnorm"),
        ("", "embedding"),
        ("", "head lm"),
    } <= parts
    calls = {(part.block, part.component): part.calls for part in found.parts}
    assert calls["dense", "mixer attention"] == 2
    assert calls["dense", "norm rmsnorm"] == 4
    assert calls["", "embedding"] == 1
    assert found.extra_bytes > 0


def test_training_has_backward_time_in_every_component_that_has_weights():
    found = recorded(PHASES["train"], subject())
    backward = {part.component: part.backward for part in found.parts}
    for component in ("mixer attention", "ffn swiglu", "ffn moe", "norm rmsnorm"):
        assert backward[component] > 0
    assert {"optimizer", REST_OF_BACKWARD} <= backward.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(FeedForward):
    """A feed-forward network of someone's own."""

    kind: Literal["slow"] = "slow"


@pytest.fixture
def custom():
    register(Slow)

    @implements(Slow)
    class SlowModule(torch.nn.Module):
        def __init__(self, spec, scope, factory):
            super().__init__()

        def forward(self, x_BTD, place):
            for _ in range(200):
                x_BTD = x_BTD + 0.0
            return x_BTD

    yield read_text(
        "name: custom\nvocab_size: 64\nwidth: 32\ncontext: 64\nblocks:\n  a:\n"
        "    mixer: {kind: attention, heads: 2, sees: causal, position: alibi}\n    ffn: slow\nlayers: a*2\n"
    ).architecture
    del node._registry["ffn"]["slow"], registry._modules[Slow]


def test_a_component_of_ones_own_has_its_row_by_its_own_name(custom):
    found = recorded(PREFILL_PHASE, subject(custom))
    (row,) = [part for part in found.parts if part.component == "ffn slow"]
    assert (row.block, row.calls) == ("a", 2)
    adds = sum(names[-1] == "add" and "ffn slow" in names for names in found.stacks)
    assert adds == 1  # all of its operations under one stack: run, a, ffn slow, add


def test_labels_leave_the_model_as_it_was_even_when_it_raises():
    model = subject().model
    before = {name: set(module.__dict__) for name, module in model.named_modules()}
    with pytest.raises(UsageError), labelled(model):
        model(torch.full((1, 4), -1))
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == before


def test_labels_do_not_change_what_is_computed():
    who = subject()
    tokens = who.tokens(16)
    with torch.no_grad():
        plain = who.model(tokens)
        with labelled(who.model):
            assert torch.equal(plain, who.model(tokens))


def test_a_decoding_step_is_recorded_after_a_reset_each_time():
    found = recorded(DECODE_PHASE, subject(), length=8)
    assert found.recorded == 2
    assert {part.calls for part in found.parts if part.component == "embedding"} == {1}
