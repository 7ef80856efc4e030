"""Training's step as something to time: forward, backward and update over one batch, as `vitruvius train` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.autograd.profiler import record_function

from vitruvius.data import Batch
from vitruvius.evals.jobs import DECODE_PHASE, PREFILL_PHASE, Phase, Sample, Subject, weights_of
from vitruvius.nn.ops import keep_freed_memory
from vitruvius.nn.updates import after_step
from vitruvius.nn.weights import tables_that_grow
from vitruvius.training.config import TrainConfig, resolved
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

_RATE = 1e-6
"""Small enough for a thousand steps on one batch to leave the weights as they are, in effect."""


class TrainStep:
    """One update on one batch of random tokens: the natural objective of the architecture, and AdamW."""

    def __init__(self, subject: Subject, length: int) -> None:
        self.subject = subject
        self.tokens = subject.batch * length
        model = subject.model
        for table in tables_that_grow(model).values():
            table.grow(length)
        wanted = TrainConfig(batch=subject.batch, context=length, seed=subject.seed, steps=1, lr=_RATE)
        config = resolved(wanted, model.architecture)
        self.objective = make_objective(config)
        self.optimizer = make_optimizer(model, config)
        ids = torch.cat([subject.tokens(length), subject.tokens(length + 1)[:, -1:]], dim=1).cpu().numpy()
        zeros = np.zeros((subject.batch, length), dtype=np.int64)
        self.batch = Batch(
            inputs=ids[:, :-1],
            targets=ids[:, 1:],
            documents=zeros,
            crosses=zeros.astype(bool),
            sample_ids=np.arange(subject.batch, dtype=np.int64),
            epochs=np.zeros(subject.batch, dtype=np.int64),
        )
        after_step(model)
        keep_freed_memory()  # as training does

    def held(self) -> Iterable[Tensor]:
        """Weights, masters and moments; gradients come and go within a step."""
        return [*weights_of(self.subject.model), *self.optimizer.tensors().values()]

    def reset(self) -> None:
        """Train mode, and this subject's backend."""
        self.subject.model.backend = self.subject.backend
        self.subject.model.train()

    def run(self) -> None:
        """Forward, backward, update."""
        model = self.subject.model
        (piece,) = self.objective.pieces(self.batch, 1, model.device)
        result = self.objective.train(model, piece)
        with record_function("backward"):
            result.objective.backward()
        with record_function("optimizer"):
            self.optimizer.step(lr=_RATE, clip=1.0)
            self.optimizer.zero_grad()
            after_step(model)
        self.subject.wait()

    def sample(self) -> Sample:
        """The whole step."""
        return Sample(before=lambda: None, run=self.run, covers="")


TRAIN_PHASE = Phase(
    name="train",
    about="one update on sequences of this length",
    prepare=TrainStep,
    disturbs="the C library keeps freed memory from then on, as it does while training",
    refusal=lambda _: "",
)

PHASES: dict[str, Phase] = {phase.name: phase for phase in (PREFILL_PHASE, DECODE_PHASE, TRAIN_PHASE)}
"""What `vitruvius bench --phases` takes, in the order in which it runs."""
