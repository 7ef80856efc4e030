"""What the probes examine: an architecture or a built model, small enough to run in double precision."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from vitruvius.errors import UsageError
from vitruvius.nn import Model, build
from vitruvius.nn.inits import initialise
from vitruvius.patterns import everything
from vitruvius.spec import Architecture, ensure, resolve, shrink
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from vitruvius.patterns import Pattern
    from vitruvius.spec import Graph

LARGEST_BYTES = 32 * 2**20
"""An architecture whose fp32 weights take more than this is probed through its twin."""
LONGEST = 512
"""So is one of whose longest window three do not fit into this many tokens."""
SHORTEST = 24
"""Tokens of the shortest probe."""
WINDOWS = 3
"""Each probe is at least as many windows long, so that a cache has evicted and come round."""
_JITTER = 0.05


@dataclass(frozen=True)
class Subject:
    """One architecture (or built model) under examination. Models are made on demand and shared by the probes."""

    architecture: Architecture
    """As it was given, at full size."""
    probed: Architecture
    """What is built and run: the same, or its twin."""
    seed: int
    given: Model | None = None
    """The user's own model, when that is what is probed."""
    longest: int | None = None
    """Tokens that long sequences are run up to, whatever it takes; None stays within what a check can afford."""

    @cached_property
    def graph(self) -> Graph:
        """Layers of what is run."""
        return resolve(self.probed)

    @cached_property
    def full_graph(self) -> Graph:
        """Layers at full size."""
        return resolve(self.architecture)

    @property
    def is_twin(self) -> bool:
        """Whether a smaller twin runs in place of the architecture."""
        return self.probed is not self.architecture

    @property
    def description(self) -> str:
        """What is run, in a line."""
        full, small = self.architecture, self.probed
        if not self.is_twin:
            what = "the given model" if self.given is not None else "as specified"
            return f"{full.name} ({what}: width {full.width:,}, {len(self.graph.layers)} layers)"
        changes = [
            f"{name} {before:,} -> {after:,}"
            for name, before, after in (
                ("width", full.width, small.width),
                ("layers", len(self.full_graph.layers), len(self.graph.layers)),
                ("context", full.context, small.context),
                ("vocabulary", full.vocab_size, small.vocab_size),
            )
            if before != after
        ]
        return f"twin of {full.name} ({', '.join(changes)}); parameters and cache at full size"

    @cached_property
    def length(self) -> int:
        """Tokens of a probe: three of the longest windows and a bit, within the context."""
        return probe_length(self.graph)

    @cached_property
    def model(self) -> Model:
        """The model in fp64, with gains and biases moved off their first values so that nothing hides behind them.

        Its learned positions are grown to the length of the probes.
        """
        model = self.fresh(torch.float64) if self.given is None else deepcopy(self.given).double()
        model.eval()
        model.backend = "auto"
        self._prompt(model)
        generator = torch.Generator().manual_seed(self.seed + 1)
        tensors = self.graph.tensors()
        with torch.no_grad():
            model(self.tokens(1, self.length))
            for name, parameter in model.named_parameters():
                if name in tensors and tensors[name].role in {"gain", "bias"}:
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.add_(_JITTER * noise.to(parameter.device))
            buffers = dict(model.named_buffers())
            for name in self.graph.buffers():
                noise = torch.randn(buffers[name].shape, generator=generator, dtype=torch.float64)
                buffers[name].add_(_JITTER * noise.to(buffers[name].device))
        return model

    @cached_property
    def _plain(self) -> dict[torch.dtype, Model]:
        return {}

    def plain(self, dtype: torch.dtype) -> Model:
        """A model with first weights, in eval mode, that probes share: who changes anything puts it back."""
        if dtype not in self._plain:
            self._plain[dtype] = self.fresh(dtype).eval()
        return self._plain[dtype]

    def fresh(self, dtype: torch.dtype, *, seed: int | None = None) -> Model:
        """A model of its own with first weights: built anew, or a copy of the given one drawn again."""
        seed = self.seed if seed is None else seed
        if self.given is None:
            model = build(self.probed, dtype=dtype, seed=seed)
        else:
            model = deepcopy(self.given).to(dtype)
            model.backend = "auto"
            initialise(model, seed)
        self._prompt(model)
        return model

    def _prompt(self, model: Model) -> None:
        """Give an encoder-decoder one source for all rows, as long as a probe, so that the probes are about tokens."""
        if self.graph.encoder:
            model.standing_source = self.tokens(1, self.length, salt=77)

    def tokens(self, batch: int, length: int, *, salt: int = 0) -> Tensor:
        """Random ids, the same for the same arguments and seed."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + 7919 * salt + length)
        ids = torch.randint(self.probed.vocab_size, (batch, length), generator=generator)
        return ids if self.given is None else ids.to(self.given.device)

    def patterns(self) -> Iterator[tuple[str, Pattern]]:
        """(name, pattern) of each sublayer that attends, in the order in which a pass computes them.

        Cross-attention sees the whole source, which in a probe is as long as the target.
        """
        for layer in (*self.graph.encoder, *self.graph.layers):
            pattern = None if layer.mixer is None else layer.mixer.pattern()
            if pattern is not None:
                yield layer.path, pattern
            if layer.cross is not None:
                yield f"{layer.path}.cross", everything


@contextmanager
def training(model: Model) -> Iterator[Model]:
    """The model trains inside the block: mixtures with a capacity drop tokens."""
    model.train()
    try:
        yield model
    finally:
        model.eval()


def subject_of(examined: Architecture | Model, seed: int) -> Subject:
    """The subject for an architecture or a built model; its twin when it is too big.

    Raises SpecError when the architecture does not fit together, UsageError for a model without values.
    """
    if not isinstance(examined, (Architecture, Model)):
        raise UsageError(
            f"{type(examined).__name__} is neither an architecture nor a model built from one",
            fix="pass an nn.Module, or give a function to vitruvius.check_callable(lambda ids: logits, vocab_size)",
        )
    model = examined if isinstance(examined, Model) else None
    architecture = examined if isinstance(examined, Architecture) else examined.architecture
    graph = ensure(architecture)
    if is_too_big(graph):
        return Subject(architecture=architecture, probed=shrink(architecture), seed=seed)
    if model is not None and model.device.type == "meta":
        raise UsageError("a model on the meta device has no values to probe", fix="pass its architecture instead")
    return Subject(architecture=architecture, probed=architecture, seed=seed, given=model)


def is_too_big(graph: Graph) -> bool:
    """Whether probes run on the twin: more than 32 MiB of fp32 weights, or windows that need over 512 tokens."""
    weights = 4 * sum(tensor.count for tensor in graph.tensors().values())
    return weights > LARGEST_BYTES or (WINDOWS * longest_reach(graph) > LONGEST and graph.scope.context > LONGEST)


def longest_reach(graph: Graph) -> int:
    """Positions after which the widest window, block, stride or sink of any layer ends or repeats."""
    found = (layer.mixer.pattern() for layer in graph.layers if layer.mixer is not None)
    return max((pattern.longest_reach or 1 for pattern in found if pattern is not None), default=1)


def probe_length(graph: Graph) -> int:
    """Tokens of a probe on this graph."""
    wanted = max(SHORTEST, WINDOWS * longest_reach(graph) + 5)
    return min(wanted, LONGEST, graph.scope.context)


def threshold() -> str:
    """When a twin is used, in words."""
    return f"over {format_bytes(LARGEST_BYTES)} of fp32 weights, or three windows longer than {LONGEST} tokens"
