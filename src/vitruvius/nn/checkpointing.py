"""Gradient checkpointing: what a layer keeps for its backward pass is not kept, and computed again there.

A layer runs twice in a step and must do the same both times, while everybody else must notice the first time alone:
auxiliary losses and metrics are reported once, the load of experts is counted once, a replayed routing is taken once.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from vitruvius.nn.casting import recomputing
from vitruvius.nn.place import Passed, Signals
from vitruvius.nn.updates import Gathering
from vitruvius.spec.recomputing import is_again

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from torch import Tensor, nn

    from vitruvius.nn.place import Place


def through(module: nn.Module, x_BTD: Tensor, place: Place, state: Any = None) -> Tensor:
    """A layer of a stack, [B, T, D]; computed again in its backward pass where `place.checkpointing` says so."""
    index = 0 if place.layer is None else place.layer.index
    if not is_again(place.checkpointing, index) or state is not None or not torch.is_grad_enabled():
        return module(x_BTD, place, state)
    run = _Twice(module, place)
    # The variant that keeps the graph: gradients of inputs that reach the layer on other ways, such as keys that an
    # earlier layer lent, flow as they always do.
    return checkpoint(run, x_BTD, use_reentrant=False, preserve_rng_state=True, **recomputing())


class _Twice:
    """One layer of one call: the first run reports what it finds, the later ones keep it to themselves."""

    def __init__(self, module: nn.Module, place: Place) -> None:
        self.module = module
        self.place = place
        self.has_run = False
        self.loads = {name: part.gathered() for name, part in _gathering(module)}
        loans = () if place.layer is None else tuple(place.layer.loans())
        self.passed = Passed(
            keys={lender: place.passed.keys[lender] for what, lender in loans if what == "keys"},
            values={lender: place.passed.values[lender] for what, lender in loans if what == "values"},
        )
        self.routing: list[Tensor] = []
        """What was taken of a replayed routing."""

    def __call__(self, x_BTD: Tensor) -> Tensor:
        if not self.has_run:
            self.has_run = True
            return self.module(x_BTD, self._heard())
        with self._as_before():
            return self.module(x_BTD, self._unheard())

    def _heard(self) -> Place:
        signals = self.place.signals
        if signals is None or signals.replay is None:
            return self.place
        return replace(self.place, signals=replace(signals, replay=self._taken(signals.replay)))

    def _taken(self, replayed: Iterator[Tensor]) -> Iterator[Tensor]:
        for chosen in replayed:
            self.routing.append(chosen)
            yield chosen

    def _unheard(self) -> Place:
        heard = self.place.signals
        unheard = None
        if heard is not None:
            unheard = Signals(
                attention=None if heard.attention is None else [],
                routing=None if heard.routing is None else [],
                replay=None if heard.replay is None else iter(self.routing),
                requests=None if heard.requests is None else [],
            )
        return replace(self.place, signals=unheard, passed=replace(self.passed))

    @contextlib.contextmanager
    def _as_before(self) -> Generator[None]:
        """The loads as the first run found them, for one more run; also when that is stopped early."""
        now = {name: part.gathered() for name, part in _gathering(self.module)}
        for name, part in _gathering(self.module):
            part.gather(self.loads[name])
        try:
            yield
        finally:
            for name, part in _gathering(self.module):
                part.gather(now[name])


def _gathering(module: nn.Module) -> Iterator[tuple[str, Gathering]]:
    """The parts of a layer that gather something over passes."""
    for name, part in module.named_modules():
        if isinstance(part, Gathering):
            yield name, part
