"""What grows as a power of the depth, and what grows by a factor per layer."""

from __future__ import annotations

import planted
import pytest
import torch

from vitruvius.checks import check
from vitruvius.checks.depth import DOUBLING, Scales, as_wide_as, deep, misdrawn, scales_of
from vitruvius.checks.subject import subject_of
from vitruvius.nn import build
from vitruvius.spec import preset, read_text, resolve

pytestmark = pytest.mark.usefixtures("one_thread")
FFN = "{kind: mlp, hidden: 32, activation: gelu}"


def stack(norm_place: str, init: str, layers: int = 16):
    mixer = "{kind: attention, heads: 4, sees: causal}"
    block = f"a: {{mixer: {mixer}, ffn: {FFN}, norm_place: {norm_place}}}"
    return read_text(planted.spec("stack", block, f"a*{layers}", more=f"init: {init}")).architecture


def init_scale(architecture):
    return check(architecture, only=["init-scale"])["init-scale"]


def test_a_random_walk_doubles_by_its_root_and_a_factor_by_its_power():
    walk = Scales(activation=[(i + 1) ** 0.5 for i in range(32)], gradient=[1.0] * 32)
    assert walk.doubling["the stream"] == pytest.approx(2**0.5, rel=0.05)
    factor = Scales(activation=[1.5**i for i in range(32)], gradient=[1.2 ** (31 - i) for i in range(32)])
    assert factor.doubling["the stream"] == pytest.approx(1.5**16)
    assert factor.doubling["the gradient"] == pytest.approx(1.2**16)
    assert factor.growth == pytest.approx(1.5**31)
    assert factor.backward == pytest.approx(1.2**31)


def test_one_layer_of_another_kind_is_no_rate():
    jump = Scales(activation=[1.0] * 12 + [50.0] * 4, gradient=[1.0] * 16)
    assert jump.doubling["the stream"] == 1.0


def test_scales_are_read_off_the_streams_and_their_gradients():
    x = torch.ones(1, 4, 8, dtype=torch.float64, requires_grad=True)
    streams = [2 * x]
    streams += [3 * streams[0]]
    found = scales_of(lambda: streams[-1], streams)
    assert found.activation == [2.0, 6.0]
    assert found.gradient == pytest.approx([3.0, 1.0])


@pytest.mark.parametrize(
    ("norm_place", "init"),
    [
        ("pre", "normal"),
        ("pre", "kaiming"),
        ("post", "normal"),
        ("post", "xavier"),
        ("sandwich", "kaiming"),
        ("output", "normal"),
        ("none", "normal"),
    ],
)
def test_stacks_that_people_train_pass(norm_place, init):
    outcome = init_scale(stack(norm_place, init))
    assert outcome.passed, outcome.detail


@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_a_stack_without_norms_and_with_wide_matrices_explodes(init):
    outcome = init_scale(stack("none", init, 24))
    assert not outcome.passed
    assert outcome.measured is None or outcome.measured > DOUBLING
    assert outcome.values["layers"][-1] == "layers.23"


def test_a_short_stack_has_no_rate():
    outcome = init_scale(stack("none", "kaiming", 3))
    assert outcome.passed
    assert outcome.measured is None
    assert len(outcome.values["series"]["gradient_rms"]) == 3


def test_a_twin_gets_the_depth_and_the_gains_of_the_full_size():
    subject = subject_of(preset("gpt2"), 0)
    twin = deep(subject)
    assert len(resolve(twin).layers) == 12
    model = build(twin)
    as_wide_as(model, subject.full_graph)
    full = 0.02 * 768**0.5
    for name, scale in (("mixer.q", 1.0), ("mixer.out", 24**-0.5), ("ffn.down", 4**0.5 * 24**-0.5)):
        weight = model.get_parameter(f"layers.3.{name}.weight")
        assert weight.std().item() * weight.shape[1] ** 0.5 == pytest.approx(full * scale, rel=0.15), name


def test_a_twin_too_heavy_for_the_full_depth_keeps_its_own_and_says_so():
    outcome = init_scale(preset("mixtral-8x7b"))
    assert outcome.passed
    assert "2 of 32 layers" in outcome.detail


@pytest.mark.parametrize("name", ["tiny-llama-moe", "gated-deltanet-hybrid", "mamba2", "speedrun"])
def test_fresh_models_are_drawn_as_their_init_says(name):
    model = build(subject_of(preset(name), 0).probed)
    assert misdrawn(model) == []
    with torch.no_grad():
        model.embedding.tokens.weight.mul_(1.5)
    assert any("embedding.tokens.weight is drawn" in text for text in misdrawn(model))
