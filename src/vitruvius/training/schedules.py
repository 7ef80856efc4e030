"""Learning-rate schedules: what fraction of the peak each step gets. A table, so that another is one entry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.training.config import TrainConfig


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0. Source: Loshchilov and Hutter, SGDR, 2017."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """A straight line from 1 to 0."""
    return 1.0 - progress


def constant(progress: float) -> float:
    """1 all along."""
    del progress
    return 1.0


def wsd(progress: float, decay: float) -> float:
    """1, then down over the last `decay` of the way as 1 - sqrt. Source: Haegele et al., 2024 (arXiv:2405.18392)."""
    begun = progress - (1.0 - decay)
    return 1.0 if begun <= 0 else 1.0 - math.sqrt(begun / decay)


SHAPES: dict[str, Callable[[float, TrainConfig], float]] = {
    "cosine": lambda progress, _config: cosine(progress),
    "linear": lambda progress, _config: linear(progress),
    "constant": lambda progress, _config: constant(progress),
    "wsd": lambda progress, config: wsd(progress, config.wsd_decay),
}
"""Name -> fraction at a progress from 0 (end of warm-up) to 1 (last step)."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of update `step`, counted from 0, of a resolved config.

    Warm-up: lr * (step + 1) / warmup. Then lr * (m + (1 - m) * shape(p)) with m = min_lr, where p runs from 0 at the
    first step after warm-up to 1 at the last step of the run.
    """
    assert config.warmup is not None
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - 1 - config.warmup))
    return config.lr * (config.min_lr + (1.0 - config.min_lr) * SHAPES[config.schedule](progress, config))
