"""What `train.guard.alarms` can say: the detectors, and the rules that their readings are held against. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

Level = Annotated[float, Gt(0.0), Le(1e30)]
Factor = Annotated[float, Gt(1.0), Le(1e9)]
Deviations = Annotated[float, Gt(0.0), Le(1e6)]

Detector = Literal[
    "attention-logit",
    "output-lse",
    "update-ratio",
    "embedding-norm",
    "stream-rms",
    "router-logit",
    "router-entropy",
    "expert-load",
    "dead-experts",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a detector's reading is an alarm: when it breaks any of these in so many readings in a row."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    above: Level | None = None
    """More than this."""
    below: Level | None = None
    """Less than this."""
    growth: Factor | None = None
    """More than so many times the median of its first `guard.baseline` readings."""
    z: Deviations | None = None
    """So many deviations above the median of its last `guard.history` readings, both in their logarithm."""
    least: Annotated[float, Ge(0.0), Le(1e30)] = 0.0
    """`growth` and `z` say nothing about readings up to this."""
    lasting: Annotated[int, Ge(1), Le(1000)] = 1
    """Readings in a row."""

    @property
    def says_something(self) -> bool:
        """Whether any reading can break it."""
        return any(limit is not None for limit in (self.above, self.below, self.growth, self.z))


DETECTORS: dict[Detector, str] = {
    "attention-logit": "largest attention score before the softmax, of each attention and head",
    "output-lse": "log-sum-exp of the logits: its largest size, and its mean's",
    "update-ratio": "size of the update over size of the weights, of each block, one update later",
    "embedding-norm": "norm of the rows of the embedding table: the largest, and the mean",
    "stream-rms": "size of the residual stream after each layer",
    "router-logit": "norm of a token's router scores, of each mixture",
    "router-entropy": "entropy of the router's choice, of each mixture",
    "expert-load": "the busiest expert's load over the mean, of each mixture, in the whole update",
    "dead-experts": "experts without a token, of each mixture, in the whole update",
}
"""What is read every `guard.every` updates."""

DEFAULT_RULES: dict[Detector, Rule] = {
    # Scores of some hundred go before a divergence (Wortsman et al., 2023; Kimi K2 holds them below 100).
    "attention-logit": Rule(above=100.0, z=12.0, least=30.0),
    "output-lse": Rule(above=100.0, growth=8.0, least=30.0),
    "update-ratio": Rule(above=0.3, lasting=2),
    "embedding-norm": Rule(growth=20.0),
    "stream-rms": Rule(growth=100.0, z=16.0, least=10.0),
    "router-logit": Rule(growth=50.0, least=20.0),
    "router-entropy": Rule(below=0.01, lasting=3),
    "expert-load": Rule(growth=4.0, least=3.0, lasting=3),
    "dead-experts": Rule(above=0.5, lasting=5),
}
"""What holds where `guard.alarms` does not name a detector."""
