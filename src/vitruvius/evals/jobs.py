"""What is timed: reading a prompt, and one step of decoding after a context. Training's step stands in `lab.steps`.

A job is prepared once for a model, a batch and a length, and then run many times, each time from the same state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from vitruvius.inference.generate import PREFILL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from vitruvius.nn import Cache, Model
    from vitruvius.nn.place import BackendName
    from vitruvius.spec import Graph

_PATTERN = 1 << 20
"""Numbers drawn to fill a cache with; they are repeated, since drawing costs more than reading ever will."""
_PROFILED = 8 * PREFILL
"""Tokens of a prompt that are profiled at most: a profiler keeps every operation, and a long prompt has millions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A built model, and how it is to be run."""

    name: str
    model: Model
    batch: int
    backend: BackendName
    seed: int

    def tokens(self, length: int) -> Tensor:
        """Random ids, int64 [B, T]; the same for equal seeds."""
        generator = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(self.model.architecture.vocab_size, (self.batch, length), generator=generator)
        return ids.to(self.model.device)

    def wait(self) -> None:
        """Return once the device has done all it was given."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The part of a run that a profiler records, in which the run needs the most memory."""

    before: Callable[[], None]
    """The rest of the run, which comes first."""
    run: Callable[[], None]
    covers: str
    """What of the run it is, in words; empty when it is all of it."""


class Job(Protocol):
    """One phase at one length, ready to run."""

    tokens: int
    """Tokens that one run processes, over the whole batch."""

    def held(self) -> Iterable[Tensor]:
        """What exists before a run and during it: weights, decode state, optimizer state."""
        ...

    def reset(self) -> None:
        """Put back what a run changed."""
        ...

    def run(self) -> None:
        """Do it once, and wait for the device."""
        ...

    def sample(self) -> Sample:
        """What of a run is looked at closely."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A kind of work: how it is prepared, and where it does not apply."""

    name: str
    about: str
    prepare: Callable[[Subject, int], Job]
    """A job for a subject at a length."""
    disturbs: str = ""
    """What it changes in the process for good, in words; such phases come last. Empty where it changes nothing."""
    refusal: Callable[[Graph], str]
    """Why an architecture cannot do this; empty where it can."""


def weights_of(model: Model) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*model.parameters(), *model.buffers()]


class Prefill:
    """Read a prompt into an empty cache, as `generate` does, and compute the logits of its last token."""

    def __init__(self, subject: Subject, length: int) -> None:
        self.subject, self.length = subject, length
        self.tokens = subject.batch * length
        self.ids_BT = subject.tokens(length)
        self.cache = _cache(subject, length) if subject.model.graph.is_causal else None

    def held(self) -> Iterable[Tensor]:
        """Weights and decode state."""
        return [*weights_of(self.subject.model), *_state_of(self.cache)]

    def reset(self) -> None:
        """Empty the cache."""
        self.subject.model.backend = self.subject.backend
        if self.cache is not None:
            self.cache.reset()

    def run(self) -> None:
        """All pieces, then the head on the last token."""
        self._read(0, self.length)

    def sample(self) -> Sample:
        """All of it, or the last pieces of a long prompt: they see the most keys."""
        split = self.length - _PROFILED
        if split <= 0 or self._enters_at_once:
            return Sample(before=lambda: None, run=self.run, covers="")
        split -= split % PREFILL
        covers = f"the last {self.length - split:,} of {self.length:,} tokens"
        return Sample(before=lambda: self._read(0, split), run=lambda: self._read(split, self.length), covers=covers)

    @property
    def _enters_at_once(self) -> bool:
        model = self.subject.model
        return self.cache is None or model.encoder is not None or model.graph.opens_prefix

    @torch.inference_mode()
    def _read(self, start: int, stop: int) -> None:
        model, ids_BT = self.subject.model, self.ids_BT[:, start:stop]
        if self.cache is None:
            h_BTD = model.hidden(ids_BT, source=ids_BT if model.encoder is not None else None)
        elif model.encoder is not None:
            h_BTD = model.hidden(ids_BT[:, -1:], cache=self.cache, source=ids_BT)
        elif model.graph.opens_prefix:
            h_BTD = model.hidden(ids_BT, cache=self.cache, prefix=[self.length] * self.subject.batch)
        else:
            for piece_BT in ids_BT.split(PREFILL, dim=1):
                h_BTD = model.hidden(piece_BT, cache=self.cache)
        if stop == self.length:
            model.head(h_BTD[:, -1:], model.embedding.tokens.weight)
        self.subject.wait()


class Decode:
    """One step of greedy decoding for every row, as the last of a context: `length` tokens are there afterwards.

    The cache is not the trace of a prompt: it is as long as one and holds random numbers, which take as long to read.
    """

    def __init__(self, subject: Subject, length: int) -> None:
        self.subject, self.length = subject, length
        self.tokens = subject.batch
        self.ids_B1 = subject.tokens(1)
        self.cache = _cache(subject, length)
        if subject.model.encoder is not None:
            with torch.inference_mode():
                subject.model.hidden(self.ids_B1, cache=self.cache, source=subject.tokens(length))
        _fill(self.cache, subject.seed)

    def held(self) -> Iterable[Tensor]:
        """Weights and decode state."""
        return [*weights_of(self.subject.model), *_state_of(self.cache)]

    def reset(self) -> None:
        """Say that all but the last token is there."""
        self.subject.model.backend = self.subject.backend
        self.cache.lengths = [self.length - 1] * self.subject.batch

    @torch.inference_mode()
    def run(self) -> None:
        """The step, and the likeliest next token."""
        model = self.subject.model
        h_B1D = model.hidden(self.ids_B1, cache=self.cache)
        model.head(h_B1D, model.embedding.tokens.weight).argmax(-1)
        self.subject.wait()

    def sample(self) -> Sample:
        """The whole step."""
        return Sample(before=lambda: None, run=self.run, covers="")


def _cache(subject: Subject, length: int) -> Cache:
    with torch.inference_mode():
        return subject.model.cache(subject.batch, capacity=length, source_capacity=length)


def _state_of(cache: Cache | None) -> list[Tensor]:
    return [] if cache is None else [tensor for part in cache.parts() for tensor in part.tensors()]


@torch.inference_mode()
def _fill(cache: Cache, seed: int) -> None:
    """Random numbers in all decode state. Fresh zeros would not do: the system keeps one page for all of them."""
    pattern = torch.randn(_PATTERN, generator=torch.Generator().manual_seed(seed)).to(cache.device)
    for tensor in _state_of(cache):
        flat = tensor.view(-1)
        for start in range(0, flat.numel(), _PATTERN):
            part = flat[start : start + _PATTERN]
            part.copy_(pattern[: part.numel()])


def _cannot_decode(graph: Graph) -> str:
    if graph.is_causal:
        return ""
    return f"{graph.architecture.name} sees later tokens, so it decodes nothing token by token"


PREFILL_PHASE = Phase(
    name="prefill", about="read a prompt of this length into the cache", prepare=Prefill, refusal=lambda _: ""
)
DECODE_PHASE = Phase(
    name="decode", about="write one token after a context of this length", prepare=Decode, refusal=_cannot_decode
)
