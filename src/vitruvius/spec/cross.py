"""From the decoder's positions to the encoder's output."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding, UsageError
from vitruvius.spec.expressions import evaluate
from vitruvius.spec.node import Cross, Flops, PositiveInt, Scope, StateSpec, TensorSpec, Twin, register
from vitruvius.spec.tracing.attending import Scores
from vitruvius.spec.tracing.attending_open import attend_open
from vitruvius.spec.tracing.tape_ops import fused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class CrossAttention(Cross):
    """Softmax attention of each position to the whole source (Vaswani et al., 2017)."""

    kind: Literal["attention"] = "attention"
    heads: PositiveInt
    """Query heads."""
    kv_heads: PositiveInt | None = None
    """Key and value heads, a divisor of heads; as many as heads when not given."""
    head_width: PositiveInt | None = None
    """Channels per head; width / heads when not given."""
    score_scale: float | str | None = None
    """Multiplies the scores: a number or an expression; 1/sqrt(head_width) when not given. T5 has 1."""
    bias: Literal["none", "qkv", "all"] = "none"
    """Which maps add a learned vector."""

    @property
    def groups(self) -> int:
        """Key and value heads."""
        return self.kv_heads or self.heads

    def width_of_head(self, scope: Scope) -> int:
        """Channels per head."""
        return self.head_width or scope.width // self.heads

    def heads_and_groups(self) -> tuple[int, int]:
        """Query heads and key heads."""
        return self.heads, self.groups

    def details(self, scope: Scope) -> Iterator[str]:
        """The heads, and what differs from the plain form."""
        yield f"{self.heads:,} heads of {self.width_of_head(scope):,}"
        if self.groups != self.heads:
            yield f"{self.groups:,} for keys and values"
        yield "keys and values from the encoder"
        if self.score_scale is not None:
            yield f"scores times {self.score_scale}"
        if self.bias != "none":
            yield "biases" if self.bias == "all" else f"biases on {self.bias}"

    def scale(self, scope: Scope) -> float:
        """What the scores are multiplied by."""
        head_width = self.width_of_head(scope)
        if self.score_scale is None:
            return scope.attention_scale(head_width)
        return evaluate(self.score_scale, {"width": scope.width, "head_width": head_width})

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """`q`, `k`, `v` and `out`."""
        head = self.width_of_head(scope)
        tensors: dict[str, TensorSpec] = {}
        for name, heads in (("q", self.heads), ("k", self.groups), ("v", self.groups)):
            tensors[f"{name}.weight"] = TensorSpec(shape=(heads * head, scope.width))
            if self.bias != "none":
                tensors[f"{name}.bias"] = TensorSpec(shape=(heads * head,), role="bias")
        tensors["out.weight"] = TensorSpec(shape=(scope.width, self.heads * head), role="output")
        if self.bias == "all":
            tensors["out.bias"] = TensorSpec(shape=(scope.width,), role="bias")
        return tensors

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """The four maps, and every pair of a target and a source of `tokens` tokens each."""
        pairs = 4 * self.width_of_head(scope) * self.heads * tokens * tokens
        maps = super(CrossAttention, self).flops(scope, tokens)
        return maps + Flops(useful=pairs, dense=pairs)

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Queries from the stream, keys and values from the source, torch's fused attention, the map out."""
        head, work = self.width_of_head(scope), tape.work
        outward, grouped = self.heads * head, self.groups * head
        biased = self.bias != "none"
        length = work.tokens if tape.stored is None else tape.stored.source
        source = tape.given("source", (work.batch, length, scope.width))
        with tape.call():
            (q,) = tape.linear(x, [outward], biases=outward if biased else 0)
            tape.hold(q)
            if tape.stored is not None and tape.stored.held:
                width = (work.batch, tape.stored.source, grouped)
                k, v = (tape.given(f"{name} of the source", width) for name in ("k", "v"))
            else:
                k, v = (tape.linear(source, [grouped], biases=grouped if biased else 0)[0] for _ in range(2))
            tape.hold(k, v)
            q, k, v = (part.unflatten(2, (-1, head)).transpose(1, 2) for part in (q, k, v))
            out = attend_open(tape, q, k, v, scores=Scores()) if work.attention == "full" else fused(tape, q, k, v)
            tape.hold(out)
            joint = out.transpose(1, 2).flatten(2)
            return tape.linear(joint, [scope.width], biases=scope.width if self.bias == "all" else 0)[0]

    def state_tensors(self, scope: Scope, source: int) -> Mapping[str, StateSpec]:
        """Keys and values of the source, kv_heads x source x head_width each."""
        kept = StateSpec(shape=(self.groups, source, self.width_of_head(scope)))
        return {"k": kept, "v": kept}

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """A bias on keys adds the same to all scores of a query; a source of one token has weight one."""
        yield "k.bias"
        if length == 1:
            yield from (name for name in self.tensors(scope) if name[0] in "qk")

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Fewer heads in the same ratio to key heads."""
        ratio, groups = min(self.heads // self.groups, twin.most), min(self.groups, 2)
        heads = ratio * groups
        exact = self.head_width is None and twin.width % heads == 0
        width = None if exact else max(4, int(Fraction(twin.width, heads)))
        return {"heads": heads, "kv_heads": None if self.kv_heads is None else groups, "head_width": width}

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Head counts that do not divide."""
        if self.heads % self.groups:
            what = f"{self.groups} does not divide heads={self.heads}"
            yield Finding(path="kv_heads", what=what, fix="use a divisor of heads")
        if self.head_width is None and scope.width % self.heads:
            what = f"{self.heads} does not divide width={scope.width}"
            yield Finding(path="heads", what=what, fix="give head_width, or choose heads among the divisors of width")
            return
        if self.score_scale is not None:
            try:
                self.scale(scope)
            except UsageError as error:
                yield Finding(path="score_scale", what=error.what, fix=error.fix)
