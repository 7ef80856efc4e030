"""The first 20 losses of two tiny architectures are what they were: fp32, one thread, within a thousandth.

When a change is meant, `VITRUVIUS_GOLDEN=write make test-fast ARGS=tests/golden` writes them anew. The text is made
here and cut into bytes by hand, so that neither a tokenizer's version nor the files of a machine can move them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vitruvius.data.packing.batches import Batch
from vitruvius.nn import build
from vitruvius.spec import preset
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import make_optimizer
from vitruvius.training.schedules import learning_rate

FILE = Path(__file__).with_name("losses.json")
SMALLER = ["context=64", "vocab_size=256", "width=64"]
ARCHITECTURES = {
    "tiny-llama": [*SMALLER, "layers=layer*2"],
    "tiny-llama-moe": [*SMALLER, "layers=dense moe", "blocks.dense.mixer.sees=causal & sliding(16)"],
}
STEPS, BATCH, CONTEXT, RELATIVE = 20, 4, 64, 1e-3


def batch_of(step):
    """Bytes of a text that counts, each sample two documents of it."""
    text = np.frombuffer("".join(f"{n} and {n * n % 97} are {n % 7 * 'so'}.\n" for n in range(4000)).encode(), np.uint8)
    starts = (np.arange(BATCH) + step * BATCH) * CONTEXT
    tokens = np.stack([text[start : start + CONTEXT + 1] for start in starts]).astype(np.int64)
    documents = np.broadcast_to(np.arange(CONTEXT + 1) // 40, tokens.shape)
    return Batch(
        inputs=tokens[:, :-1],
        targets=tokens[:, 1:],
        documents=np.ascontiguousarray(documents[:, :-1]),
        crosses=documents[:, 1:] != documents[:, :-1],
        sample_ids=starts,
        epochs=np.zeros_like(starts),
    )


def losses_of(name):
    architecture = preset(name, overrides=ARCHITECTURES[name])
    config = ensure(TrainConfig(steps=STEPS, batch=BATCH, dtype="fp32", warmup=4), architecture)
    model = build(architecture, seed=0)
    objective, optimizer = make_objective(config), make_optimizer(model, config)
    losses = []
    for step in range(STEPS):
        (piece,) = objective.pieces(batch_of(step), 1, torch.device("cpu"))
        result = objective.train(model, piece)
        result.objective.backward()
        optimizer.step(lr=learning_rate(config, step), clip=config.clip)
        optimizer.zero_grad()
        losses.append(float(result.loss))
    return losses


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_first_twenty_losses_are_the_ones_that_are_kept(name, one_thread):
    found = losses_of(name)
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if os.environ.get("VITRUVIUS_GOLDEN") == "write":
        kept = kept | {name: [float(f"{loss:.7g}") for loss in found]}
        FILE.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", encoding="utf-8")
    assert found == pytest.approx(kept[name], rel=RELATIVE)
    assert found[-1] < found[0] - 1
