"""What mixers with query-key pairs share: a pattern, a position, a scale, and the store of what was seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vitruvius.errors import Finding, PatternError, UsageError
from vitruvius.patterns import Pattern, parse
from vitruvius.patterns.stores import StorePlan, plan
from vitruvius.spec.expressions import evaluate
from vitruvius.spec.node import Flops, Heads, Mixer, Position, Scope, StateSpec, under
from vitruvius.spec.reporting import printable
from vitruvius.spec.schedulable import Schedulable, marks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vitruvius.spec.node import Component


class Seeing(Mixer):
    """Base of softmax attention in all its forms."""

    __slots__ = ()

    schedulable = marks(
        sees=Schedulable(
            form="text",
            bears_on="cost",
            why="a layer that opens from a window to all keys; its numbers may be named by themselves",
        ),
        score_scale=Schedulable(why="the temperature of attention, to hold its entropy where it should be"),
        logit_cap=Schedulable(bears_on="cost", why="a cap on the scores, for the steps that need one"),
    )

    sees: str
    position: Position | None
    score_scale: float | str | None

    def heads_of(self, scope: Scope) -> Heads:
        """The heads, as a position sees them: those whose queries and keys it turns."""
        raise NotImplementedError

    def score_width(self, scope: Scope) -> int:
        """Channels of a query that a score sums over."""
        return self.heads_of(scope).width

    def state_per_slot(self, scope: Scope) -> Mapping[str, StateSpec]:
        """What is kept of each position seen; shapes are (rows, width) and stand for rows x slots x width."""
        raise NotImplementedError

    def pattern(self) -> Pattern:
        """`sees` in normal form."""
        return parse(self.sees)

    def scale(self, scope: Scope) -> float:
        """What the scores are multiplied by."""
        width = self.score_width(scope)
        if self.score_scale is None:
            return scope.attention_scale(width)
        return evaluate(self.score_scale, {"width": scope.width, "head_width": width})

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """The linear maps, `pair_flops` for each query-key pair, and what the position does to each token."""
        per_pair = self.pair_flops(scope)
        own = 0 if self.position is None else self.position.token_flops_for_heads(self.heads_of(scope)) * tokens
        pairs, dense = self.pattern().count(tokens), per_pair * tokens * tokens
        useful, unsure = per_pair * pairs.value, per_pair * pairs.error
        return super().flops(scope, tokens) + Flops(useful=useful + own, dense=dense + own, unsure=unsure)

    def position_flops(self, scope: Scope) -> int:
        """What the position adds to the cost of each query-key pair."""
        return 0 if self.position is None else self.position.pair_flops_for_heads(self.heads_of(scope))

    def stores(self, scope: Scope, capacity: int) -> StorePlan:
        """Where what is kept of up to `capacity` tokens stands while decoding: as long as anyone reads it."""
        kept = self.pattern()
        for pattern in scope.readers:
            kept = kept | pattern
        return plan(kept, capacity)

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:
        """What is kept for every slot, rows x slots x width each, and what the position keeps."""
        kept = dict(self.state_per_slot(scope))
        running: Mapping[str, StateSpec] = {}
        if self.position is not None:
            heads = self.heads_of(scope)
            kept |= self.position.slot_state(heads)
            running = self.position.running_state(heads, scope)
        slots = self.stores(scope, capacity).slots
        placed = {name: replace(spec, shape=(spec.shape[0], slots, spec.shape[1])) for name, spec in kept.items()}
        return {**placed, **running}

    def sees_one_key(self, length: int) -> bool:
        """Whether each query of a sequence of `length` tokens has a single key: its weight is one whatever it asks."""
        try:
            return self.pattern().pairs(length) == length
        except PatternError:
            return False

    @property
    def is_rotated(self) -> bool:
        """Whether the position turns queries and keys, so that a vector added to all keys is not the same for all."""
        return self.position is not None and self.position.acts_on == "rotation"

    # What a drawing says

    def position_lines(self, scope: Scope) -> Iterator[str]:
        """The position and its scaling, and the scale of the scores where it is not the usual one."""
        if self.position is not None:
            yield from described(self.position, scope)
        if self.score_scale is not None:
            yield f"scores times {printable(str(self.score_scale))}"

    # What does not fit together

    def score_findings(self, scope: Scope) -> Iterator[Finding]:
        """Scales that cannot be read, positions that do not belong here, patterns that make no sense."""
        if self.score_scale is not None:
            try:
                self.scale(scope)
            except UsageError as error:
                yield Finding(path="score_scale", what=error.what, fix=error.fix)
        if self.position is not None:
            yield from under("position", self._position_findings(self.position, scope))
        yield from under("sees", self._pattern_findings(scope))

    def _position_findings(self, position: Position, scope: Scope) -> Iterator[Finding]:
        if position.acts_on == "embedding":
            what = f"{position.kind} positions are added to the embedding, not inside attention"
            yield Finding(what=what, fix=f"move it to embedding: {{position: {{kind: {position.kind}}}}}")
        if position.causal_only and self._sees_later():
            what = f"{position.kind} {position.causal_only}, and this layer sees later keys too"
            yield Finding(what=what, fix="make the pattern causal and the prefix masked, or use rope, alibi or t5 here")
        yield from position.findings_for_heads(self.heads_of(scope).width, self._farthest(scope), scope)
        if position.acts_on != "embedding":
            yield from position.findings(scope)

    def _sees_later(self) -> bool:
        """Whether a query may see a later key."""
        if getattr(self, "prefix", "masked") == "open":
            return True
        try:
            return not self.pattern().is_causal
        except PatternError:
            return False

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


def described(component: Component, scope: Scope) -> tuple[str, ...]:
    """What a component says of itself in a line or two: its details, or its kind where it gives none."""
    lines = component.details(scope)
    return (component.kind,) if lines is None else tuple(lines)


def divisors_of(number: int) -> str:
    """The divisors of a number as a fix lists them."""
    divisors = [n for n in range(1, min(number, 4096) + 1) if number % n == 0]
    shown = divisors if len(divisors) <= 8 else [*divisors[:4], *divisors[-4:]]
    return ", ".join(map(str, shown))


def _unread(pattern: Pattern, context: int) -> Sequence[int]:
    """The first keys that nobody reads, as far as that is easily known: they are worth a note, no more."""
    try:
        return pattern.unread_keys(context) if pattern.is_causal else ()
    except PatternError:
        return ()


def _some(positions: Sequence[int]) -> str:
    return ", ".join(map(str, positions[:3]))
