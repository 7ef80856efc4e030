"""Softmax attention with grouped queries over a pattern."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.patterns import shrink_text
from vitruvius.spec.mixers.seeing import Seeing, divisors_of
from vitruvius.spec.node import (
    Heads,
    Norm,
    Position,
    PositiveFloat,
    PositiveInt,
    Scope,
    StateSpec,
    TensorSpec,
    Twin,
    register,
    under,
)
from vitruvius.spec.reporting import printable, quoted
from vitruvius.spec.tracing.attending import Scores, attend

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.mixing import Mixing
    from vitruvius.spec.tracing.tape import Tape, Value

_NARROWEST_TWIN, _WIDEST_TWIN = 8, 256
"""Channels of a head of a small twin."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Seeing):
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
    gate: Literal["none", "headwise", "elementwise"] = "none"
    """Multiplies what each head found by the sigmoid of a map of the token: one number per head, or one per channel."""
    sinks: Literal["none", "learned", "off-by-one"] = "none"
    """A logit per head that takes a share of the softmax and gives nothing: learned (gpt-oss), or zero."""
    logit_cap: PositiveFloat | None = None
    """Scores become cap * tanh(score / cap), as in Gemma 2."""
    kv_from: str | None = None
    """Block whose nearest earlier layer lends its keys and values, in place of maps of its own."""
    value_from: str | None = None
    """Block whose nearest earlier layer's values are mixed into its own, with two learned weights."""
    prefix: Literal["masked", "open"] = "masked"
    """`open`: the tokens of a prefix, where one is given, see each other in both directions (prefix LM)."""

    @property
    def groups(self) -> int:
        """Key and value heads."""
        return self.kv_heads or self.heads

    @property
    def keys_of(self) -> str | None:
        """Block that lends its keys and values."""
        return self.kv_from

    @property
    def values_of(self) -> str | None:
        """Block whose values are mixed in."""
        return self.value_from

    @property
    def row_sums(self) -> Literal["one", "below-one"]:
        """Sinks take a share."""
        return "one" if self.sinks == "none" else "below-one"

    def width_of_head(self, scope: Scope) -> int:
        """Channels per head."""
        return self.head_width or scope.width // self.heads

    def heads_of(self, scope: Scope) -> Heads:
        """The heads, as a position sees them."""
        return Heads(queries=self.heads, groups=self.groups, width=self.width_of_head(scope))

    def heads_and_groups(self) -> tuple[int, int]:
        """Query heads and key heads."""
        return self.heads, self.groups

    def lends(self, scope: Scope, what: Literal["keys", "values"]) -> Heads | None:
        """Its own; a position with a kernel of its own may keep keys in a form that others cannot read."""
        if self.kv_from is not None:
            return None
        own_form = what == "keys" and self.position is not None and self.position.has_kernel
        return None if own_form else self.heads_of(scope)

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """`q`, `k`, `v`, the gate and `out`, gains of the query and key norms, the position, sinks, mixing weights."""
        head = self.width_of_head(scope)
        outward, grouped = self.heads * head, self.groups * head
        tensors: dict[str, TensorSpec] = {}
        for name, rows in self._maps(outward, grouped).items():
            tensors[f"{name}.weight"] = TensorSpec(shape=(rows, scope.width))
            if self.bias != "none":
                tensors[f"{name}.bias"] = TensorSpec(shape=(rows,), role="bias")
        tensors["out.weight"] = TensorSpec(shape=(scope.width, outward), role="output")
        if self.bias == "all":
            tensors["out.bias"] = TensorSpec(shape=(scope.width,), role="bias")
        if self.qk_norm is not None:
            gains = self.qk_norm.tensors_of_width(head)
            normed = ("q", "k") if self.kv_from is None else ("q",)
            tensors |= {f"{which}_norm.{name}": gain for which in normed for name, gain in gains.items()}
        if self.position is not None:
            inside = self.position.tensors_for_heads(self.heads_of(scope), scope)
            tensors |= {f"position.{name}": tensor for name, tensor in inside.items()}
        if self.sinks == "learned":
            tensors["sinks"] = TensorSpec(shape=(self.heads,), role="bias")
        if self.value_from is not None:
            tensors["value_mix"] = TensorSpec(shape=(2,), role="gain", start=0.5)
        return tensors

    def _maps(self, outward: int, grouped: int) -> dict[str, int]:
        """Rows of each map of the token."""
        rows = {"q": outward}
        if self.kv_from is None:
            rows |= {"k": grouped, "v": grouped}
        if self.gate != "none":
            rows["gate"] = self.heads if self.gate == "headwise" else outward
        return rows

    def pair_flops(self, scope: Scope) -> int:
        """Per head 4 x head_width (a score and a weighted sum), and what the position adds."""
        return 4 * self.width_of_head(scope) * self.heads + self.position_flops(scope)

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Maps, norms of queries and keys, positions, attention, gate and map out."""
        head = self.width_of_head(scope)
        maps = self._maps(self.heads * head, self.groups * head)
        biases = sum(maps.values()) if self.bias != "none" else 0
        with tape.call():
            made = tape.linear(x, list(maps.values()), biases=biases, backward=self._disordered(tape, scope))
            tape.hold(*made)
            by_map = dict(zip(maps, made, strict=True))
            q = by_map["q"].unflatten(2, (-1, head)).transpose(1, 2)
            q = q if self.qk_norm is None else self.qk_norm.trace_normed(tape, q)
            tape.hold(q)
            if self.kv_from is None:
                k, v = (by_map[name].unflatten(2, (-1, head)).transpose(1, 2) for name in ("k", "v"))
                v = v if self.value_from is None else self._mixed(tape, v)
                k = k if self.qk_norm is None else self.qk_norm.trace_normed(tape, k)
                tape.hold(k, v)
                out = self._to_own(tape, q, k, v, x, scope)
            else:
                out = self._to_borrowed(tape, q, x, scope)
            tape.hold(out)
            out = out.transpose(1, 2)
            if self.gate != "none":
                out = _gated(tape, out, by_map["gate"].unflatten(2, (self.heads, -1)))
                tape.hold(out)
            (y,) = tape.linear(out.flatten(2), [scope.width], biases=scope.width if self.bias == "all" else 0)
            return y

    def _to_own(self, tape: Tape, q: Value, k: Value, v: Value, x: Value, scope: Scope) -> Value:
        with tape.call():
            if self.position is not None:
                q, k = self.position.trace_turned(tape, q, k, x, scope)
            tape.hold(q, k)
            tape.lend("keys", k, v)
            tape.lend("values", v)
            if self.position is not None and self.position.has_kernel:
                return self.position.trace_attended(tape, q, k, v, x, self.pattern(), scope)
            return attend(tape, q, k, v, pattern=self.pattern(), scores=self._scores(tape, x, scope))

    def _to_borrowed(self, tape: Tape, q: Value, x: Value, scope: Scope) -> Value:
        batch, _, length, head = q.shape
        with tape.call():
            if self.position is not None:
                q, _ = self.position.trace_turned(tape, q, q.one_head(), x, scope)
            tape.hold(q)
            lent = [tape.borrowed(f"keys.{i}", (batch, self.groups, length, head)) for i in range(2)]
            return attend(tape, q, *lent, pattern=self.pattern(), scores=self._scores(tape, x, scope))

    def _scores(self, tape: Tape, x: Value, scope: Scope) -> Scores:
        heads = self.heads_of(scope)
        asked = Scores() if self.position is None else self.position.trace_scores(tape, heads, x, scope)
        sink = {"none": 0, "off-by-one": -1, "learned": self.heads}[self.sinks]
        return replace(asked, softcap=self.logit_cap is not None, sink=sink)

    def _mixed(self, tape: Tape, v: Value) -> Value:
        other = tape.borrowed("values.0", v.shape)
        mixed = [
            tape.pointwise("value mix", each, saves=[each], backward=each.size, weights=tape.work.value_bytes)
            for each in (v, other)
        ]
        return tape.add(*mixed)

    def _disordered(self, tape: Tape, scope: Scope) -> int:
        """Bytes of gradients of queries, keys and values that come back by head, and are copied into order."""
        work, head = tape.work, self.width_of_head(scope)
        if work.tokens == 1:
            return 0
        queries = self.heads if self.qk_norm is not None and self.heads > 1 else 0
        keys = 2 * self.groups if self.kv_from is None and self.groups > 1 else 0
        return (queries + keys) * head * work.positions * work.value_bytes

    def state_per_slot(self, scope: Scope) -> Mapping[str, StateSpec]:
        """A key and a value of each group."""
        kept = StateSpec(shape=(self.groups, self.width_of_head(scope)))
        return {"k": kept, "v": kept}

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """A bias on unrotated keys adds the same to all scores of a query; one key per query has weight one.

        Neither holds beside a sink. A cap bends the first a little, as far as scores come near it.
        """
        if not self.is_rotated and self.sinks == "none":
            yield "k.bias" if self.qk_norm is None else "k_norm.bias"
        if self.sinks == "none" and self.sees_one_key(length):
            unread = all(pattern.pairs(length) == length for pattern in scope.readers)
            parts = {"q", "q_norm", "position"} | ({"k", "k_norm"} if unread else set[str]())
            yield from (name for name in self.tensors(scope) if name.partition(".")[0] in parts)

    def stream_per_channel(self, scope: Scope, most: int) -> Fraction:
        """As many as there are query heads in the twin, unless the spec gives a width of heads."""
        return self._small_heads(most)[0] * self._stream_per_head(scope, most)

    def _small_heads(self, most: int) -> tuple[int, int]:
        """Query and key heads of the twin: the same ratio, two groups where there were several."""
        ratio, groups = min(self.heads // self.groups, most), min(self.groups, 2)
        return ratio * groups, groups

    def _stream_per_head(self, scope: Scope, most: int) -> Fraction:
        """Width of the stream to the width of all heads together."""
        if self.head_width is None:
            return Fraction(1)
        return min(max(Fraction(scope.width, self.heads * self.head_width), Fraction(1, most)), Fraction(most))

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Fewer and narrower heads with their positions, shorter windows."""
        heads, groups = self._small_heads(twin.most)
        # Even, because rotations turn channels in pairs.
        even = round(twin.width / (heads * self._stream_per_head(twin.old, twin.most)) / 2) * 2
        head_width = min(max(even, _NARROWEST_TWIN), _WIDEST_TWIN)
        before = self.width_of_head(twin.old)
        return {
            "heads": heads,
            "kv_heads": None if self.kv_heads is None else groups,
            "head_width": head_width if self.head_width or twin.width != heads * head_width else None,
            "sees": shrink_text(self.sees, twin.factor) if twin.factor > 1 else self.sees,
            "position": None if self.position is None else self.position.resized(before, head_width),
        }

    def details(self, scope: Scope) -> Iterator[str]:
        """Heads, norms, position, scale and biases, then what sets this attention apart."""
        yield f"{self.heads:,} heads of {self.width_of_head(scope):,}"
        if self.groups != self.heads:
            yield f"{self.groups:,} for keys and values"
        if self.kv_from is not None:
            yield f"keys and values of {printable(self.kv_from)}"
        if self.value_from is not None:
            yield f"values mixed with those of {printable(self.value_from)}"
        if self.qk_norm is not None:
            yield f"{self.qk_norm.kind} on {'q and k' if self.kv_from is None else 'q'}"
        yield from self.position_lines(scope)
        if self.bias != "none":
            yield "biases" if self.bias == "all" else f"biases on {self.bias}"
        if self.logit_cap is not None:
            yield f"scores capped at {self.logit_cap:g}"
        if self.sinks != "none":
            yield "a learned sink per head" if self.sinks == "learned" else "softmax off by one"
        if self.gate != "none":
            yield f"{self.gate} output gate"
        if self.prefix == "open":
            yield "open prefix"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Head counts that do not divide, positions and patterns that make no sense, sharing at odds with itself."""
        if self.heads % self.groups:
            what = f"{self.groups} does not divide heads={self.heads}"
            yield Finding(path="kv_heads", what=what, fix=f"use one of {divisors_of(self.heads)}")
        if self.head_width is None and scope.width % self.heads:
            what = f"{self.heads} does not divide width={scope.width}"
            yield Finding(path="heads", what=what, fix="give head_width, or choose heads among the divisors of width")
            return
        yield from self.score_findings(scope)
        if self.qk_norm is not None:
            yield from under("qk_norm", self.qk_norm.findings(scope))
        if self.position is not None:
            yield from self._kernel_findings(self.position)
        if self.kv_from is not None:
            yield from self._reader_findings(self.kv_from, scope)

    def _kernel_findings(self, position: Position) -> Iterator[Finding]:
        """What a position that computes attention by itself leaves no room for."""
        refused = {"sinks": self.sinks != "none", "logit_cap": self.logit_cap is not None}
        for name in (name for name, given in refused.items() if given and position.has_kernel):
            what = f"{position.kind} computes attention by itself, and knows nothing of {name}"
            yield Finding(path=name, what=what, fix=f"leave {name} out, or choose another position")

    def _reader_findings(self, source: str, scope: Scope) -> Iterator[Finding]:
        """What a layer without keys of its own cannot have."""
        if self.value_from is not None:
            what = f"the values are those of {source}, and there are none of its own to mix with {self.value_from}'s"
            yield Finding(path="value_from", what=what, fix="leave out kv_from or value_from")
        if self.gate == self.sinks == "none" and self.sees_one_key(scope.context):
            what = f"each query sees a single key, which is {source}'s: nothing here would depend on this layer's input"
            yield Finding(path="sees", what=what, fix="let queries see more keys, or give the layer keys of its own")
        position = self.position
        if position is None:
            return
        heads = self.heads_of(scope)
        if position.has_kernel or position.slot_state(heads) or position.running_state(heads, scope):
            what = (
                f"{position.kind} positions are made of what a layer's own keys are made of, and these are {source}'s"
            )
            yield Finding(path="position", what=what, fix="use rope, alibi, t5 or none where keys are shared")

    def findings_of_loan(self, what: Literal["keys", "values"], lender: Mixing, scope: Scope) -> Iterator[Finding]:
        """A lender without any, heads of other sizes, keys that are turned otherwise than the queries."""
        path, name = ("kv_from", self.kv_from) if what == "keys" else ("value_from", self.value_from)
        own, lent = self.heads_of(scope), lender.lends(scope, what)
        if lent is None:
            has = "keys and values" if what == "keys" else "values"
            text = f"layers of block {quoted(str(name))} have no {has} of their own that another layer could read"
            yield Finding(path=path, what=text, fix="name a block whose mixer is attention with maps of its own")
            return
        if (lent.groups, lent.width) != (own.groups, own.width):
            text = (
                f"{quoted(str(name))} has {lent.groups} key heads of {lent.width} channels, and this attention is made "
                f"for {own.groups} of {own.width}"
            )
            yield Finding(path=path, what=text, fix=f"use kv_heads: {lent.groups} and head_width: {lent.width}")
        position = getattr(lender, "position", None)
        turned = self.is_rotated or getattr(position, "acts_on", "") == "rotation"
        if what == "keys" and turned and position != self.position:
            text = f"the keys of {quoted(str(name))} are turned by other positions than the queries here"
            yield Finding(path="position", what=text, fix=f"write the position of {quoted(str(name))} here too")


def _gated(tape: Tape, out: Value, gate: Value) -> Value:
    """Times the sigmoid of the gate, [B, T, H, 1] or [B, T, H, K]."""
    share = tape.like(gate)
    tape.op("gate", reads=[gate], makes=[share], saves=[share])
    made = tape.like(out)
    wide = out.size if share.shape != out.shape else 0
    tape.op("product", reads=[out, share], makes=[made], saves=[out, share], backward=wide)
    return made
