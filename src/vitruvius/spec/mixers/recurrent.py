"""What mixers with a state of one size share: the cost of the recurrence, convolutions before it, heads that divide."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.costs import Start
from vitruvius.spec.node import Flops, Mixer, Scope, StateSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_TAPS = 8
"""Taps of a short convolution; longer ones want another algorithm."""
NARROWEST, WIDEST = 4, 16
"""Channels of a head of a small twin."""


class Recurrent(Mixer):
    """Base of linear-time mixers: every token costs the same, and so does what is kept of all of them."""

    __slots__ = ()

    def token_flops(self, scope: Scope) -> int:
        """Floating-point operations per token besides the linear maps, as the step-by-step form does them."""
        raise NotImplementedError

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """The linear maps and the recurrence; there are no pairs, so that everything is useful."""
        own = self.token_flops(scope) * tokens
        return super().flops(scope, tokens) + Flops(useful=own, dense=own)


class NormedHeads(Recurrent):
    """Base of those that normalise what each head reads, which leaves a direction however little that was."""

    __slots__ = ()

    @property
    def rounding(self) -> Literal["even", "at-zeros"]:
        """Where little is read, rounding decides on the direction."""
        return "at-zeros"


def conv_tensor(channels: int, taps: int) -> TensorSpec:
    """The weights of a short convolution, drawn as torch draws them: evenly within 1/sqrt(taps)."""
    bound = 1 / sqrt(taps)
    return TensorSpec(shape=(channels, taps), start=Start(kind="uniform", low=-bound, high=bound))


def step_bias(count: int) -> TensorSpec:
    """Biases that softplus turns into step sizes between 0.001 and 0.1, as in Mamba."""
    return TensorSpec(shape=(count,), role="bias", start=Start(kind="step-size", low=1e-3, high=1e-1))


def matrix_state(heads: int, state: int, value: int) -> StateSpec:
    """A matrix per head, in at least fp32: errors in a state are there for good."""
    return StateSpec(shape=(heads, state, value), dtype="fp32", role="state")


def conv_state(channels: int, taps: int) -> StateSpec:
    """The inputs that the taps of the next token reach."""
    return StateSpec(shape=(channels, taps - 1), role="state")


def conv_findings(taps: int) -> Iterator[Finding]:
    """A convolution of one tap is none, a long one not short."""
    if not 2 <= taps <= MOST_TAPS:
        what = f"{taps} taps are no short convolution"
        yield Finding(path="conv", what=what, fix=f"use 2 to {MOST_TAPS}; 4 is usual")


def sharing_findings(path: str, few: int, many: int, of: str) -> Iterator[Finding]:
    """Heads that cannot be shared out evenly."""
    if many % few:
        divisors = ", ".join(str(n) for n in range(1, min(many, 512) + 1) if many % n == 0)
        yield Finding(path=path, what=f"{few} does not divide {of}={many}", fix=f"use one of {divisors}")


def width_findings(heads: int, given: int | None, scope: Scope) -> Iterator[Finding]:
    """Heads that do not divide the width, where no width of a head is given."""
    if given is None and scope.width % heads:
        what = f"{heads} does not divide width={scope.width}"
        yield Finding(path="heads", what=what, fix="give head_width, or choose heads among the divisors of width")


def small(channels: int) -> int:
    """A head of the twin: as wide as this one, within what makes a probe quick."""
    return min(max(channels, NARROWEST), WIDEST)
