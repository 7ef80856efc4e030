"""What a batch is drawn from: samples of one source and one length of rows are a part, parts of one length a group.

A batch is of one group, so that all of its rows are equally long. Groups take turns batch by batch, and the sources
within a group sample by sample, both by weight and both from the number of the step alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, final

from vitruvius.data.packing.mixing import Turns, whole_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from vitruvius.data.packing.samples import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Samples of one source with rows of one length."""

    source: str
    samples: Samples
    first: int
    """The number of the first of them among all samples of an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a source is to a run."""

    source: str
    share: float
    """Part of all samples that are its own."""
    samples: int
    """Its samples per epoch."""
    first_sample: int
    """Number of the first of them among the samples of all sources."""
    bound: float
    """After any number of steps its count of samples is within this of its share of them."""


@final
class Drawing:
    """Which samples a step reads."""

    __slots__ = ("_batch", "_groups", "_inner", "_outer", "parts", "shares")

    def __init__(
        self, samples: Mapping[str, Sequence[Samples]], *, batch: int, weights: Mapping[str, float] | None
    ) -> None:
        """Draw `batch` samples a step; `samples` are those of each source, none of them empty.

        weights: of each source; None draws from each as much as it holds. Within a source each length of rows is drawn
        as often as it holds samples.
        """
        self._batch = batch
        parts: list[Part] = []
        first = 0
        for source, held in samples.items():
            for part in held:
                parts.append(Part(source=source, samples=part, first=first))
                first += part.count
        self.parts = tuple(parts)
        counts = {name: sum(part.count for part in held) for name, held in samples.items()}
        exact = _exact(weights, counts)
        of_part = [exact[part.source] * Fraction(part.samples.count, counts[part.source]) for part in parts]
        rows = sorted({part.samples.row for part in parts}, reverse=True)
        self._groups = [[n for n, part in enumerate(parts) if part.samples.row == row] for row in rows]
        self._inner = [Turns(_whole([of_part[n] for n in group])) for group in self._groups]
        self._outer = Turns(_whole([sum((of_part[n] for n in group), Fraction(0)) for group in self._groups]))
        self.shares = tuple(self._share(name, counts[name]) for name in samples)
        """By source."""

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of each of the step's samples, and how many of that part came before: int64."""
        import numpy as np

        groups, numbers = self._outer.draw(step, 1)
        group, before = int(groups[0]), int(numbers[0])
        chosen, places = self._inner[group].draw(before * self._batch, self._batch)
        return np.array(self._groups[group], dtype=np.int64)[chosen], places

    def drawn(self, steps: int) -> dict[str, int]:
        """How many samples of each source so many steps read."""
        found = dict.fromkeys((share.source for share in self.shares), 0)
        for group, inner, number in zip(self._groups, self._inner, self._outer.counts(steps), strict=True):
            for part, count in zip(group, inner.counts(number * self._batch), strict=True):
                found[self.parts[part].source] += count
        return found

    def _share(self, source: str, samples: int) -> Share:
        share = bound = 0.0
        groups = zip(self._groups, self._inner, self._outer.shares, self._outer.bounds(), strict=True)
        for group, inner, outer_share, outer_bound in groups:
            for part, inner_share, inner_bound in zip(group, inner.shares, inner.bounds(), strict=True):
                if self.parts[part].source == source:
                    share += outer_share * inner_share
                    bound += inner_bound + inner_share * outer_bound * self._batch
        first = next(part.first for part in self.parts if part.source == source)
        return Share(source=source, share=share, samples=samples, first_sample=first, bound=bound)


def _exact(weights: Mapping[str, float] | None, counts: Mapping[str, int]) -> dict[str, Fraction]:
    if weights is None:
        return {name: Fraction(count) for name, count in counts.items()}
    whole = whole_weights([weights[name] for name in counts])
    return {name: Fraction(weight) for name, weight in zip(counts, whole, strict=True)}


def _whole(weights: Sequence[Fraction]) -> list[int]:
    """Whole numbers in these proportions."""
    unit = math.lcm(*(weight.denominator for weight in weights))
    return [int(weight * unit) for weight in weights]
