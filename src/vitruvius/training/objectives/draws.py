"""Random choices that depend on the sample alone, so that a resumed run makes them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data import Batch


def generators(batch: Batch, seed: int) -> Iterator[np.random.Generator]:
    """One generator for each row of a batch: a function of seed, epoch, sample and the row's place in the sample."""
    rows = batch.rows_per_sample
    for sample, epoch in zip(batch.sample_ids.tolist(), batch.epochs.tolist(), strict=True):
        for row in range(rows):
            entropy = [seed, epoch, sample] if rows == 1 else [seed, epoch, sample, row]
            yield np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
