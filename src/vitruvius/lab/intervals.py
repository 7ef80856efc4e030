"""Means of a few seeds, and how far they may be off."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite, lgamma, log, log1p, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its confidence interval; None where one value says nothing of the spread."""

    mean: float
    low: float | None
    high: float | None


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """The mean of independent values with Student's t interval.

    It assumes that means are nearly normal; values pushed against a bound (an error of zero) make it too wide or, where
    all are equal, empty. Raises ValueError without values.
    """
    if not values:
        raise ValueError("the mean of nothing")
    count = len(values)
    mean = sum(values) / count
    if count == 1:
        return Interval(mean=mean, low=None, high=None)
    spread = sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_quantile(0.5 + level / 2, count - 1) * spread / sqrt(count)
    return Interval(mean=mean, low=mean - half, high=mean + half)


def student_quantile(probability: float, freedom: int) -> float:
    """The value below which Student's t with that many degrees of freedom stays with a probability of 0.5 or more."""
    assert 0.5 <= probability < 1.0, probability
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def student_cdf(t: float, freedom: int) -> float:
    """Probability that Student's t is below t >= 0: 1 - I_x(f/2, 1/2) / 2 with x = f / (f + t^2)."""
    return 1.0 - _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x > (a + 1) / (a + b + 2):  # where the fraction of the complement converges faster
        return 1.0 - front * _fraction(b, a, 1.0 - x) / b
    return front * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation of the continued fraction of the incomplete beta function."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    total = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            total *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    assert isfinite(total)
    return total
