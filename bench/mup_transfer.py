"""Does the best learning rate stay where it is when the model grows? A sweep at two sizes, with muP and without.

    python bench/mup_transfer.py                    # width 32 and 128, `normal` and `mup`
    python bench/mup_transfer.py --axis depth       # 2 and 8 layers, `normal` and `completep`

The task is the next byte of the source of Python's standard library, which is on every machine. Each run draws its own
weights and sees the same batches; the loss is that on held-out bytes after the last step. What counts is how far the
argmin moves between the sizes, and what it would cost to use the small model's learning rate in the large one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from vitruvius.data.packing.batches import Batch
from vitruvius.data.reading.corpora import standard_library_sources
from vitruvius.nn import build
from vitruvius.spec import Architecture, from_plain
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import make_optimizer
from vitruvius.training.schedules import learning_rate

HEAD_WIDTH, LENGTH, BATCH = 16, 64, 16
SMALL = {"width": 32, "depth": 2}
LARGE = {"width": {"width": 128, "depth": 2}, "depth": {"width": 32, "depth": 8}}
PARAMETRISED = {"width": "mup", "depth": "completep"}
HELD_OUT = 64
"""Batches that the loss is taken over."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One parametrisation at one size."""

    init: str
    width: int
    depth: int

    @property
    def architecture(self) -> Architecture:
        """A small Llama over bytes."""
        inits = {
            "normal": {"kind": "normal"},
            "mup": {"kind": "mup", "base_width": SMALL["width"], "base_head_width": HEAD_WIDTH},
            "completep": {
                "kind": "completep",
                "base_width": SMALL["width"],
                "base_depth": SMALL["depth"],
                "base_head_width": HEAD_WIDTH,
            },
        }
        mixer = {"kind": "attention", "heads": self.width // HEAD_WIDTH, "position": {"kind": "rope"}}
        return from_plain(
            {
                "name": f"{self.init}-{self.width}-{self.depth}",
                "vocab_size": 256,
                "width": self.width,
                "context": LENGTH,
                "init": inits[self.init],
                "head": {"kind": "lm", "tied": False},
                "blocks": {"layer": {"mixer": mixer, "ffn": {"kind": "swiglu", "hidden": 3 * self.width}}},
                "layers": f"layer*{self.depth}",
            }
        )


def text() -> np.ndarray:
    """Bytes of the standard library, shuffled by file as the sample is."""
    return np.frombuffer(b"\n".join(path.read_bytes() for path in standard_library_sources()), np.uint8)


def batch_of(data: np.ndarray, starts: np.ndarray) -> Batch:
    """Windows of the text, each a document of its own."""
    tokens = np.stack([data[start : start + LENGTH + 1] for start in starts]).astype(np.int64)
    documents = np.zeros_like(tokens)
    return Batch(
        inputs=tokens[:, :-1],
        targets=tokens[:, 1:],
        documents=documents[:, :-1],
        crosses=documents[:, 1:] != documents[:, :-1],
        sample_ids=starts,
        epochs=np.zeros_like(starts),
    )


def loss_of(arm: Arm, lr: float, steps: int, seed: int, data: np.ndarray) -> float:
    """Held-out nats per byte after training; infinite where the loss was not finite."""
    architecture = arm.architecture
    settings = TrainConfig(
        steps=steps, batch=BATCH, lr=lr, dtype="fp32", seed=seed, documents="joined", weight_decay=0.0
    )
    config = ensure(settings, architecture)
    model = build(architecture, seed=seed)
    objective, optimizer = make_objective(config), make_optimizer(model, config)
    train, held_out = data[: -len(data) // 10], data[-len(data) // 10 :]
    draw = np.random.default_rng(seed)
    for step in range(steps):
        (piece,) = objective.pieces(batch_of(train, draw.integers(len(train) - LENGTH - 1, size=BATCH)), 1, CPU)
        result = objective.train(model, piece)
        result.objective.backward()
        if not math.isfinite(optimizer.step(lr=learning_rate(config, step), clip=config.clip)):
            return math.inf
        optimizer.zero_grad()
    draw = np.random.default_rng(0)
    total = 0.0
    with torch.no_grad():
        for _ in range(HELD_OUT):
            starts = draw.integers(len(held_out) - LENGTH - 1, size=BATCH)
            (piece,) = objective.pieces(batch_of(held_out, starts), 1, CPU)
            total += float(objective.score(model, piece).mean())
    loss = total / HELD_OUT
    return loss if math.isfinite(loss) else math.inf


def losses_of(arm: Arm, rates: list[float], steps: int, seeds: int, data: np.ndarray) -> list[float]:
    """Mean over seeds for each learning rate, said on stderr as it is done."""
    losses = [sum(loss_of(arm, lr, steps, seed, data) for seed in range(seeds)) / seeds for lr in rates]
    print(f"{arm.architecture.name}: {', '.join(f'{loss:.3f}' for loss in losses)}", file=sys.stderr, flush=True)
    return losses


CPU = torch.device("cpu")


def main() -> None:
    """Sweep, and print a table and what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axis", choices=list(LARGE), default="width")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--powers", type=int, nargs=2, default=(-12, -5), help="learning rates 2^A to 2^B")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, began = text(), time.process_time()
    rates = [2.0**power for power in range(options.powers[0], options.powers[1] + 1)]
    parametrised, large = PARAMETRISED[options.axis], LARGE[options.axis]
    # At their base all parametrisations are one, so the small model is trained once.
    small = losses_of(Arm(init="normal", **SMALL), rates, options.steps, options.seeds, data)
    found = {
        init: {"small": small, "large": losses_of(Arm(init=init, **large), rates, options.steps, options.seeds, data)}
        for init in ("normal", parametrised)
    }
    seconds = time.process_time() - began
    if options.json:
        print(json.dumps({"axis": options.axis, "rates": rates, "losses": found, "cpu_seconds": seconds}))
        return
    report(options.axis, rates, found)
    print(f"{options.steps} steps of {BATCH} x {LENGTH} bytes, {options.seeds} seed(s), {seconds:.0f} CPU seconds")


def report(axis: str, rates: list[float], found: dict[str, dict[str, list[float]]]) -> None:
    """Print losses by learning rate, and how far the best one moves."""
    print(f"{'init':<10}{axis:>7}" + "".join(f"{f'2^{math.log2(rate):.0f}':>8}" for rate in rates))
    for init, sizes in found.items():
        for name, losses in sizes.items():
            size = (SMALL if name == "small" else LARGE[axis])[axis]
            best = min(losses)
            cells = "".join(f"{loss:.3f}{'*' if loss == best else ' '}".rjust(8) for loss in losses)
            print(f"{init:<10}{size:>7}{cells}")
    for init, sizes in found.items():
        small, large = sizes["small"], sizes["large"]
        at = small.index(min(small))
        moved = large.index(min(large)) - at
        cost = large[at] - min(large)
        print(
            f"{init}: the best learning rate moves by 2^{moved:+d}; the small one's costs {cost:.3f} nats in the large"
        )


if __name__ == "__main__":
    main()
