"""Validation: the loss on held-out text, per token and per byte, always over the same samples.

    loss            = sum of -ln p(target) over the scored targets / number of targets               nats per token
    bits_per_byte   = sum of -ln p(target) / ln 2 / UTF-8 bytes of the text of the same targets

Targets are every token of the sampled windows but the first of the split. A separator is a target like any other and
stands for no bytes, so models pay for ending documents. Bits per byte compare across tokenizers, nats per token do not.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from vitruvius.data import PackedBatches
from vitruvius.training.engines.local import LocalEngine

if TYPE_CHECKING:
    from vitruvius.data import TokenShards
    from vitruvius.nn import Model
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines import Engine
    from vitruvius.training.objectives import Objective
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
        self.engine: Engine = engine or LocalEngine()
        # As many windows at a time as a process has in training, so that validation fits where training does.
        self.per_batch = config.accumulate * self.engine.ranks
        size = config.batch // self.per_batch
        self.batches = PackedBatches(shards, batch=size, context=context, seed=SAMPLE_SEED, sources="together")
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
        was_training = model.training
        model.eval()
        try:
            for number, batch in enumerate(itertools.islice(self.batches.once(), limit)):
                if number % engine.ranks == 0 and engine.agree_to_stop(stop):
                    return None
                if number % engine.ranks != engine.rank:
                    continue
                (piece,) = self.objective.pieces(batch, 1, self.device)
                nats += float(self.objective.score(model, piece).double().sum())
                scored = piece.targets[piece.targets >= 0].cpu().numpy()
                tokens += scored.size
                text_bytes += int(self.byte_lengths[scored].sum())
                windows += len(batch.sample_ids)
        finally:
            model.train(was_training)
        sums = engine.total([nats, tokens, text_bytes, windows])
        nats, (tokens, text_bytes, windows) = sums[0], map(int, sums[1:])
        return Score(
            loss=nats / tokens,
            bits_per_byte=nats / math.log(2) / text_bytes if text_bytes else None,
            tokens=tokens,
            text_bytes=text_bytes,
            whole=windows == self.batches.windows,
        )
