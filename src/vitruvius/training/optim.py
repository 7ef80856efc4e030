"""Optimizers by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.training.master import MasterAdamW, parameter_groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.nn import Model
    from vitruvius.training.config import TrainConfig


def adamw(model: Model, config: TrainConfig) -> MasterAdamW:
    """AdamW with fp32 masters; which weights decay is `config.decay`."""
    tables = frozenset(name for name, tensor in model.graph.tensors().items() if tensor.role == "table")
    groups = parameter_groups(
        model.named_parameters(), weight_decay=config.weight_decay, decay=config.decay, embeddings=tables
    )
    return MasterAdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


OPTIMIZERS: dict[str, Callable[[Model, TrainConfig], MasterAdamW]] = {"adamw": adamw}
"""Name in `train.optimizer` -> how to make it."""


def make_optimizer(model: Model, config: TrainConfig) -> MasterAdamW:
    """The optimizer that a config names."""
    return OPTIMIZERS[config.optimizer](model, config)
