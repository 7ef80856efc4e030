"""Scaling laws: the loss that a training run of a size ends at, and the size that a budget is best spent on.

    L(N, D) = E + A / N^alpha + B / D^beta        C = 6 N D
    N*(C) = G (C / 6)^(beta / (alpha + beta))     G = (alpha A / (beta B))^(1 / (alpha + beta))

N is parameters, embeddings included (Pearce and Song, 2024, on what the data counts); D is training tokens, each seen
once; C is training FLOPs; L is nats per token on the data the law was fitted to. What the law does not know: other data
and tokenizers (E moves with them), and the architecture. A mixture of experts goes in with its active parameters, which
leaves out what stored experts add; windows, linear mixers and context lengths do not appear at all. So a law compares
sizes and budgets, never two designs of one size: that is what `vitruvius lab` and training are for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from math import exp, inf, log
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LEVEL = 0.8
"""Share of the sampled laws that an interval holds."""
_SAMPLES = 1000
_SEED = 20240415
"""Of the laws drawn from the fit's covariance: any fixed number, so that intervals repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number from a law with its 80 % interval: what the uncertainty of the fit alone makes of it."""

    value: float
    low: float
    """The value itself where the law has no known uncertainty."""
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """How a budget of training FLOPs is best split into parameters and tokens."""

    flops: float
    parameters: Estimate
    tokens: Estimate
    tokens_per_parameter: Estimate
    loss: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingLaw:
    """L = E + A / N^alpha + B / D^beta, and how well its five numbers are known."""

    name: str
    irreducible: float
    """E: the loss of an endless model on endless data."""
    a: float
    alpha: float
    b: float
    beta: float
    source: str
    spread: tuple[tuple[float, ...], ...] = ()
    """Lower triangular factor of the covariance of (ln A, ln B, ln E, alpha, beta); empty when it is not known."""
    fitted: tuple[float, float] = (0.0, inf)
    """Parameters of the smallest and the largest run that it was fitted to; beyond them it is a guess."""
    scatter: float = 0.0
    """80 % of the runs that were fitted lie within this share of the law; comes on top of every interval."""

    def covers(self, parameters: float) -> bool:
        """Whether there were runs of that size among those it was fitted to."""
        return self.fitted[0] <= parameters <= self.fitted[1]

    def loss_at(self, parameters: float, tokens: float) -> float:
        """Nats per token, without an interval."""
        _refuse_unless_positive(parameters=parameters, tokens=tokens)
        return self.irreducible + self.a * parameters**-self.alpha + self.b * tokens**-self.beta

    def loss(self, parameters: float, tokens: float) -> Estimate:
        """Nats per token of a model of `parameters` after `tokens`."""
        _refuse_unless_positive(parameters=parameters, tokens=tokens)
        return self._estimate(lambda law: law.loss_at(parameters, tokens))

    def split(self, flops: float) -> tuple[float, float]:
        """(N*, D*): parameters and tokens of least loss among all with 6 N D = flops."""
        _refuse_unless_positive(flops=flops)
        both = self.alpha + self.beta
        scale = (self.alpha * self.a / (self.beta * self.b)) ** (1 / both)
        parameters = scale * (flops / 6) ** (self.beta / both)
        return parameters, flops / 6 / parameters

    def optimal(self, flops: float) -> Optimum:
        """The best split of a budget, each part with its interval."""
        parameters, tokens = self.split(flops)
        return Optimum(
            flops=flops,
            parameters=self._estimate(lambda law: law.split(flops)[0]),
            tokens=self._estimate(lambda law: law.split(flops)[1]),
            tokens_per_parameter=self._estimate(lambda law: law.split(flops)[1] / law.split(flops)[0]),
            loss=self.loss(parameters, tokens),
        )

    def best_tokens(self, parameters: float) -> float:
        """The tokens for which a model of `parameters` is the best use of its FLOPs: D* of the C with N*(C) = N."""
        _refuse_unless_positive(parameters=parameters)
        # At the optimum alpha A / N^alpha = beta B / D^beta.
        return (self.beta * self.b / (self.alpha * self.a) * parameters**self.alpha) ** (1 / self.beta)

    def tokens_for_loss(self, parameters: float, loss: float) -> float:
        """Tokens after which a model of `parameters` reaches `loss`; infinity when it never does."""
        _refuse_unless_positive(parameters=parameters, loss=loss)
        left = loss - self.irreducible - self.a * parameters**-self.alpha
        return (self.b / left) ** (1 / self.beta) if left > 0 else inf

    def least_flops_for_loss(self, loss: float) -> float:
        """The smallest budget that reaches `loss`, best split; infinity at or below the irreducible loss."""
        left = loss - self.irreducible
        if left <= 0:
            return inf
        # At the optimum the data term is alpha / beta of the parameter term, so each is a known share of what is left.
        parameters = (self.a / (left * self.beta / (self.alpha + self.beta))) ** (1 / self.alpha)
        tokens = (self.b / (left * self.alpha / (self.alpha + self.beta))) ** (1 / self.beta)
        return 6 * parameters * tokens

    def _estimate(self, of: Callable[[ScalingLaw], float]) -> Estimate:
        value = of(self)
        if not self.spread:
            return Estimate(value=value, low=value, high=value)
        low, high = _between(of(law) for law in _sampled(self))
        return Estimate(value=value, low=low, high=high)


