"""Validation: the loss on held-out text, per token and per byte, always over the same samples.

    loss            = sum of -ln p(target) over the scored targets / number of targets               nats per token
    bits_per_byte   = sum of -ln p(target) / ln 2 / UTF-8 bytes of the text of the same targets

Targets are every token of the sampled windows but the first of the split. A separator is a target like any other and
stands for no bytes, so models pay for ending documents. Bits per byte compare across tokenizers, nats per token do not.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from vitruvius.data import PackedBatches
from vitruvius.runs.shortage import is_out_of_memory
from vitruvius.training.engines.local import LocalEngine
from vitruvius.training.pieces import Shortage
from vitruvius.training.scoring_pairs import PairScoring

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vitruvius.data import Batch, TokenShards
    from vitruvius.nn import Model
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines import Engine
    from vitruvius.training.objectives import Objective, Piece
    from vitruvius.training.objectives.base import Judged
    from vitruvius.training.pieces import Slices
    from vitruvius.training.stopping import StopRequest

SAMPLE_SEED = 0
"""Orders the held-out windows: the same for every run, so that runs with equal batch and context compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Loss on held-out text."""

    loss: float
    """Nats per token."""
    bits_per_byte: float | None
    """None when the scored text has no bytes."""
    tokens: int
    """Targets scored."""
    text_bytes: int
    """UTF-8 bytes they stand for."""
    whole: bool
    """Whether every window of the split was scored."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the objective knows besides, by name: `masked_accuracy`, or `exact_match` and `f1` of pairs."""


@final
class Validation:
    """The held-out split, cut into windows of the training context (or of the split's length, when it is shorter)."""

    def __init__(
        self,
        shards: TokenShards,
        config: TrainConfig,
        objective: Objective,
        device: torch.device,
        engine: Engine | None = None,
    ) -> None:
        """Raise DataError when the split holds fewer than two tokens."""
        assert config.context is not None
        context = max(1, min(config.context, shards.tokens - 1))
        of_pairs = config.objective == "seq2seq"
        self.engine: Engine = engine or LocalEngine()
        # As many windows at a time as a process has in training, so that validation fits where training does.
        self.per_batch = config.accumulate * self.engine.shares
        size = config.batch // self.per_batch
        self.batches = PackedBatches(
            shards,
            batch=size,
            context=context,
            seed=SAMPLE_SEED,
            sources="together",
            pairs=config.pairs.limits(config.context) if of_pairs else None,
        )
        self.pairs = PairScoring(shards, config) if of_pairs and config.pairs.score else None
        self.slices: Slices | None = None
        """How many windows are scored at a time where memory has run out; None: nobody looks, and such an error goes
        on its way."""
        self.objective = objective
        self.device = device
        self.byte_lengths = shards.tokenizer().byte_lengths

    @torch.no_grad()
    def score(self, model: Model, batches: int | None, stop: StopRequest) -> Score | None:
        """Score `batches` training batches' worth of windows, or all of them; None when asked to stop meanwhile.

        The processes of an engine take turns; the score is that of all windows.
        """
        engine = self.engine
        limit = None if batches is None else batches * self.per_batch
        nats, tokens, text_bytes, windows = 0.0, 0, 0, 0
        means = {name: [0.0, 0.0] for name in self.objective.judges}
        was_training = model.training
        model.eval()
        try:
            for together in rounds(itertools.islice(self.batches.once(), limit), engine.shares):
                if engine.agree_to_stop(stop):
                    return None
                has_own = engine.share_rank < len(together)
                if not has_own and engine.has_whole_model:
                    continue
                # In the last round some have none left: where weights are shared they compute with the others.
                for piece, judged in self._judged(model, together[engine.share_rank if has_own else 0]):
                    if not has_own:
                        continue
                    nats += float(judged.nats_BT.double().sum())
                    for name, parts in judged.means.items():
                        means[name] = [sum(two) for two in zip(means[name], parts, strict=True)]
                    scored = piece.targets[piece.targets >= 0].cpu().numpy()
                    tokens += scored.size
                    text_bytes += int(self.byte_lengths[scored].sum())
                    windows += len(piece.tokens)
            metrics = {} if self.pairs is None else self.pairs.score(model, engine, stop)
            if metrics is None:
                return None
        finally:
            model.train(was_training)
        sums = engine.total([nats, tokens, text_bytes, windows, *itertools.chain(*means.values())])
        nats, (tokens, text_bytes, windows) = sums[0], map(int, sums[1:4])
        for name, total, count in zip(means, sums[4::2], sums[5::2], strict=True):
            metrics[name] = total / count
        return Score(
            loss=nats / tokens,
            bits_per_byte=nats / math.log(2) / text_bytes if text_bytes else None,
            tokens=tokens,
            text_bytes=text_bytes,
            whole=windows == self.batches.windows,
            metrics=metrics,
        )

    def _judged(self, model: Model, batch: Batch) -> Iterator[tuple[Piece, Judged]]:
        """The windows of a batch, all at once, or as many at a time as fit into memory."""
        start, count = 0, len(batch.sample_ids)
        while start < count:
            at_a_time = count if self.slices is None else self.slices.at_a_time(count)
            stop = min(count, start + at_a_time)
            part = batch if stop - start == count else batch.take(np.arange(start, stop))
            short: Shortage | None = None
            try:
                (piece,) = self.objective.pieces(part, 1, self.device)
                found = piece, self.engine.entered(partial(self.objective.judge, model, piece))
            except Exception as error:
                if self.slices is None or not is_out_of_memory(error):
                    raise
                short = Shortage.of(error, process=self.engine.rank)
            # Outside of the block that has caught it: its frames hold the pass.
            if short is not None and self.slices is not None:
                self.slices.shorten(stop - start, short)
                continue
            yield found
            start = stop


def rounds(batches: Iterable[Batch], shares: int) -> Iterator[list[Batch]]:
    """Batches in groups of as many as there are shares; the last group may be smaller."""
    following = iter(batches)
    while together := list(itertools.islice(following, shares)):
        yield together
