"""Positions as the product of what every token between two did to the space of keys."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, ClassVar, Literal

from vitruvius.errors import Finding
from vitruvius.spec.costs import Start
from vitruvius.spec.node import (
    Heads,
    Position,
    PositiveFloat,
    PositiveInt,
    Scope,
    StateSpec,
    TensorSpec,
    Twin,
    register,
)
from vitruvius.spec.positions.fox import gate_tensors, horizon_findings
from vitruvius.spec.tracing.attending_path import Maps, attend_path
from vitruvius.spec.tracing.linear_parts import wide_linear
from vitruvius.spec.tracing.running import convolved, cumulative_decay, divided_by_norm
from vitruvius.spec.tracing.tape_ops import unary, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.patterns import Pattern
    from vitruvius.spec.tracing.tape import Tape, Value

MOST_TAPS = 64


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class PathPosition(Position):
    """Between a key and a query stand the Householder-like maps of all tokens since (Yang et al., 2025: PaTH).

    Token s maps the space of a key head by I - beta_s w_s w_s^T, where w_s is a unit vector made of the last few tokens
    and beta_s lies between 0 and 2.
    """

    acts_on = "rotation"
    has_kernel: ClassVar[bool] = True
    causal_only: ClassVar[str] = "multiplies the maps of the tokens between an earlier key and the query"

    kind: Literal["path"] = "path"
    rank: PositiveInt | None = 32
    """Inner width of the map from a token to w; `null` for a map of full rank."""
    kernel: PositiveInt = 3
    """Tokens that each w is made of: taps of the causal convolution before it is normalised; 1 leaves it out."""
    forget: Literal["none", "fox"] = "none"
    """`fox` adds forget gates to the scores (PaTH-FoX, the best of the paper's)."""
    horizon: PositiveFloat | None = None
    """Of `forget: fox`: tokens after which a fresh gate has forgotten all but 1/e; 128 when not given."""

    @property
    def forget_horizon(self) -> float:
        """The horizon with its default."""
        return 128.0 if self.horizon is None else self.horizon

    def tensors_for_heads(self, heads: Heads, scope: Scope) -> Mapping[str, TensorSpec]:
        """The map to w and its taps, beta with its bias, and the forget gates where there are any."""
        channels = heads.groups * heads.width
        tensors: dict[str, TensorSpec] = {}
        if self.rank is None:
            tensors["w.weight"] = TensorSpec(shape=(channels, scope.width))
        else:
            tensors["w_down.weight"] = TensorSpec(shape=(self.rank, scope.width))
            tensors["w_up.weight"] = TensorSpec(shape=(channels, self.rank))
        if self.kernel > 1:
            # As torch draws convolutions, whatever the init: what is normalised afterwards makes small taps learn fast.
            bound = 1 / sqrt(self.kernel)
            start = Start(kind="uniform", low=-bound, high=bound)
            tensors["taps.weight"] = TensorSpec(shape=(channels, self.kernel), start=start)
        tensors["beta.weight"] = TensorSpec(shape=(heads.groups, scope.width))
        tensors["beta.bias"] = TensorSpec(shape=(heads.groups,), role="bias")
        if self.forget == "fox":
            tensors |= gate_tensors("forget", heads, scope, self.forget_horizon)
        return tensors

    def trace_attended(
        self, tape: Tape, q: Value, k: Value, v: Value, x: Value, pattern: Pattern, scope: Scope
    ) -> Value:
        """The maps of all tokens, then chunk after chunk of queries over the mapped keys."""
        del scope
        groups, channels = k.shape[1], k.shape[1] * k.shape[-1]
        with tape.call():
            w, beta = self._maps(tape, x, groups, channels)
            decay = cumulative_decay(x, q.shape[1]) if self.forget == "fox" else None
            return attend_path(q, k, v, Maps(w=w, beta=beta, decay=decay), pattern=pattern)

    def _maps(self, tape: Tape, x: Value, groups: int, channels: int) -> tuple[Value, Value]:
        with tape.call():
            inner = x if self.rank is None else tape.linear(x, [self.rank])[0]
            (u,) = tape.linear(inner, [channels])
            tape.hold(u)
            u = convolved(u, self.kernel) if self.kernel > 1 else u
            vectors = widened(u).unflatten(2, (groups, -1)).transpose(1, 2)
            tape.hold(vectors)
            w = divided_by_norm(vectors)
            tape.hold(w)
            beta = tape.scaled(unary("sigmoid", wide_linear(x, groups, biases=groups), "output"))
            return w, beta.transpose(1, 2)

    def pair_flops_for_heads(self, heads: Heads) -> int:
        """Per key head: the product k . w, and the multiple of w that the key loses."""
        return 4 * heads.groups * heads.width

    def slot_state(self, heads: Heads) -> Mapping[str, StateSpec]:
        """Keys as all tokens so far have mapped them, in at least fp32; with `fox` also the sums of log gates."""
        kept = {"k": StateSpec(shape=(heads.groups, heads.width), dtype="fp32")}
        if self.forget == "fox":
            kept["decay"] = StateSpec(shape=(heads.queries, 1), dtype="fp32")
        return kept

    def running_state(self, heads: Heads, scope: Scope) -> Mapping[str, StateSpec]:
        """What the convolution still needs of the last tokens; with `fox` also the sum of log gates so far."""
        del scope
        kept: dict[str, StateSpec] = {}
        if self.kernel > 1:
            kept["taps"] = StateSpec(shape=(self.kernel - 1, heads.groups * heads.width), role="state")
        if self.forget == "fox":
            kept["decay_so_far"] = StateSpec(shape=(heads.queries,), dtype="fp32", role="state")
        return kept

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """A rank that the twin's stream can use."""
        return {} if self.rank is None else {"rank": min(self.rank, twin.width)}

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Ranks above full rank, endless convolutions, fields of a gate that is not there."""
        if self.rank is not None and self.rank > scope.width:
            what = f"a rank of {self.rank:,} is above the stream's width of {scope.width:,}: a whole map is smaller"
            yield Finding(path="rank", severity="note", what=what, fix="write rank: null, or a lower one")
        if self.kernel > MOST_TAPS:
            what = f"{self.kernel} taps are no short convolution"
            yield Finding(path="kernel", what=what, fix=f"use 3 or 4, and at most {MOST_TAPS}")
        if self.forget == "none" and self.horizon is not None:
            what = "horizon is that of the forget gates, and there are none"
            yield Finding(path="horizon", what=what, fix="write forget: fox, or leave horizon out")
        if self.forget == "fox":
            yield from horizon_findings(self.forget_horizon)
