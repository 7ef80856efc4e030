"""Prepared data as a dataset that Hugging Face's Trainer (or any torch DataLoader) reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from torch.utils.data import Dataset

from vitruvius.data import PackedBatches, TokenShards
from vitruvius.errors import UsageError
from vitruvius.training.checking import ensure
from vitruvius.training.config import TrainConfig, batches_of, ensure_right_data

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from vitruvius.data import Batch
    from vitruvius.spec import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sample; no mapping, so that the Trainer takes no key of it away."""

    inputs: np.ndarray
    targets: np.ndarray
    documents: np.ndarray
    crosses: np.ndarray
    sample: int
    epoch: int


@final
class Rows(Dataset[Row]):
    """The samples of a split, as our own loop would make them of the same settings.

    order `given`: sample i of the split, each once; the Trainer shuffles, and tells the epoch, so that each epoch
    hides other tokens. order `training`: the samples of update 0, 1, ... of our loop one after another, for
    `TrainingArguments(train_sampling_strategy="sequential")`, which makes both see the same batches.
    """

    def __init__(
        self,
        data: Path | str,
        architecture: Architecture,
        config: TrainConfig | None = None,
        *,
        split: Literal["train", "validation"] = "train",
        order: Literal["given", "training"] = "given",
        most: int | None = None,
    ) -> None:
        """Open the data. config: objective, context, packing, pairs and, with order `training`, batch, steps and seed.

        most: have at most so many. Raises DataError when the data is damaged, not of the kind that the objective reads,
        or has no sample; SpecError when config and architecture do not fit; UsageError for `most` below 1.
        """
        config = ensure(config or TrainConfig(), architecture)
        if most is not None and most < 1:
            raise UsageError(f"most={most} leaves no sample", fix="use a whole number from 1")
        assert config.context is not None
        self.config, self.order, self.epoch = config, order, 0
        shards = TokenShards.open(data, split, verify=config.data_check)
        ensure_right_data(data, config)
        self.eos_id, self.vocab_size = shards.eos_id, shards.vocab_size
        if order == "training":
            self.batches = batches_of(shards, config)
            count = config.steps * config.batch
        else:
            pairs = config.pairs.limits(config.context) if config.objective == "seq2seq" else None
            self.batches = PackedBatches(
                shards,
                batch=1,
                context=config.context,
                order="in-order",
                packing=config.packing,
                sources="together",
                pairs=pairs,
            )
            count = self.batches.windows
        self.count = count if most is None else min(count, most)
        self._last: tuple[int, Batch] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Row:
        if not 0 <= number < self.count:
            raise IndexError(number)
        step, place = divmod(number, self.config.batch) if self.order == "training" else (number, 0)
        if self._last is None or self._last[0] != step:
            self._last = step, self.batches.at(step)
        batch = self._last[1]
        rows = slice(place * batch.rows_per_sample, (place + 1) * batch.rows_per_sample)
        return Row(
            inputs=batch.inputs[rows],
            targets=batch.targets[rows],
            documents=batch.documents[rows],
            crosses=batch.crosses[rows],
            sample=int(batch.sample_ids[place]),
            epoch=int(batch.epochs[place]) if self.order == "training" else self.epoch,
        )

    def set_epoch(self, epoch: int) -> None:
        """Told by the Trainer's loader when an epoch begins."""
        self.epoch = epoch
