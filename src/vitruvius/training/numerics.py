"""The companions that have a part in an update, by the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
