"""fp32 weights read as bf16 ones: the same bits as in a model of bf16 weights, and nothing of it afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from vitruvius.nn import build
from vitruvius.nn.casting import cast
from vitruvius.spec import preset, preset_names, shrink
from vitruvius.training.huggingface import ForTrainer

BF16 = torch.bfloat16


def asked(wrapped, *, autocast):
    """Loss and gradients of some tokens; the backward pass is outside of autocast, as torch asks for."""
    ids = torch.randint(0, wrapped.architecture.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    with torch.autocast("cpu", BF16, enabled=autocast):
        loss = wrapped(ids, labels=ids.clone())["loss"]
    loss.backward()
    return loss.detach()


def held(model):
    """Names of what each module has besides its parameters."""
    return {name: set(part.__dict__) for name, part in model.named_modules()}


@pytest.mark.parametrize("checkpointing", ["none", "layers"])
@pytest.mark.parametrize("name", preset_names())
def test_autocast_gives_loss_and_gradients_of_a_model_in_that_format_bit_for_bit(name, checkpointing, one_thread):
    spec = replace(shrink(preset(name)), vocab_size=320)
    ours, theirs = build(spec), build(spec).to(BF16)
    before, weights = held(ours), {key: value.clone() for key, value in ours.state_dict().items()}
    for model in (ours, theirs):
        model.checkpointing = checkpointing
    found = asked(ForTrainer(ours, context=24).train(), autocast=True)
    assert found.dtype == torch.float32
    assert torch.equal(found, asked(ForTrainer(theirs, context=24).train(), autocast=False))
    expected = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        assert parameter.dtype == torch.float32
        if expected[key].grad is None:
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, expected[key].grad.float()), key
    assert held(ours) == before
    assert all(torch.equal(value, weights[key]) for key, value in ours.state_dict().items())


def test_an_error_inside_leaves_the_weights_as_they_were():
    model = build(replace(shrink(preset("tiny-llama")), vocab_size=320))
    before = held(model)
    seen = []

    def breaks(tokens):
        seen.append(model.embedding.tokens.weight.dtype)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), cast(model, BF16):
        breaks(None)
    assert seen == [BF16]
    assert held(model) == before
    assert model.embedding.tokens.weight.dtype == torch.float32


def test_a_shared_weight_is_cast_once_and_its_gradient_is_of_both_uses():
    def twice(dtype):
        torch.manual_seed(0)
        pair = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
        pair[1].weight = pair[0].weight
        return pair.to(dtype)

    ours, theirs = twice(torch.float32), twice(BF16)
    x = torch.randn(3, 8).to(BF16)
    with cast(ours, BF16):
        assert ours[0].weight is ours[1].weight and ours[0].weight.dtype == BF16
        y = ours(x)
    y.float().square().sum().backward()
    theirs(x).float().square().sum().backward()
    assert torch.equal(ours[0].weight.grad, theirs[0].weight.grad.float())


def test_inside_another_the_outer_copies_come_back():
    layer = nn.Linear(4, 4)
    with cast(layer, BF16):
        with cast(layer, torch.float64):
            assert layer.weight.dtype == torch.float64
        assert layer.weight.dtype == BF16
    assert layer.weight.dtype == torch.float32
