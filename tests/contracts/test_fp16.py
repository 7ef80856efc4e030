"""Every kind computes in fp16 what it computes in fp32, forward and backward, when the loss is scaled."""

from __future__ import annotations

import pytest
import torch

from vitruvius.nn import Signals, build
from vitruvius.spec import preset, preset_names, shrink

SCALE = 2.0**10
QUICK = ("tiny-llama-moe", "mamba2", "context-aware-bert", "deepseek-v3")


def loss_and_norm(architecture, dtype):
    model = build(architecture, dtype=dtype, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    length = min(architecture.context, 96)
    tokens = torch.randint(0, architecture.vocab_size, (2, length), generator=generator)
    source = tokens.clone() if architecture.encoder is not None else None
    documents = None
    if source is None:
        documents = torch.zeros(2, length, dtype=torch.int64)
        documents[:, length // 2 :] = 1
    signals = Signals(z_loss=1e-4)
    loss = model.loss(tokens, tokens.roll(-1, 1), source=source, documents=documents, signals=signals)
    (torch.stack([loss, *(each.float() for each in signals.losses)]).sum() * SCALE).backward()
    squares = [(p.grad.double() / SCALE).square().sum() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.stack(squares).sum().sqrt().item()


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in preset_names()]
)
def test_loss_and_gradients_in_fp16_are_those_of_fp32(name):
    """Bounds: 0.003 nats and half a percent of the norm; measured over all presets: 0.0005 and 0.13 %."""
    architecture = shrink(preset(name))
    loss, norm = loss_and_norm(architecture, "fp32")
    low_loss, low_norm = loss_and_norm(architecture, "fp16")
    assert low_loss == pytest.approx(loss, abs=0.003)
    assert low_norm == pytest.approx(norm, rel=0.005)
