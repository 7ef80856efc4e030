"""What a run learns. An objective turns a batch into tensors, and tensors into a loss; the loop does the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.training.objectives.base import Objective, Piece, Result
from vitruvius.training.objectives.causal_lm import CausalLM

if TYPE_CHECKING:
    from vitruvius.training.config import TrainConfig

__all__ = ["OBJECTIVES", "CausalLM", "Objective", "Piece", "Result", "make_objective"]

OBJECTIVES = {"causal-lm": CausalLM}
"""Name in `train.objective` -> class, made from the config."""


def make_objective(config: TrainConfig) -> Objective:
    """The objective that a config names."""
    return OBJECTIVES[config.objective](config)
