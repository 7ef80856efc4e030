"""The companions that have a part in an update, by the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.training.averaging import WeightAverage
from vitruvius.training.clipping import ZClip
from vitruvius.training.scaling import LossScaler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.training.companions import Companion
    from vitruvius.training.config import TrainConfig


def numerics_of(config: TrainConfig) -> Iterator[Companion]:
    """A loss scale, ZClip, an average of the weights: those that the settings ask for."""
    if config.scaler.kind == "dynamic" or (config.scaler.kind == "auto" and config.dtype == "fp16"):
        yield LossScaler(config.scaler)
    if config.clipping == "zclip":
        yield ZClip(config.zclip)
    if config.ema is not None:
        yield WeightAverage(config.ema)


def notes_on(config: TrainConfig) -> Iterator[str]:
    """What is worth knowing about these settings on this machine; `config` names its device."""
    if config.dtype == "fp16" and (config.device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)):
        yield (
            "this device computes in bf16 as well, where nothing under- or overflows that would not in fp32: "
            "dtype: bf16 needs no loss scale"
        )
    if config.dtype == "fp16" and config.scaler.kind == "none":
        yield "warning: the loss is not scaled in fp16, so gradients below 6e-8 are lost"
    if config.optimizer == "adamw-8bit-paged" and config.device == "cpu":
        yield "there are no pages on a CPU: adamw-8bit-paged is adamw-8bit here, to the same bits"
