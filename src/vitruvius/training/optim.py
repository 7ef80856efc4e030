"""Optimizers by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from vitruvius.spec.widen import weights
from vitruvius.training.eight_bit import EightBitAdamWRule, require_bitsandbytes
from vitruvius.training.grouping import decays
from vitruvius.training.master import AdamWRule, MasterOptimizer, ParameterGroup, UpdateRule
from vitruvius.training.muon import WIDTH_POWERS, MuonRule

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from vitruvius.nn import Model
    from vitruvius.spec.node import Init, Scope
    from vitruvius.spec.weight import Weight
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.eight_bit import Memory

EIGHT_BIT = frozenset({"adamw-8bit", "adamw-8bit-paged"})
"""Names in `train.optimizer` whose moments take 8 bits."""

MUON_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What parameters of one group share."""

    rule: UpdateRule
    lr_factor: float
    weight_decay: float


def adamw(weight: Weight, init: Init, scope: Scope, config: TrainConfig) -> Settings:
    """AdamW, with learning rate, decay and eps scaled as the init says."""
    return Settings(
        rule=AdamWRule(betas=config.betas, eps=config.eps * init.eps_scale(weight, scope)),
        lr_factor=init.learning_rate_scale(weight, scope),
        weight_decay=config.weight_decay * init.weight_decay_scale(weight, scope),
    )


def muon(weight: Weight, init: Init, scope: Scope, config: TrainConfig) -> Settings:
    """Muon for the matrices inside layers, each expert's by itself; AdamW for everything else."""
    if not weight.is_hidden_matrix:
        return adamw(weight, init, scope, config)
    power = WIDTH_POWERS[config.muon_scale]
    own_lr = 1.0 if config.muon_lr is None else config.muon_lr / config.lr
    return Settings(
        rule=MuonRule(
            momentum=config.muon_momentum,
            kind=config.muon_momentum_kind,
            iterations=config.muon_iterations,
            scale=config.muon_scale,
            dtype=MUON_DTYPES[config.muon_dtype],
        ),
        lr_factor=own_lr * init.learning_rate_scale(weight, scope) ** power,
        weight_decay=config.weight_decay * init.weight_decay_scale(weight, scope) ** power,
    )


def eight_bit(memory: Memory) -> Callable[[Weight, Init, Scope, TrainConfig], Settings]:
    """AdamW with moments of 8 bits, which lie on the device or in pages."""

    def settings(weight: Weight, init: Init, scope: Scope, config: TrainConfig) -> Settings:
        wide = adamw(weight, init, scope, config)
        eps = config.eps * init.eps_scale(weight, scope)
        return replace(wide, rule=EightBitAdamWRule(betas=config.betas, eps=eps, memory=memory))

    return settings


OPTIMIZERS: dict[str, Callable[[Weight, Init, Scope, TrainConfig], Settings]] = {
    "adamw": adamw,
    "adamw-8bit": eight_bit("device"),
    "adamw-8bit-paged": eight_bit("paged"),
    "muon": muon,
}
"""Name in `train.optimizer` -> how a weight is updated."""


def make_optimizer(model: Model, config: TrainConfig) -> MasterOptimizer:
    """The optimizer that a config names, with fp32 masters; which weights decay is `config.decay`.

    Raises UsageError as `require_optimizer` does.
    """
    require_optimizer(config)
    return MasterOptimizer(groups_of(model, config), lr=config.lr)


def require_optimizer(config: TrainConfig) -> None:
    """Raise UsageError where a package that the optimizer needs is not installed."""
    if config.optimizer in EIGHT_BIT:
        require_bitsandbytes()


def groups_of(model: Model, config: TrainConfig) -> list[ParameterGroup]:
    """Trainable parameters by what they share: those that decay first, then the others, in the order of the model."""
    placed, init, scope = weights(model.graph), model.architecture.init, model.graph.scope
    decayed: dict[Settings, dict[str, nn.Parameter]] = {}
    undecayed: dict[Settings, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        weight = placed[name]
        settings = OPTIMIZERS[config.optimizer](weight, init, scope, config)
        (decayed if decays(weight, config.decay) else undecayed).setdefault(settings, {})[name] = parameter
    return [
        ParameterGroup(
            name=name,
            parameters=parameters,
            weight_decay=settings.weight_decay if has_decay else 0.0,
            lr_factor=settings.lr_factor,
            rule=settings.rule,
        )
        for name, has_decay, found in (("decayed", True, decayed), ("undecayed", False, undecayed))
        for settings, parameters in found.items()
    ]
