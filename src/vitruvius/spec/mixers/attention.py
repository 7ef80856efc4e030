"""Softmax attention with grouped queries over a pattern."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding, PatternError, UsageError
from vitruvius.patterns import Pattern, parse
from vitruvius.patterns.stores import StorePlan, plan
from vitruvius.spec.expressions import evaluate
from vitruvius.spec.node import Flops, Mixer, Norm, Position, PositiveInt, Scope, TensorSpec, register, under

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Mixer):
    """Multi-head, grouped-query or multi-query attention (Vaswani et al., 2017; Ainslie et al., 2023)."""

    kind: Literal["attention"] = "attention"
    heads: PositiveInt
    """Query heads."""
    kv_heads: PositiveInt | None = None
    """Key and value heads, a divisor of heads; as many as heads when not given."""
    head_width: PositiveInt | None = None
    """Channels per head; width / heads when not given."""
    sees: str = "causal"
    """Which keys a query may attend to: a pattern such as `causal & sliding(4096)`."""
    position: Position | None = None
    """Rotary positions or a bias on the scores; None leaves order to the mask and other layers."""
    qk_norm: Norm | None = None
    """Normalises each head's queries and keys before the rotation."""
    score_scale: float | str | None = None
    """Multiplies the scores: a number or an expression; 1/sqrt(head_width) when not given."""
    bias: Literal["none", "qkv", "all"] = "none"
    """Which maps add a learned vector."""

    @property
    def groups(self) -> int:
        """Key and value heads."""
        return self.kv_heads or self.heads

    def width_of_head(self, scope: Scope) -> int:
        """Channels per head."""
        return self.head_width or scope.width // self.heads

    def scale(self, scope: Scope) -> float:
        """What the scores are multiplied by."""
        head_width = self.width_of_head(scope)
        if self.score_scale is None:
            return 1 / sqrt(head_width)
        return evaluate(self.score_scale, {"width": scope.width, "head_width": head_width})

    def pattern(self) -> Pattern:
        """`sees` in normal form."""
        return parse(self.sees)

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """`q`, `k`, `v` and `out`, then the gains of the query and key norms."""
        head = self.width_of_head(scope)
        outward, grouped = self.heads * head, self.groups * head
        tensors: dict[str, TensorSpec] = {}
        for name, rows in (("q", outward), ("k", grouped), ("v", grouped)):
            tensors[f"{name}.weight"] = TensorSpec(shape=(rows, scope.width))
            if self.bias != "none":
                tensors[f"{name}.bias"] = TensorSpec(shape=(rows,), role="bias")
        tensors["out.weight"] = TensorSpec(shape=(scope.width, outward), role="output")
        if self.bias == "all":
            tensors["out.bias"] = TensorSpec(shape=(scope.width,), role="bias")
        if self.qk_norm is not None:
            gains = self.qk_norm.tensors_of_width(head)
            tensors |= {f"{which}_norm.{name}": gain for which in ("q", "k") for name, gain in gains.items()}
        return tensors

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """The four maps, and per head 4 x head_width for each query-key pair (scores and weighted sum)."""
        per_pair = 4 * self.width_of_head(scope) * self.heads
        maps = super(Attention, self).flops(scope, tokens)
        return maps + Flops(useful=per_pair * self.pattern().pairs(tokens), dense=per_pair * tokens * tokens)

    def stores(self, capacity: int) -> StorePlan:
        """Where keys and values of up to `capacity` tokens are kept while decoding."""
        return plan(self.pattern(), capacity)

    def cache_shapes(self, scope: Scope, capacity: int) -> Mapping[str, tuple[int, ...]]:
        """Keys and values of every slot: kv_heads x slots x head_width each."""
        shape = (self.groups, self.stores(capacity).slots, self.width_of_head(scope))
        return {"k": shape, "v": shape}

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Head counts that do not divide, positions that do not belong here, patterns that make no sense."""
        if self.heads % self.groups:
            what = f"{self.groups} does not divide heads={self.heads}"
            yield Finding(path="kv_heads", what=what, fix=f"use one of {_divisors(self.heads)}")
        if self.head_width is None and scope.width % self.heads:
            what = f"{self.heads} does not divide width={scope.width}"
            yield Finding(path="heads", what=what, fix="give head_width, or choose heads among the divisors of width")
            return
        if self.score_scale is not None:
            try:
                self.scale(scope)
            except UsageError as error:
                yield Finding(path="score_scale", what=error.what, fix=error.fix)
        if self.position is not None:
            if self.position.acts_on == "embedding":
                what = f"{self.position.kind} positions are added to the embedding, not inside attention"
                fix = f"move it to embedding: {{position: {{kind: {self.position.kind}}}}}"
                yield Finding(path="position", what=what, fix=fix)
            head_width, farthest = self.width_of_head(scope), self._farthest(scope)
            yield from under("position", self.position.findings_for_heads(head_width, farthest, scope))
            if self.position.acts_on != "embedding":
                yield from under("position", self.position.findings(scope))
        if self.qk_norm is not None:
            yield from under("qk_norm", self.qk_norm.findings(scope))
        yield from under("sees", self._pattern_findings(scope))

    def _farthest(self, scope: Scope) -> int:
        """The greatest distance at which a query sees a key within the context."""
        try:
            highs = [clause.distance_high for clause in self.pattern().clauses]
        except PatternError:
            return scope.context
        return min(scope.context, max(highs, default=0))

    def _pattern_findings(self, scope: Scope) -> Iterator[Finding]:
        try:
            pattern = self.pattern()
            empty = pattern.empty_rows(scope.context)
            pattern.pairs(scope.context)  # what the bill is made of must be countable
        except PatternError as error:
            at = "" if error.position is None else f" (character {error.position + 1})"
            yield Finding(what=error.what + at, fix=error.fix)
            return
        widest = pattern.widest_window
        if widest is not None and widest > scope.context:
            what = f"a window of {widest:,} is longer than the context of {scope.context:,}"
            yield Finding(what=what, fix=f"use a window of at most {scope.context:,}, or a longer context")
        if empty:
            what = f"queries at positions {_some(empty)} see no key, and a softmax over nothing has no meaning"
            yield Finding(what=what, fix="let each query see at least itself, e.g. with | sliding(1)")
        unread = _unread(pattern, scope.context)
        if unread:
            what = f"nobody reads the keys at positions {_some(unread)}; they are computed and never cached"
            yield Finding(severity="note", what=what)


def _unread(pattern: Pattern, context: int) -> Sequence[int]:
    """The first keys that nobody reads, as far as that is easily known: they are worth a note, no more."""
    try:
        return pattern.unread_keys(context) if pattern.is_causal else ()
    except PatternError:
        return ()


def _some(positions: Sequence[int]) -> str:
    return ", ".join(map(str, positions[:3]))


def _divisors(number: int) -> str:
    divisors = [n for n in range(1, min(number, 4096) + 1) if number % n == 0]
    shown = divisors if len(divisors) <= 8 else [*divisors[:4], *divisors[-4:]]
    return ", ".join(map(str, shown))
