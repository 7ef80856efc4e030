"""The batches of a run: a function of the seed and the step and nothing else, so resuming needs only the step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, final

from vitruvius.data.packing.curriculum import context_at
from vitruvius.data.packing.drawing import Drawing, Part
from vitruvius.data.packing.efficiency import Efficiency, together
from vitruvius.data.packing.index import DEFAULT_SOURCE
from vitruvius.data.packing.sample import PADDING, Sample, Stretch
from vitruvius.data.packing.samples import samples_of
from vitruvius.data.packing.shuffle import shuffled
from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from vitruvius.data.packing.curriculum import Stage
    from vitruvius.data.packing.pairs import PairLimits, PairUse
    from vitruvius.data.packing.plans import Packing
    from vitruvius.data.packing.samples import Samples
    from vitruvius.data.packing.shards import TokenShards
    from vitruvius.data.packing.stream import TokenStream

Order = Literal["shuffled", "in-order"]
Sources = Literal["apart", "together"]
"""`apart`: each source has samples of its own, drawn by weight. `together`: the split is one stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step reads. S samples of R rows each make B = S R rows of T tokens; mostly R is 1 (see
    `rows_per_sample`).
    """

    inputs: np.ndarray
    """Tokens, int64 [B, T]; the separator at padding."""
    targets: np.ndarray
    """The token after each input, int64 [B, T]; -100 where there is none to be predicted."""
    documents: np.ndarray
    """Which document of its source each input belongs to, int64 [B, T]; a separator belongs to the one it ends, and -1
    is padding."""
    crosses: np.ndarray
    """Whether the target belongs to the next document (the input is a separator), bool [B, T]."""
    sample_ids: np.ndarray
    """Which sample of the epoch each is, int64 [S]; those of a source come after those of the sources before it."""
    epochs: np.ndarray
    """In which pass over its source each sample is, int64 [S]."""

    @property
    def sample_digest(self) -> str:
        """16 hexadecimal digits of SHA-256 over epochs and sample ids: equal streams have equal digests."""
        return sample_digest(self.epochs, self.sample_ids)

    @property
    def rows_per_sample(self) -> int:
        """Into how many rows each sample is cut: by a stage of a curriculum, or because its rows are that short."""
        return len(self.inputs) // len(self.sample_ids)

    @property
    def padding(self) -> int:
        """Places without a token."""
        return int((self.documents == PADDING).sum())

    @property
    def tokens(self) -> int:
        """Inputs that are no padding."""
        return self.inputs.size - self.padding

    @property
    def context(self) -> int:
        """Tokens per row."""
        return self.inputs.shape[1]

    def take(self, samples: np.ndarray) -> Batch:
        """The batch of some of its samples, by their places in it."""
        import numpy as np

        rows = self.rows_per_sample
        at = (samples[:, None] * rows + np.arange(rows)).ravel()
        arrays = {name: getattr(self, name)[at] for name in ROW_ARRAYS}
        return replace(self, **arrays, sample_ids=self.sample_ids[samples], epochs=self.epochs[samples])


ROW_ARRAYS = ("inputs", "targets", "documents", "crosses")
"""The arrays of a batch with a line for each row; the others have one for each sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Which samples a step reads, before a token of them is read."""

    parts: np.ndarray
    """The part of the data that each is of, int64 [S]."""
    numbers: np.ndarray
    """Which sample of its part each is, int64 [S]."""
    sample_ids: np.ndarray
    """As in the batch, int64 [S]."""
    epochs: np.ndarray
    """As in the batch, int64 [S]."""
    context: int
    """Tokens per row."""

    @property
    def sample_digest(self) -> str:
        """That of the batch."""
        return sample_digest(self.epochs, self.sample_ids)


def sample_digest(epochs: np.ndarray, sample_ids: np.ndarray) -> str:
    """16 hexadecimal digits of SHA-256 over epochs and sample ids."""
    return hashlib.sha256(epochs.astype("<i8").tobytes() + sample_ids.astype("<i8").tobytes()).hexdigest()[:16]


def chained(digest: str, batch_digest: str) -> str:
    """The digest of a stream that goes on with one more batch: 16 hexadecimal digits."""
    return hashlib.sha256((digest + batch_digest).encode()).hexdigest()[:16]


@final
class PackedBatches:
    """Samples of one length, each once per epoch of its source; sources take turns by weight.

    An epoch may end in the middle of a batch.
    """

    __slots__ = (
        "_drawing",
        "batch",
        "context",
        "curriculum",
        "left_out",
        "mix",
        "order",
        "packing",
        "pairs",
        "seed",
        "shards",
        "shares",
        "sources",
        "windows",
    )

    def __init__(
        self,
        shards: TokenShards,
        *,
        batch: int,
        context: int,
        seed: int = 0,
        order: Order = "shuffled",
        packing: Packing = "stream",
        sources: Sources = "apart",
        mix: Mapping[str, float] | None = None,
        curriculum: Sequence[Stage] = (),
        pairs: PairLimits | None = None,
    ) -> None:
        """Make samples of `context` tokens of `shards`, `batch` of them per step.

        pairs: samples are pairs under these limits, in rows of `pairs.row` tokens, whatever context and packing say.

        mix: weight of each source, by name; 0 leaves one out. When not given, those that the data was prepared with,
        or as much of each as there is.

        Raises:
            UsageError: `batch` or `context` is below 1, `mix` does not name just the sources that there are, a stage of
                the curriculum does not divide the context, or rows have lengths of their own.
            DataError: a source that is to be drawn from is shorter than one sample.
        """
        if pairs is not None:
            context, packing = pairs.row, "pairs"
        _refuse(batch, context, packing, curriculum)
        self.pairs = pairs
        self.shards = shards
        self.batch = batch
        self.context = context
        self.seed = seed
        self.order: Order = order
        self.packing: Packing = packing
        self.sources: Sources = sources
        self.mix = None if mix is None else dict(mix)
        self.curriculum = tuple(curriculum)
        streams = {DEFAULT_SOURCE: shards.stream}
        if sources == "apart":
            streams = {name: shards.source_stream(name) for name in shards.sources}
        asked = _weights(shards, mix) if sources == "apart" else None
        # A source that is left out needs no plan.
        found = {
            name: samples_of(stream, context, packing=packing, eos_id=shards.eos_id, pairs=pairs)
            for name, stream in streams.items()
            if asked is None or asked.get(name, 0) > 0
        }
        found = {name: [part for part in parts if part.count] for name, parts in found.items()}
        self._refuse_short(found, asked)
        # Where nobody gave weights, a source without a sample has no turn.
        found = {name: parts for name, parts in found.items() if parts}
        self._drawing = Drawing(found, batch=batch, weights=asked)
        self.shares = self._drawing.shares
        """The sources that are drawn from."""
        self.windows = sum(share.samples for share in self.shares)
        """Samples per epoch, of all sources that are drawn from."""
        self.left_out = tuple(name for name in streams if name not in found)
        """Those that are not: their weight is 0, or they are shorter than a sample and nobody gave them a weight."""

    def at(self, step: int) -> Batch:
        """The batch of `step`, counted from 0; the same for every call and in any order of calls."""
        return self._read(self.drawn(step))

    def drawn(self, step: int) -> Drawn:
        """Which samples the batch of `step` consists of; reads nothing."""
        assert step >= 0
        parts, before = self._drawing.at(step)
        counts = self._counts()[parts]
        return self._drawn(parts, before // counts, before % counts, context_at(self.curriculum, step, self.context))

    def sample(self, drawn: Drawn, place: int) -> Sample:
        """One of the samples that were drawn, not cut into rows.

        Raises:
            DataError: a shard is damaged there; names the file and the byte offset.
        """
        return self._drawing.parts[int(drawn.parts[place])].samples.read(int(drawn.numbers[place]))

    def source(self, drawn: Drawn, place: int) -> str:
        """The source that a sample is of."""
        return self._drawing.parts[int(drawn.parts[place])].source

    def stretches(self, drawn: Drawn, place: int) -> list[Stretch]:
        """The stretches of its source's stream that a sample is made of."""
        return self._drawing.parts[int(drawn.parts[place])].samples.stretches(int(drawn.numbers[place]))

    def stream(self, drawn: Drawn, place: int) -> TokenStream:
        """The stream of the source that a sample is of."""
        return self._drawing.parts[int(drawn.parts[place])].samples.stream

    def stacked(self, drawn: Drawn, samples: Sequence[Sample], places: Sequence[int]) -> Batch:
        """The batch of some of the samples that were drawn: those at these places in it."""
        import numpy as np

        at = np.array(places, dtype=np.int64)
        return Batch(
            **{name: _stacked(samples, name, drawn.context) for name in ROW_ARRAYS},
            sample_ids=drawn.sample_ids[at],
            epochs=drawn.epochs[at],
        )

    def once(self) -> Iterator[Batch]:
        """Every sample once, as in epoch 0, part after part; the last batch of each may be smaller. For validation."""
        import numpy as np

        for number, count in enumerate(self._counts().tolist()):
            for first in range(0, count, self.batch):
                places = np.arange(first, min(first + self.batch, count), dtype=np.int64)
                yield self._read(self._drawn(np.full_like(places, number), np.zeros_like(places), places, self.context))

    def pair_use(self) -> PairUse | None:
        """What the limits of pairs make of them; None where samples are no pairs."""
        from vitruvius.data.packing.pairs import PairSamples

        found = [part.samples for part in self._drawing.parts]
        return next((samples.use for samples in found if isinstance(samples, PairSamples)), None)

    def epochs(self, steps: int) -> dict[str, float]:
        """How often each source is read in so many steps, by name."""
        drawn = self._drawing.drawn(steps)
        return {share.source: drawn[share.source] / share.samples for share in self.shares}

    def efficiency(self) -> dict[str, Efficiency]:
        """What packing makes of each source that is drawn from, by name."""
        found: dict[str, list[Efficiency]] = {}
        for part in self._drawing.parts:
            found.setdefault(part.source, []).append(part.samples.efficiency())
        return {source: together(parts) for source, parts in found.items()}

    def _counts(self) -> np.ndarray:
        import numpy as np

        return np.array([part.samples.count for part in self._drawing.parts], dtype=np.int64)

    def _drawn(self, parts: np.ndarray, epochs: np.ndarray, positions: np.ndarray, context: int) -> Drawn:
        import numpy as np

        numbers = positions.copy()
        if self.order == "shuffled":
            # A batch touches one epoch of a source, or two where one ends; more only when it is larger than an epoch.
            met: set[tuple[int, int]] = set(zip(parts.tolist(), epochs.tolist(), strict=True))
            for part, epoch in met:
                here = (parts == part) & (epochs == epoch)
                numbers[here] = shuffled(
                    positions[here],
                    self._drawing.parts[part].samples.count,
                    seed=self.seed,
                    epoch=epoch,
                    of=self._name(self._drawing.parts[part]),
                )
        held = self._drawing.parts
        first = np.array([part.first for part in held], dtype=np.int64)
        return Drawn(
            parts=parts,
            numbers=numbers,
            sample_ids=first[parts] + numbers,
            epochs=epochs,
            context=min(context, held[int(parts[0])].samples.row),
        )

    def _read(self, drawn: Drawn) -> Batch:
        places = range(len(drawn.numbers))
        return self.stacked(drawn, [self.sample(drawn, place) for place in places], places)

    def _name(self, part: Part) -> str:
        """What tells the order of a part from that of others; nothing where there is one part."""
        source = "" if part.source == DEFAULT_SOURCE else part.source
        return source if part.samples.row == self.context else f"{source}/{part.samples.row}"

    def _refuse_short(self, found: Mapping[str, Sequence[Samples]], asked: dict[str, float] | None) -> None:
        """Raise DataError where there is nothing to draw from."""
        context, shards = self.context, self.shards
        if not any(found.values()):
            if self.packing != "stream":
                what = f"no document of the {shards.split} split has a token to predict from the one before"
                raise DataError(what, where=str(shards.directory), fix="prepare more text, or use packing: stream")
            most = max([source.tokens for source in shards.sources.values()] if len(found) > 1 else [shards.tokens])
            who = f"the {shards.split} split has" if len(found) == 1 else f"no source of {shards.split} has more than"
            raise DataError(
                f"{who} {most:,} tokens; one window of context {context:,} needs {context + 1:,}",
                where=str(shards.directory),
                fix=f"use a --context of at most {max(1, most - 1):,}, or prepare more text",
            )
        short = next((name for name, parts in found.items() if not parts), None)
        if short is not None and asked is not None:
            tokens = shards.sources[short].tokens
            others = ", ".join(f"{name}: {0 if name == short else asked.get(name, 0):g}" for name in shards.sources)
            raise DataError(
                f"source {short} has {tokens:,} tokens; one window of context {context:,} needs {context + 1:,}",
                where=str(shards.directory),
                fix=f"leave it out with --set 'train.mix={{{others}}}', or use a shorter --context or packing=best-fit",
            )


