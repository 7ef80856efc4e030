"""Multi-head latent attention: keys and values out of one narrow vector per token."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.patterns import shrink_text
from vitruvius.spec.mixers.seeing import Seeing
from vitruvius.spec.node import (
    Heads,
    NonNegativeInt,
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
from vitruvius.spec.positions.fox import ForgettingPosition
from vitruvius.spec.tracing.attending import Scores, attend
from vitruvius.spec.tracing.attending_stored import attend_stored, beside
from vitruvius.spec.tracing.tape_ops import expand, joined, split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.attending_stored import Stored
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention(Seeing):
    """Keys and values made from one compressed vector per token, which is all the cache holds (DeepSeek-V2, 2024)."""

    kind: Literal["mla"] = "mla"
    heads: PositiveInt
    """Heads; each has a query, a key and a value of its own."""
    q_rank: PositiveInt | None = None
    """Width of the compressed queries; None makes them straight from the token."""
    kv_rank: PositiveInt
    """Width of what keys and values are made from, and are cached as."""
    nope_width: PositiveInt
    """Channels of a head's query and key that no position turns."""
    rope_width: NonNegativeInt
    """Channels of a query that the position turns, beside one key of that width for all heads."""
    value_width: PositiveInt
    """Channels of a head's value."""
    sees: str = "causal"
    """Which keys a query may attend to: a pattern such as `causal & sliding(4096)`."""
    position: Position | None = None
    """What turns the `rope_width` channels, or a bias on the scores; None leaves order to the mask and other layers."""
    score_scale: float | str | None = None
    """Multiplies the scores: a number or an expression; 1/sqrt(nope_width + rope_width) when not given."""
    norm: Norm = field(default_factory=RMSNorm)
    """Normalises the compressed queries, and the compressed keys and values."""

    def heads_of(self, scope: Scope) -> Heads:
        """What the position turns: a part of each query, and one key for all of them."""
        del scope
        return Heads(queries=self.heads, groups=1, width=self.rope_width)

    def score_width(self, scope: Scope) -> int:
        """Channels of a query, turned and not."""
        del scope
        return self.nope_width + self.rope_width

    def heads_and_groups(self) -> tuple[int, int]:
        """Query heads, and the one latent vector that they share."""
        return self.heads, 1

    @property
    def absorbed_up_to(self) -> int:
        """The most new tokens for which attention to the latents themselves costs less than making keys of them.

        For each latent and head, making a key and a value takes kv_rank x (nope + value) products, and each query that
        reads them nope + rope + value; a query that reads the latent itself takes 2 x kv_rank + rope.
        """
        more = 2 * self.kv_rank - self.nope_width - self.value_width
        return self.kv_rank * (self.nope_width + self.value_width) // more if more > 0 else 2**31

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The maps down to the latents with their norms, the maps up to the heads, `out`, and the position."""
        query = self.heads * self.score_width(scope)
        tensors: dict[str, TensorSpec] = {}
        if self.q_rank is None:
            tensors["q.weight"] = TensorSpec(shape=(query, scope.width))
        else:
            tensors["q_down.weight"] = TensorSpec(shape=(self.q_rank, scope.width))
            tensors |= {f"q_norm.{name}": gain for name, gain in self.norm.tensors_of_width(self.q_rank).items()}
            tensors["q_up.weight"] = TensorSpec(shape=(query, self.q_rank))
        tensors["kv_down.weight"] = TensorSpec(shape=(self.kv_rank + self.rope_width, scope.width))
        tensors |= {f"kv_norm.{name}": gain for name, gain in self.norm.tensors_of_width(self.kv_rank).items()}
        both = self.nope_width + self.value_width
        tensors["kv_up.weight"] = TensorSpec(shape=(self.heads * both, self.kv_rank))
        tensors["out.weight"] = TensorSpec(shape=(scope.width, self.heads * self.value_width), role="output")
        if self.position is not None:
            inside = self.position.tensors_for_heads(self.heads_of(scope), scope)
            tensors |= {f"position.{name}": tensor for name, tensor in inside.items()}
        return tensors

    def pair_flops(self, scope: Scope) -> int:
        """Per head 2 x (nope + rope) for a score and 2 x value for its share, and what the position adds."""
        per_head = 2 * self.score_width(scope) + 2 * self.value_width
        return per_head * self.heads + self.position_flops(scope)

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Maps down and up, the part that turns, keys and values of each head, attention, the map out."""
        with tape.call():
            q, latent = self._projected(tape, x, scope)
            if self.is_rotated:
                q, latent = self._turned(tape, q, latent, x, scope)
            tape.hold(q, latent)
            scores = Scores()
            if self.position is not None:
                scores = self.position.trace_scores(tape, self.heads_of(scope), x, scope)
            out = self._attended(tape, q, latent, scores)
            tape.hold(out)
            return tape.linear(out.transpose(1, 2).flatten(2), [scope.width])[0]

    def _projected(self, tape: Tape, x: Value, scope: Scope) -> tuple[Value, Value]:
        query, down = self.heads * self.score_width(scope), self.kv_rank + self.rope_width
        with tape.call():
            q, latent = tape.linear(x, [query if self.q_rank is None else self.q_rank, down])
            tape.hold(q, latent)
            if self.q_rank is not None:
                q = tape.linear(self.norm.trace_normed(tape, q), [query])[0]
                tape.hold(q)
            narrow, key = split(latent, [self.kv_rank, self.rope_width])
            latent = joined([self.norm.trace_normed(tape, narrow), key])
            return q.unflatten(2, (self.heads, -1)).transpose(1, 2), latent.unsqueeze(1)

    def _turned(self, tape: Tape, q: Value, latent: Value, x: Value, scope: Scope) -> tuple[Value, Value]:
        assert self.position is not None
        with tape.call():
            tape.hold(q, latent)
            plain, turning = split(q, [self.nope_width, self.rope_width])
            narrow, key = split(latent, [self.kv_rank, self.rope_width])
            turning, key = self.position.trace_turned(tape, turning, key, x, scope)
            tape.hold(turning, key)
            q = joined([plain, turning])
            tape.hold(q)
            return q, joined([narrow, key])

    def _attended(self, tape: Tape, q: Value, latent: Value, scores: Scores) -> Value:
        if tape.stored is not None and tape.stored.plan is not None:
            return self._to_stored(tape, tape.stored, q, scores)
        with tape.call():
            narrow, key = split(latent.squeeze(1), [self.kv_rank, self.rope_width])
            up = tape.linear(narrow, [self.heads * (self.nope_width + self.value_width)])[0]
            tape.hold(up)
            k, v = split(up.unflatten(2, (self.heads, -1)).transpose(1, 2), [self.nope_width, self.value_width])
            k = joined([k, expand(key.unsqueeze(1), 1, self.heads)])
            tape.hold(k)
            return attend(tape, q, k, v, pattern=self.pattern(), scores=scores)

    def _to_stored(self, tape: Tape, stored: Stored, q: Value, scores: Scores) -> Value:
        """Attention to the latents of a cache, as they are or made keys and values of each head."""
        (batch, _, queries, _), item, kept = q.shape, q.item, self.kv_rank + self.rope_width
        slots = stored.used(stored.held) + queries if queries > 1 else stored.used(stored.held + 1)
        with tape.call():
            latents = tape.fresh((beside(tape, [(1, kept)], item),), item=1, gradient=False)
            tape.op("beside", makes=[latents], gives=[])
            tape.hold(latents)
            pattern = self.pattern()
            if queries <= self.absorbed_up_to:
                wide = tape.fresh((batch, self.heads, queries, kept))
                tape.op("absorbed", reads=[q], makes=[wide], forward=wide.size, gives=[])
                tape.hold(wide)
                out = attend_stored(
                    tape, wide, groups=1, value=self.kv_rank, pattern=pattern, scores=scores, copied=False
                )
                tape.hold(out)
                made = tape.fresh((batch, self.heads, queries, self.value_width))
                tape.op("values", reads=[out], makes=[made], forward=made.size, gives=[])
                return made
            up = tape.fresh((batch, slots, self.heads * (self.nope_width + self.value_width)))
            narrow = slots * batch * self.kv_rank * item if batch > 1 else 0
            tape.op("up", makes=[up], forward=narrow, gives=[])
            tape.hold(up)
            keys = tape.fresh((batch, self.heads, slots, self.nope_width + self.rope_width))
            tape.op("keys", reads=[up], makes=[keys], gives=[])
            tape.hold(keys)
            return attend_stored(
                tape, q, groups=self.heads, value=self.value_width, pattern=pattern, scores=scores, copied=False
            )

    def state_per_slot(self, scope: Scope) -> Mapping[str, StateSpec]:
        """The normalised latent and the turned key beside it."""
        del scope
        return {"latent": StateSpec(shape=(1, self.kv_rank + self.rope_width))}

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """Nothing of a query matters where one key has all the weight."""
        if self.sees_one_key(length):
            parts = {"q", "q_down", "q_norm", "q_up", "position"}
            yield from (name for name in self.tensors(scope) if name.partition(".")[0] in parts)

    def stream_per_channel(self, scope: Scope, most: int) -> Fraction:
        """As many as the twin has heads, in the proportion that the stream has to all values together."""
        share = Fraction(scope.width, self.heads * self.value_width)
        return min(self.heads, 4) * min(max(share, Fraction(1, most)), Fraction(most))

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Fewer heads, narrower latents and heads in proportion, shorter windows."""
        heads = min(self.heads, 4)
        width = max(4, round(twin.width / self.stream_per_channel(twin.old, twin.most) / 2) * 2)
        rope = 0 if self.rope_width == 0 else max(4, round(width * self.rope_width / self.value_width / 2) * 2)
        position = self.position
        return {
            "heads": heads,
            "q_rank": None if self.q_rank is None else twin.in_width(self.q_rank),
            "kv_rank": twin.in_width(self.kv_rank),
            "nope_width": max(4, round(width * self.nope_width / self.value_width)),
            "rope_width": rope,
            "value_width": width,
            "sees": shrink_text(self.sees, twin.factor) if twin.factor > 1 else self.sees,
            **({} if position is None or rope == 0 else {"position": position.resized(self.rope_width, rope)}),
        }

    def widened(self, factor: int) -> Mapping[str, object]:
        """More heads, wider latents."""
        ranks = {"kv_rank": self.kv_rank * factor} | ({"q_rank": self.q_rank * factor} if self.q_rank else {})
        return {"heads": self.heads * factor, **ranks}

    def details(self, scope: Scope) -> Iterator[str]:
        """Heads, ranks and the position."""
        yield f"{self.heads:,} heads of {self.nope_width:,} + {self.rope_width:,}, values of {self.value_width:,}"
        yield f"keys and values from {self.kv_rank:,}"
        if self.q_rank is not None:
            yield f"queries from {self.q_rank:,}"
        yield from self.position_lines(scope)

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Positions without channels to turn, latents that compress nothing, patterns that make no sense."""
        turns = self.position is not None and self.position.acts_on == "rotation"
        if turns and self.rope_width == 0:
            what = "a position that turns channels, and none are set apart for it"
            yield Finding(path="rope_width", what=what, fix="use rope_width: 64, or position: none")
        else:
            yield from self.score_findings(scope)
        if isinstance(self.position, ForgettingPosition) and self.position.evict != "never":
            what = "eviction needs the norms of the keys, and the cache holds what they are made of"
            yield Finding(path="position.evict", what=what, fix="use evict: never")
        if self.position is not None and self.position.has_kernel:
            what = f"{self.position.kind} computes attention by itself, and reads keys that are cached as they are"
            yield Finding(path="position", what=what, fix="use rope, alibi, t5 or none")
        yield from under("norm", self.norm.findings(scope))
        whole = self.heads * (self.score_width(scope) + self.value_width)
        if self.kv_rank + self.rope_width > whole:
            what = f"a latent of {self.kv_rank + self.rope_width:,} is wider than the {whole:,} that it stands for"
            fix = "lower kv_rank, or use kind: attention"
            yield Finding(path="kv_rank", severity="warning", what=what, fix=fix)
