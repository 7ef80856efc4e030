"""Validation of pairs: targets written for some held-out sources, and how near they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from vitruvius.evals.pairs import Limits, match_of, pairs_of, write

if TYPE_CHECKING:
    from vitruvius.data import TokenShards
    from vitruvius.nn import Model
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines import Engine
    from vitruvius.training.stopping import StopRequest


@final
class PairScoring:
    """Always the same held-out pairs, spread evenly over the split.

    Every process writes all of them: where processes hold parts of one model, each step of writing is a step of all.
    """

    def __init__(self, shards: TokenShards, config: TrainConfig) -> None:
        assert config.context is not None
        limits = config.pairs.limits(config.context)
        self.limits = Limits(source=limits.source, target=limits.target)
        self.pairs = pairs_of(shards, most=config.pairs.score)
        self.tokenizer = shards.tokenizer()

    def score(self, model: Model, engine: Engine, stop: StopRequest) -> dict[str, float] | None:
        """`exact_match`, `precision`, `recall`, `f1` and `written_pairs`; None when asked to stop meanwhile."""
        written = write(
            model,
            self.pairs,
            self.tokenizer,
            self.limits,
            progress=lambda done, total: done == total or not engine.agree_to_stop(stop),
        )
        if len(written) < len(self.pairs):
            return None
        found = match_of(written)
        return {
            "exact_match": found.exact_match,
            "precision": found.precision,
            "recall": found.recall,
            "f1": found.f1,
            "written_pairs": found.pairs,
        }
