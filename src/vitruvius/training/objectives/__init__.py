"""What a run learns. An objective turns a batch into tensors, and tensors into a loss; the loop does the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.training.objectives.base import Judged, Objective, Piece, Result, TokenObjective
from vitruvius.training.objectives.causal_lm import CausalLM
from vitruvius.training.objectives.masked_lm import MaskedLM
from vitruvius.training.objectives.prefixes import Continuation, PrefixLM
from vitruvius.training.objectives.seq2seq import Seq2Seq

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.training.config import TrainConfig

__all__ = [
    "OBJECTIVES",
    "CausalLM",
    "Continuation",
    "Judged",
    "MaskedLM",
    "Objective",
    "Piece",
    "PrefixLM",
    "Result",
    "Seq2Seq",
    "make_objective",
]

OBJECTIVES: dict[str, Callable[[TrainConfig], Objective]] = {
    "causal-lm": CausalLM,
    "masked-lm": MaskedLM,
    "prefix-lm": PrefixLM,
    "continuation": Continuation,
    "seq2seq": Seq2Seq,
}
"""Name in `train.objective` -> class, made from the config."""


def make_objective(config: TrainConfig) -> Objective:
    """The objective that a config names."""
    assert config.objective is not None
    objective = OBJECTIVES[config.objective](config)
    if config.z_loss:
        assert isinstance(objective, TokenObjective)
        objective.z_loss = config.z_loss
    return objective
