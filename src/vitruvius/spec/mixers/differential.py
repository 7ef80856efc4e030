"""Differential attention: the difference of two softmax maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import exp
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.patterns import shrink_text
from vitruvius.spec.mixers.seeing import Seeing, divisors_of
from vitruvius.spec.node import (
    Heads,
    Norm,
    Position,
    PositiveInt,
    Scope,
    StateSpec,
    TensorSpec,
    Twin,
    register,
    under,
)
from vitruvius.spec.norms import RMSNorm
from vitruvius.spec.tracing.attending import Scores, attend
from vitruvius.spec.tracing.linear_parts import difference
from vitruvius.spec.tracing.tape_ops import cut, joined, split, times

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value

_LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class DifferentialAttention(Seeing):
    """The difference of two softmax maps, in which what both attend to by mistake cancels (Ye et al., 2024)."""

    kind: Literal["differential"] = "differential"
    heads: PositiveInt
    """Heads; each has two queries, and the difference of their maps weighs one value of twice the width."""
    kv_heads: PositiveInt | None = None
    """Pairs of keys, and values, a divisor of heads; as many as heads when not given."""
    head_width: PositiveInt | None = None
    """Channels of each of a head's two queries; width / (2 x heads) when not given."""
    sees: str = "causal"
    """Which keys a query may attend to: a pattern such as `causal & sliding(4096)`."""
    position: Position | None = None
    """Rotary positions or a bias on the scores; None leaves order to the mask and other layers."""
    score_scale: float | str | None = None
    """Multiplies the scores: a number or an expression; 1/sqrt(head_width) when not given."""
    bias: Literal["none", "qkv", "all"] = "none"
    """Which maps add a learned vector."""
    head_norm: Norm = field(default_factory=RMSNorm)
    """Normalises what each head found, before it is multiplied by 1 - lambda_init."""

    @property
    def groups(self) -> int:
        """Pairs of keys."""
        return self.kv_heads or self.heads

    def width_of_head(self, scope: Scope) -> int:
        """Channels of a query."""
        return self.head_width or scope.width // (2 * self.heads)

    def heads_of(self, scope: Scope) -> Heads:
        """Both maps' queries and keys, as a position sees them."""
        return Heads(queries=2 * self.heads, groups=2 * self.groups, width=self.width_of_head(scope))

    def heads_and_groups(self) -> tuple[int, int]:
        """Query heads and key heads of both maps."""
        return 2 * self.heads, 2 * self.groups

    @staticmethod
    def first_lambda(layer: int) -> float:
        """What the second map is multiplied by at first, in a layer of that index: 0.8 - 0.6 exp(-0.3 layer)."""
        return 0.8 - 0.6 * exp(-0.3 * layer)

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """`q`, `k`, `v` and `out`, the four vectors behind lambda, the gain of the heads' norm, the position."""
        head = self.width_of_head(scope)
        outward, grouped = 2 * self.heads * head, 2 * self.groups * head
        tensors: dict[str, TensorSpec] = {}
        for name, rows in (("q", outward), ("k", grouped), ("v", grouped)):
            tensors[f"{name}.weight"] = TensorSpec(shape=(rows, scope.width))
            if self.bias != "none":
                tensors[f"{name}.bias"] = TensorSpec(shape=(rows,), role="bias")
        tensors["out.weight"] = TensorSpec(shape=(scope.width, outward), role="output")
        if self.bias == "all":
            tensors["out.bias"] = TensorSpec(shape=(scope.width,), role="bias")
        tensors |= {name: TensorSpec(shape=(head,), role="table") for name in _LAMBDAS}
        gains = self.head_norm.tensors_of_width(2 * head)
        tensors |= {f"head_norm.{name}": gain for name, gain in gains.items()}
        if self.position is not None:
            inside = self.position.tensors_for_heads(self.heads_of(scope), scope)
            tensors |= {f"position.{name}": tensor for name, tensor in inside.items()}
        return tensors

    @property
    def rounding(self) -> Literal["even", "at-zeros"]:
        """Where the two maps agree, rounding decides on the direction of what their difference read."""
        return "at-zeros"

    def pair_flops(self, scope: Scope) -> int:
        """Per head two scores of 2 x head_width, and two weighted sums of 4 x head_width; what the position adds."""
        return 12 * self.width_of_head(scope) * self.heads + self.position_flops(scope)

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Maps, positions, one attention for both maps, their difference normalised, the map out."""
        head = self.width_of_head(scope)
        outward, grouped = 2 * self.heads * head, 2 * self.groups * head
        with tape.call():
            biases = outward + 2 * grouped if self.bias != "none" else 0
            q, k, v = tape.linear(x, [outward, grouped, grouped], biases=biases)
            tape.hold(q, k, v)
            q = q.unflatten(2, (2 * self.heads, -1)).transpose(1, 2)
            k = k.unflatten(2, (2 * self.groups, -1)).transpose(1, 2)
            v = v.unflatten(2, (self.groups, -1)).transpose(1, 2)
            both = self._attended(tape, q, k, v, x, scope)
            tape.hold(both)
            first, second = split(both, [self.heads, self.heads], axis=1)
            less = difference(first, times(second, self._share(tape, head)))
            normed = self.head_norm.trace_normed(tape, less.transpose(1, 2))
            out = tape.scaled(normed)
            tape.hold(out)
            return tape.linear(out.flatten(2), [scope.width], biases=scope.width if self.bias == "all" else 0)[0]

    def _attended(self, tape: Tape, q: Value, k: Value, v: Value, x: Value, scope: Scope) -> Value:
        with tape.call():
            scores = Scores()
            if self.position is not None:
                q, k = self.position.trace_turned(tape, q, k, x, scope)
                tape.hold(q, k)
                scores = self.position.trace_scores(tape, self.heads_of(scope), x, scope)
            if tape.stored is not None and not (scores.bias or scores.table_rows):
                return self._in_turn(tape, cut(q, 1, self.heads), cut(k, 1, self.groups), v, scores)
            twice = joined([v, v], axis=1)
            tape.hold(twice)
            return attend(tape, q, k, twice, pattern=self.pattern(), scores=scores)

    def _in_turn(self, tape: Tape, q: Value, k: Value, v: Value, scores: Scores) -> Value:
        """One map after the other over the keys of a cache, which of several rows are copied for a product."""
        stored, work = tape.stored, tape.work
        with tape.call():
            if stored is not None and stored.plan is not None and work.batch > 1 and work.tokens == 1:
                copied = tape.fresh((work.batch, self.groups, stored.used(stored.held + 1), q.shape[-1]))
                tape.op("half", makes=[copied], gives=[])
                tape.hold(copied)
            parts = [attend(tape, q, k, v, pattern=self.pattern(), scores=scores) for _ in range(2)]
            tape.hold(*parts)
            return joined(parts, axis=1)

    def _share(self, tape: Tape, head: int) -> Value:
        """What the second map is multiplied by: of two products of vectors the vectors and exponentials are kept."""
        wide, narrow = tape.work.wide_bytes, tape.work.value_bytes
        kept = 2 * wide + (4 * head * wide if narrow < wide else 0)
        inside, share = tape.fresh((kept,), item=1, gradient=False), tape.fresh((), item=narrow)
        tape.op("lambda", makes=[inside, share], saves=[inside], gives=[], weights=4 * head * narrow)
        return share

    def state_per_slot(self, scope: Scope) -> Mapping[str, StateSpec]:
        """Two keys and one value of twice the width for each group."""
        head = self.width_of_head(scope)
        return {"k": StateSpec(shape=(2 * self.groups, head)), "v": StateSpec(shape=(self.groups, 2 * head))}

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """A bias on unrotated keys adds the same to all scores of a query; one key per query has weight one."""
        if not self.is_rotated:
            yield "k.bias"
        if self.sees_one_key(length):
            parts = {"q", "k", "position"}
            yield from (name for name in self.tensors(scope) if name.partition(".")[0] in parts)

    def stream_per_channel(self, scope: Scope, most: int) -> Fraction:
        """As many as there are queries in the twin, unless the spec gives a width of heads."""
        return 2 * self._small_heads(most)[0] * self._stream_per_head(scope, most)

    def _small_heads(self, most: int) -> tuple[int, int]:
        ratio, groups = min(self.heads // self.groups, most), min(self.groups, 2)
        return ratio * groups, groups

    def _stream_per_head(self, scope: Scope, most: int) -> Fraction:
        if self.head_width is None:
            return Fraction(1)
        return min(max(Fraction(scope.width, 2 * self.heads * self.head_width), Fraction(1, most)), Fraction(most))

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Fewer and narrower heads, shorter windows."""
        heads, groups = self._small_heads(twin.most)
        head_width = max(4, round(twin.width / self.stream_per_channel(twin.old, twin.most) / 2) * 2)
        position, before = self.position, self.width_of_head(twin.old)
        return {
            "heads": heads,
            "kv_heads": None if self.kv_heads is None else groups,
            "head_width": head_width if self.head_width or twin.width != 2 * heads * head_width else None,
            "sees": shrink_text(self.sees, twin.factor) if twin.factor > 1 else self.sees,
            **({} if position is None else {"position": position.resized(before, head_width)}),
        }

    def details(self, scope: Scope) -> Iterator[str]:
        """Heads, the two maps, position, scale and biases."""
        yield f"{self.heads:,} heads of two maps, {self.width_of_head(scope):,} wide"
        if self.groups != self.heads:
            yield f"{self.groups:,} for keys and values"
        yield from self.position_lines(scope)
        if self.bias != "none":
            yield "biases" if self.bias == "all" else f"biases on {self.bias}"
        yield f"{self.head_norm.kind} on each head"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Head counts that do not divide, positions and patterns that make no sense."""
        if self.heads % self.groups:
            what = f"{self.groups} does not divide heads={self.heads}"
            yield Finding(path="kv_heads", what=what, fix=f"use one of {divisors_of(self.heads)}")
        if self.head_width is None and scope.width % (2 * self.heads):
            what = f"{self.heads} heads of two maps do not divide width={scope.width}"
            fix = "give head_width, or choose heads among the divisors of half the width"
            yield Finding(path="heads", what=what, fix=fix)
            return
        yield from self.score_findings(scope)
        if self.position is not None and self.position.has_kernel:
            what = f"{self.position.kind} computes one softmax by itself, and here are two"
            yield Finding(path="position", what=what, fix="use rope, alibi, t5 or none")
        yield from under("head_norm", self.head_norm.findings(scope))