def _refuse(batch: int, context: int, packing: Packing, curriculum: Sequence[Stage]) -> None:
    """Raise UsageError for what cannot be meant, whatever the data."""
    for name, value in (("--batch", batch), ("--context", context)):
        if value < 1:
            raise UsageError(f"{value} is below 1", where=name, fix="use a whole number from 1 on")
    for stage in curriculum:
        if stage.context < 1 or context % stage.context:
            what = f"samples of {context:,} tokens cannot be cut into equal pieces of {stage.context:,}"
            raise UsageError(what, where="train.curriculum", fix=f"use lengths that divide {context:,}")
    if curriculum and packing in {"by-length", "pairs"}:
        what = f"the rows of {packing} have lengths of their own, which no stage can cut"
        raise UsageError(what, where="train.curriculum", fix="leave the curriculum out, or use packing: best-fit")


def _weights(shards: TokenShards, mix: Mapping[str, float] | None) -> dict[str, float] | None:
    """The weight of each source by name; None: as many samples as there are."""
    sources = shards.sources
    if mix is None:
        # Of a source that nothing is left of, nothing can be drawn, whatever its weight was to be.
        given = {name: source.weight for name, source in sources.items() if source.documents}
        weights = {name: weight for name, weight in given.items() if weight is not None}
        if weights and not any(weights.values()):
            what = "nothing is left of the sources that the data was prepared to be drawn from"
            others = ", ".join(f"{name}: {1 if source.documents else 0}" for name, source in sources.items())
            fix = f"give others a weight: --set 'train.mix={{{others}}}'"
            raise DataError(what, where=str(shards.directory), fix=fix)
        return weights or None
    known = ", ".join(sources)
    for name, weight in mix.items():
        if name not in sources:
            what = f"the data has no source {name!r}"
            raise UsageError(what, where=f"train.mix.{name}", fix=f"its sources are {known}")
        if not 0 <= weight < float("inf"):
            raise UsageError(f"{weight} is no weight", where=f"train.mix.{name}", fix="use a number from 0")
    missing = next((name for name in sources if name not in mix), None)
    if missing is not None:
        what = f"source {missing!r} has no weight"
        raise UsageError(what, where="train.mix", fix=f"name every source ({known}); 0 leaves one out")
    if not any(mix.values()):
        raise UsageError("every source has the weight 0", where="train.mix", fix="give one of them a weight above 0")
    return dict(mix)


def _stacked(samples: Sequence[Sample], name: str, context: int) -> np.ndarray:
    """One array of the samples, each cut into rows of `context`."""
    import numpy as np

    return np.stack([getattr(sample, name) for sample in samples]).reshape(-1, context)
