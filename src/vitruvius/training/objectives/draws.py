"""Random choices that depend on the sample alone, so that a resumed run makes them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data import Batch


def generators(batch: Batch, seed: int) -> Iterator[np.random.Generator]:
    """One generator for each sample of a batch: a function of the seed, the epoch and the sample."""
    for sample, epoch in zip(batch.sample_ids.tolist(), batch.epochs.tolist(), strict=True):
        yield np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, sample])))
