"""A model that dynamo has traced computes what it computes untraced: layers of different kinds are not confused.

With the backend `eager` nothing is generated: what differs is what the tracer took for constant.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vitruvius.nn import Signals, build
from vitruvius.nn.ops.compiling import compiled
from vitruvius.spec import preset, read_text, shrink

PAIRS = """
name: pairs
vocab_size: 320
width: 32
context: 64
head: {kind: lm, tied: true}
blocks:
  one:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: causal & sliding(8), position: FIRST}
    ffn: {kind: swiglu, hidden: 48}
  other:
    extends: one
    mixer: {sees: "causal & dilated(4, every=3)", position: SECOND}
layers: one*2 other*2
"""


@pytest.fixture(autouse=True)
def _forgotten():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def given(spec, length):
    """Arguments of a loss."""
    drawn = torch.Generator().manual_seed(length)
    ids = torch.randint(0, spec.vocab_size, (2, length + 1), generator=drawn)
    source = None if spec.encoder is None else torch.randint(0, spec.vocab_size, (2, 12), generator=drawn)
    return {"tokens_BT": ids[:, :-1], "targets_BT": ids[:, 1:], "source": source}


def losses_of(model, loss, length):
    """The loss and every gradient."""
    model.zero_grad()
    signals = Signals()
    found = loss(**given(model.architecture, length), signals=signals)
    (found + sum(signals.losses)).backward()
    return found.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def agree(spec):
    model = build(spec).train()
    traced = compiled(model.loss, backend="eager")
    for length in (24, 40, 24):
        loss, gradients = losses_of(model, model.loss, length)
        again, found = losses_of(model, traced, length)
        torch.testing.assert_close(again, loss, rtol=1e-5, atol=0)
        assert set(found) == set(gradients)
        for name, gradient in gradients.items():
            assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["longcontext-per-layer", "jamba-like", "seq2seq-small", "tiny-qwen3-moe"])
def test_the_twin_of_a_preset_has_its_loss_and_gradients(name, one_thread):
    agree(replace(shrink(preset(name)), vocab_size=320))


POSITIONS = {
    "angles": ("{kind: rope, theta: 1e4}", "{theta: 5e2}"),
    "scaling": ("{kind: rope}", "{scaling: {kind: yarn, factor: 4.0, original_context: 16}}"),
    "slopes": ("{kind: alibi}", "{kind: rope}"),
    "buckets": ("{kind: t5, buckets: 8}", "{buckets: 16}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", POSITIONS)
def test_layers_with_other_windows_and_positions_keep_them(case, one_thread):
    first, second = POSITIONS[case]
    agree(read_text(PAIRS.replace("FIRST", first).replace("SECOND", second)).architecture)