def _refuse_unless_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < inf:
            raise UsageError(f"{name}={number:g} is out of range", fix=f"give a number of {name} above 0")


def _between(values: Iterable[float]) -> tuple[float, float]:
    """The bounds that leave out as many of the values below as above."""
    ordered = sorted(values)
    outside = round(len(ordered) * (1 - LEVEL) / 2)
    return ordered[outside], ordered[-1 - outside]


@cache
def _sampled(law: ScalingLaw) -> tuple[ScalingLaw, ...]:
    """Laws drawn from the normal distribution of its five numbers, the same ones every time."""
    draw = random.Random(_SEED)  # noqa: S311 (statistics, not secrets)
    centre = (log(law.a), log(law.b), log(law.irreducible), law.alpha, law.beta)
    laws: list[ScalingLaw] = []
    for _ in range(_SAMPLES):
        normal = [draw.gauss(0.0, 1.0) for _ in centre]
        moved = [
            middle + sum(factor * z for factor, z in zip(row, normal, strict=False))
            for middle, row in zip(centre, law.spread, strict=True)
        ]
        laws.append(
            ScalingLaw(
                name=law.name,
                a=exp(moved[0]),
                b=exp(moved[1]),
                irreducible=exp(moved[2]),
                alpha=max(moved[3], 0.01),
                beta=max(moved[4], 0.01),
                source=law.source,
            )
        )
    return tuple(laws)


CHINCHILLA_REFIT = ScalingLaw(
    name="chinchilla-refit",
    irreducible=1.8172,
    a=482.01,
    alpha=0.3478,
    b=2085.43,
    beta=0.3658,
    source="Besiroglu et al., 2024, a refit of Hoffmann et al., 2022: 240 runs of 57 M to 16 B parameters and 1.4e18 "
    "to 1.3e22 FLOPs. Their standard errors: A 124.5, B 1293.3, E 0.026, alpha 0.015, beta 0.021. Intervals sample a "
    "normal distribution, as they do; its covariance is that of 2,000 bootstrap refits of their published points with "
    "the same objective (Huber, 1e-3, of ln L), whose standard errors agree: 119.8, 1432.6, 0.025, 0.015, 0.021.",
    spread=(
        (0.2515617,),
        (-0.1013207, 0.4112367),
        (0.008169083, 0.01100356, 0.002907676),
        (0.01499738, -0.0001745433, 0.0002051738, 0.0004858507),
        (-0.005085057, 0.0200601, 0.0002653922, -0.0004047167, 0.0001505592),
    ),
    fitted=(5.7e7, 1.62e10),
    scatter=0.0066,
)
HOFFMANN = ScalingLaw(
    name="hoffmann-2022",
    irreducible=1.69,
    a=406.4,
    alpha=0.34,
    b=410.7,
    beta=0.28,
    source="Hoffmann et al., 2022, equation 10, as rounded there; the authors' own data does not give it "
    "(Besiroglu et al., 2024), and no usable uncertainty was published.",
)
LAWS = {law.name: law for law in (CHINCHILLA_REFIT, HOFFMANN)}
DEFAULT = CHINCHILLA_REFIT


def law_named(name: str) -> ScalingLaw:
    """The law of that name. Raises UsageError naming those there are."""
    if name not in LAWS:
        raise UsageError(f"there is no scaling law {name!r}", fix=f"use one of {', '.join(LAWS)}")
    return LAWS[name]
