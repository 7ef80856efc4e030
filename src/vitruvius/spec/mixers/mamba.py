"""Mamba: the selective scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.costs import Start
from vitruvius.spec.mixers.recurrent import Recurrent, conv_findings, conv_state, conv_tensor, small, step_bias
from vitruvius.spec.node import Norm, PositiveInt, Scope, StateSpec, TensorSpec, Twin, register, under
from vitruvius.spec.tracing.linear_parts import gated, short_conv, wide_linear
from vitruvius.spec.tracing.recurrences import selective_scan
from vitruvius.spec.tracing.tape_ops import converted, split, unary, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba(Recurrent):
    """A state-space model whose step size, in map and out map depend on the token (Gu and Dao, 2023)."""

    kind: Literal["mamba"] = "mamba"
    expand: PositiveInt = 2
    """Channels of the scan, as a multiple of the width."""
    state: PositiveInt = 16
    """Width of the state: numbers kept for each channel."""
    conv: PositiveInt = 4
    """Taps of the causal convolution before the scan."""
    dt_rank: PositiveInt | None = None
    """Inner width of the map to the step sizes; width / 16, rounded up, when not given."""
    inner_norm: Norm | None = None
    """Normalises what step sizes, B and C are made of, as Jamba does."""
    bias: Literal["none", "conv", "all"] = "conv"
    """Which maps add a learned vector; that of the step sizes always does."""

    def inner(self, scope: Scope) -> int:
        """Channels of the scan."""
        return self.expand * scope.width

    def rank(self, scope: Scope) -> int:
        """Inner width of the map to the step sizes."""
        return self.dt_rank or -(-scope.width // 16)

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """In order of use; A is kept as the logarithm of its negative."""
        inner, rank, width = self.inner(scope), self.rank(scope), scope.width
        tensors = {"in_proj.weight": TensorSpec(shape=(2 * inner, width))}
        if self.bias == "all":
            tensors["in_proj.bias"] = TensorSpec(shape=(2 * inner,), role="bias")
        tensors["conv.weight"] = conv_tensor(inner, self.conv)
        if self.bias != "none":
            tensors["conv.bias"] = TensorSpec(shape=(inner,), role="bias")
        tensors["x_proj.weight"] = TensorSpec(shape=(rank + 2 * self.state, inner))
        if self.inner_norm is not None:
            for name, wide in (("dt", rank), ("B", self.state), ("C", self.state)):
                gains = self.inner_norm.tensors_of_width(wide)
                tensors |= {f"{name}_norm.{gain}": tensor for gain, tensor in gains.items()}
        spread = Start(kind="uniform", low=-(rank**-0.5), high=rank**-0.5)
        tensors["dt_proj.weight"] = TensorSpec(shape=(inner, rank), start=spread)
        tensors["dt_proj.bias"] = step_bias(inner)
        tensors["A_log"] = TensorSpec(shape=(inner, self.state), role="gain", start=Start(kind="log-of-count"))
        tensors["D"] = TensorSpec(shape=(inner,), role="gain")
        tensors["out_proj.weight"] = TensorSpec(shape=(width, inner), role="output")
        if self.bias == "all":
            tensors["out_proj.bias"] = TensorSpec(shape=(width,), role="bias")
        return tensors

    def token_flops(self, scope: Scope) -> int:
        """Per channel, an outer product into the state and a read out of it."""
        return 4 * self.inner(scope) * self.state

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """One map in, a convolution, the scan with a skip, a gate, one map out."""
        inner, rank = self.inner(scope), self.rank(scope)
        biases = [2 * inner, scope.width] if self.bias == "all" else [0, 0]
        with tape.call():
            (whole,) = tape.linear(x, [2 * inner], biases=biases[0])
            u, z = split(whole, [inner, inner])
            u = short_conv(u, self.conv, bias=self.bias != "none")
            tape.hold(whole, u)
            low = tape.linear(converted(u, z.item), [rank + 2 * self.state])[0]
            tape.hold(low)
            dt, inward, outward = split(low, [rank, self.state, self.state])
            if self.inner_norm is not None:
                dt, inward, outward = (self.inner_norm.trace_normed(tape, part) for part in (dt, inward, outward))
                tape.hold(dt, inward, outward)
            steps = unary("softplus", wide_linear(dt, inner, biases=inner), "input")
            tape.hold(steps)
            y = selective_scan(u, steps, inward, outward)
            tape.hold(y)
            return tape.linear(converted(gated(widened(z), y), x.item), [scope.width], biases=biases[1])[0]

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:
        """The state, in at least fp32, and what the convolution still reaches."""
        del capacity
        inner = self.inner(scope)
        state = StateSpec(shape=(inner, self.state), dtype="fp32", role="state")
        return {"state": state, "conv": conv_state(inner, self.conv)}

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """One token has nothing to forget."""
        del scope
        if length == 1:
            yield "A_log"

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """A smaller state; the channels follow the width."""
        rank = None if self.dt_rank is None else twin.in_width(self.dt_rank, 1)
        if self.inner_norm is not None and (rank or -(-twin.width // 16)) < 2:
            rank = 2
        return {"state": small(self.state), "expand": min(self.expand, twin.most), "dt_rank": rank}

    def details(self, scope: Scope) -> Iterator[str]:
        """Channels, state and convolution."""
        yield f"{self.inner(scope):,} channels, state {self.state:,}"
        yield f"convolution of {self.conv}"
        yield f"step sizes through {self.rank(scope):,}"
        if self.inner_norm is not None:
            yield f"{self.inner_norm.kind} on dt, B and C"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Long convolutions, and what does not fit in the norm."""
        yield from conv_findings(self.conv)
        if self.inner_norm is not None:
            yield from under("inner_norm", self.inner_norm.findings(scope))
            for path, wide in (("state", self.state), ("dt_rank", self.rank(scope))):
                if wide == 1:
                    what = "inner_norm would leave nothing of a single number but its sign"
                    yield Finding(path=path, what=what, fix=f"use {path}: 2 or more, or leave inner_norm out")
