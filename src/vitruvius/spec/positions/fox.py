"""Forgetting: what lies between two tokens decides how much of the first is left at the second."""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log
from typing import TYPE_CHECKING, ClassVar, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import Heads, Position, PositiveFloat, Scope, StateSpec, TensorSpec, register
from vitruvius.spec.tracing.attending import Scores
from vitruvius.spec.tracing.running import cumulative_decay

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value

LONGEST_HORIZON = 1e6
"""Tokens. Beyond it the gate's start is so near to one that fp32 cannot tell it from never forgetting."""


def gate_tensors(name: str, heads: Heads, scope: Scope, horizon: float) -> dict[str, TensorSpec]:
    """The forget gates of every query head: a map from the token, and a bias from which they forget slowly."""
    return {
        f"{name}.weight": TensorSpec(shape=(heads.queries, scope.width)),
        f"{name}.bias": TensorSpec(shape=(heads.queries,), role="bias", start=gate_start(horizon)),
    }


def gate_start(horizon: float) -> float:
    """The bias b with sigmoid(b)^horizon = 1/e: after `horizon` tokens a fresh gate has let go of all but 1/e."""
    return -log(expm1(1.0 / horizon))


def horizon_findings(horizon: float) -> Iterator[Finding]:
    """A gate that starts too near to one."""
    if horizon > LONGEST_HORIZON:
        what = f"a gate that starts with a horizon of {horizon:g} tokens never learns to forget in fp32"
        yield Finding(path="horizon", what=what, fix=f"use at most {LONGEST_HORIZON:,.0f}")


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ForgettingPosition(Position):
    """Each token weakens what came before it by a gate of its own per head (Lin et al., 2025: Forgetting Transformer).

    Also published as CABLE (Veisi et al., 2025), whose name is understood too.
    """

    acts_on = "scores"
    aliases: ClassVar[tuple[str, ...]] = ("cable",)
    causal_only: ClassVar[str] = "forgets what lies between a query and an earlier key"

    kind: Literal["fox"] = "fox"
    horizon: PositiveFloat = 128.0
    """Tokens after which a fresh gate has forgotten all but 1/e; training moves it."""
    evict: Literal["never", "negligible"] = "never"
    """`negligible`: decoding skips keys that provably weigh too little to matter, e^-10 for all of them together."""

    def tensors_for_heads(self, heads: Heads, scope: Scope) -> Mapping[str, TensorSpec]:
        """A gate for each query head."""
        return gate_tensors("gate", heads, scope, self.horizon)

    def trace_scores(self, tape: Tape, heads: Heads, x: Value, scope: Scope) -> Scores:
        """The gates of all tokens, summed."""
        del tape, scope
        return Scores(decay=cumulative_decay(x, heads.queries))

    def slot_state(self, heads: Heads) -> Mapping[str, StateSpec]:
        """The sum of log gates up to each key, for each query head."""
        return {"decay": StateSpec(shape=(heads.queries, 1), dtype="fp32")}

    def running_state(self, heads: Heads, scope: Scope) -> Mapping[str, StateSpec]:
        """That sum so far, and with `negligible` the norm of the longest key."""
        del scope
        kept = {"decay_so_far": StateSpec(shape=(heads.queries,), dtype="fp32", role="state")}
        if self.evict == "negligible":
            kept["longest_key"] = StateSpec(shape=(heads.groups,), dtype="fp32", role="state")
        return kept

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """A gate that starts too near to one."""
        del scope
        yield from horizon_findings(self.horizon)
