"""How a process of its own comes to the same batches: from plain data, so that nothing is pickled. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data.packing.batches import PackedBatches
from vitruvius.data.packing.curriculum import Stage
from vitruvius.data.packing.pairs import PairLimits
from vitruvius.data.packing.shards import TokenShards
from vitruvius.errors import DataError
from vitruvius.training.loading.reading import Reader
from vitruvius.training.preprocessing import Pipeline, find_hooks
from vitruvius.training.preprocessing.use import HookUse

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the batches of a run."""

    directory: str
    split: str
    fingerprint: str
    batches: Mapping[str, Any]
    """Arguments of `PackedBatches` as plain data."""
    hooks: tuple[HookUse, ...]
    vocab_size: int
    """The architecture's."""

    def to_plain(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Recipe:
        """What `to_plain` gave."""
        return cls(**{**plain, "hooks": tuple(HookUse(**use) for use in plain["hooks"])})

    def reader(self) -> Reader:
        """The batches, opened here.

        Raises:
            DataError: the data is gone, or another one by now.
            RunError, UsageError: a hook is gone, or another one by now.
        """
        shards = TokenShards.open(self.directory, self.split, verify="sizes")
        if shards.fingerprint != self.fingerprint:
            what = "the data was prepared anew while the run reads it"
            raise DataError(what, where=self.directory, fix="train on it into a new folder")
        stages, pairs = self.batches["curriculum"], self.batches["pairs"]
        parsed = {
            "curriculum": [Stage(**stage) for stage in stages],
            "pairs": None if pairs is None else PairLimits(**pairs),
        }
        batches = PackedBatches(shards, **{**self.batches, **parsed})
        return Reader(batches, pipeline_of(self.hooks, batches, vocab_size=self.vocab_size))


def recipe_of(batches: PackedBatches, hooks: tuple[HookUse, ...], *, vocab_size: int) -> Recipe:
    """How to come to these batches anywhere."""
    names = ("batch", "context", "seed", "order", "packing", "sources", "mix")
    return Recipe(
        directory=str(batches.shards.directory.resolve()),
        split=batches.shards.split,
        fingerprint=batches.shards.fingerprint,
        batches={
            **{name: getattr(batches, name) for name in names},
            "curriculum": [asdict(stage) for stage in batches.curriculum],
            "pairs": None if batches.pairs is None else asdict(batches.pairs),
        },
        hooks=hooks,
        vocab_size=vocab_size,
    )


def pipeline_of(uses: tuple[HookUse, ...], batches: PackedBatches, *, vocab_size: int) -> Pipeline:
    """The hooks over these batches. Raises as `find_hooks`."""
    shards = batches.shards
    return Pipeline(
        find_hooks(uses),
        seed=batches.seed,
        vocab_size=vocab_size,
        data_vocab_size=shards.vocab_size,
        eos_id=shards.eos_id,
    )
