"""ZClip: gradients whose norm is an outlier among those of the run so far are scaled down.

Source: Kumar, Owen, Chowdhury and Guera, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", 2025
(arXiv:2504.02507), with reciprocal clipping; the order in which mean and variance move is that of their code.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, cast, final

from vitruvius.training.companions import Companion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.training.settings import ZClipSettings

_LEAST_DEVIATION = 1e-6
"""Added to the standard deviation that a norm is measured by."""


@final
class ZClip(Companion):
    """A running mean and variance of the gradients' norm, and the limit that follows from them.

    With mean m, deviation s and z = (g - m) / s of a norm g: while z is at most the limit Z, g stays; else it becomes
    m + s * Z^2 / z, which is the closer to m the further out g is. The statistics then move towards what g became, so
    that one spike does not make room for the next. All in fp64.
    """

    name: ClassVar[str] = "zclip"

    def __init__(self, settings: ZClipSettings) -> None:
        self.settings = settings
        self._first: list[float] = []
        """Norms of the warm-up; empty once mean and variance are known."""
        self._mean: float | None = None
        self._variance = 0.0

    def limit(self, norm: float) -> float | None:
        """What a norm is to be scaled down to; None where it may stay. Changes nothing."""
        if self._mean is None:
            return None
        deviation = math.sqrt(self._variance)
        z = (norm - self._mean) / (deviation + _LEAST_DEVIATION)
        if z <= self.settings.z:
            return None
        return self._mean + deviation * self.settings.z**2 / z

    def applied(self, norm: float) -> None:
        """An update was applied whose gradients had this norm before anything scaled them down."""
        if self._mean is None:
            self._first.append(norm)
            if len(self._first) >= self.settings.warmup:
                count = len(self._first)
                self._mean = math.fsum(self._first) / count
                self._variance = math.fsum((each - self._mean) ** 2 for each in self._first) / count
                self._first = []
            return
        limit, decay = self.limit(norm), self.settings.decay
        moved = norm if limit is None else limit
        self._mean = decay * self._mean + (1.0 - decay) * moved
        self._variance = decay * self._variance + (1.0 - decay) * (moved - self._mean) ** 2

    def state(self) -> dict[str, Any]:
        """Mean, variance, and the norms of a warm-up that is not over."""
        return {"first": list(self._first), "mean": self._mean, "variance": self._variance}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises ValueError when that is not what it can have given."""
        first, mean, variance = state.get("first"), state.get("mean"), state.get("variance")
        numbers = cast("list[Any]", first if isinstance(first, list) else [None])
        if not all(_is_norm(each) for each in numbers) or len(numbers) >= self.settings.warmup:
            raise ValueError("the first norms are no list of numbers, or too many")
        if not (mean is None or _is_norm(mean)) or not _is_norm(variance):
            raise ValueError("mean or variance is no number from 0 on")
        if mean is not None and numbers:
            raise ValueError("there are first norms beside a mean")
        self._first, self._mean = [float(each) for each in numbers], None if mean is None else float(mean)
        self._variance = float(cast("float", variance))


def _is_norm(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
