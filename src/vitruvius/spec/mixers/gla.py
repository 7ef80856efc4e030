"""Gated linear attention: a state that decays channel by channel, as the token says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.mixers.recurrent import NormedHeads, matrix_state, small, width_findings
from vitruvius.spec.node import PositiveFloat, PositiveInt, Scope, StateSpec, TensorSpec, Twin, register
from vitruvius.spec.tracing.linear_parts import gated_norm
from vitruvius.spec.tracing.recurrences import gated_delta
from vitruvius.spec.tracing.tape_ops import made_like, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class GatedLinearAttention(NormedHeads):
    """Linear attention with a data-dependent decay of each channel of the keys (Yang et al., 2024)."""

    kind: Literal["gla"] = "gla"
    heads: PositiveInt
    """Heads: as many states; few and wide ones, 4 in the paper."""
    head_width: PositiveInt | None = None
    """Channels of a query and key; width / (2 x heads) when not given."""
    value_width: PositiveInt | None = None
    """Channels of a value; width / heads when not given."""
    rank: PositiveInt = 16
    """Inner width of the map to the decays."""
    slowness: PositiveFloat = 16.0
    """What the logarithm of a sigmoid is divided by to give that of a decay: greater forgets more slowly."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in the gated norm of each head."""

    def key_width(self, scope: Scope) -> int:
        """Channels of a query and key."""
        return self.head_width or scope.width // (2 * self.heads)

    def width_of_value(self, scope: Scope) -> int:
        """Channels of a value."""
        return self.value_width or scope.width // self.heads

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The maps of the token, the decays, the norm, the map back."""
        keys, values = self.heads * self.key_width(scope), self.heads * self.width_of_value(scope)
        rows = {"q": keys, "k": keys, "v": values, "gate": values, "decay_down": self.rank}
        tensors = {f"{name}.weight": TensorSpec(shape=(count, scope.width)) for name, count in rows.items()}
        tensors["decay_up.weight"] = TensorSpec(shape=(keys, self.rank))
        tensors["decay_up.bias"] = TensorSpec(shape=(keys,), role="bias")
        tensors["norm.weight"] = TensorSpec(shape=(self.width_of_value(scope),), role="gain")
        tensors["out.weight"] = TensorSpec(shape=(scope.width, values), role="output")
        return tensors

    def token_flops(self, scope: Scope) -> int:
        """An outer product into the state and a read out of it."""
        return 4 * self.heads * self.key_width(scope) * self.width_of_value(scope)

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Queries, keys and values, a low-rank map to the decays, a gated norm per head, the map back."""
        widths = (self.key_width(scope), self.width_of_value(scope))
        keys, values = (self.heads * width for width in widths)
        with tape.call():
            q, k, v, z, down = tape.linear(x, [keys, keys, values, values, self.rank])
            tape.hold(q, k, v, z, down)
            raw = widened(tape.linear(down, [keys], biases=keys)[0])
            buffer, decay = made_like(raw, gradient=False), made_like(raw)
            tape.op("log sigmoid", reads=[raw], makes=[decay, buffer], saves=[raw, buffer], gives=[(raw, raw.size)])
            decay = tape.scaled(decay)
            q, k, decay = (part.unflatten(2, (-1, widths[0])) for part in (q, k, decay))
            v, z = (part.unflatten(2, (-1, widths[1])) for part in (v, z))
            q = tape.scaled(q)
            tape.hold(q, decay)
            out = gated_delta(q, k, v, log_decay=decay)
            tape.hold(out)
            return tape.linear(gated_norm(out, z).flatten(2), [scope.width])[0]

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:
        """The state."""
        del capacity
        return {"state": matrix_state(self.heads, self.key_width(scope), self.width_of_value(scope))}

    def heads_and_groups(self) -> tuple[int, int]:
        """Every head has keys of its own."""
        return self.heads, self.heads

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """One token has nothing to forget."""
        del scope
        if length == 1:
            yield from ("decay_down.weight", "decay_up.weight", "decay_up.bias")

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Two narrow heads."""
        return {
            "heads": min(self.heads, 2),
            "head_width": small(self.key_width(twin.old)),
            "value_width": small(self.width_of_value(twin.old)),
            "rank": min(self.rank, 8),
        }

    def details(self, scope: Scope) -> Iterator[str]:
        """Heads and their widths, and how they forget."""
        yield f"{self.heads:,} heads, state {self.key_width(scope):,} × {self.width_of_value(scope):,}"
        yield "a decay per channel"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Heads that do not divide."""
        if self.head_width is None and scope.width % (2 * self.heads):
            what = f"2 x {self.heads} does not divide width={scope.width}"
            yield Finding(path="heads", what=what, fix="give head_width, or choose fewer heads")
        elif self.value_width is None:
            yield from width_findings(self.heads, None, scope)
