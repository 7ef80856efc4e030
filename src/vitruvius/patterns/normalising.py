"""From a condition to a pattern: what the normal form can say becomes bounds and steps, the rest stays a predicate.

`q - k < 8` is a window, `k % 128 == 0` a global, `q // 64 == k // 64` a block; `(q - k) % 7 == 3` is none of these.
A predicate still gets every bound that follows from it: `q // 64 - k // 64 <= 1` cannot hold 128 positions apart,
and so its cache is a ring of 127.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Final

from vitruvius.errors import PatternError
from vitruvius.patterns.algebra import Pattern
from vitruvius.patterns.arithmetic import FOREVER
from vitruvius.patterns.clause import Clause
from vitruvius.patterns.expressions import (
    COMPARISONS,
    Comparison,
    Condition,
    Junction,
    K,
    Number,
    Operation,
    Q,
    Truth,
    Whole,
    junction,
    operation,
)
from vitruvius.patterns.predicate import LastReader, Predicate
from vitruvius.patterns.ranges import Linear, least_distance, linear_bounds
from vitruvius.patterns.sums import Sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MOST_RESIDUES: Final = 4096
"""Remainders of greater divisors are left to the predicate."""
_MOST_PROGRESSIONS: Final = 8
"""So are remainders that more than so many steps would have to spell out."""

_NEVER: Final = Pattern(())
_ALWAYS: Final = Pattern((Clause(),))


def pattern_of(condition: Condition, reader: LastReader | None = None) -> Pattern:
    """The pattern of all pairs for which the condition holds; `reader` bounds who reads what it leaves open."""
    pattern = _normal(condition)
    if reader is None:
        return pattern
    return Pattern(
        tuple(
            replace(clause, predicates=tuple(replace(own, reader=reader) for own in clause.predicates))
            for clause in pattern.clauses
        )
    )


def _normal(condition: Condition) -> Pattern:
    if isinstance(condition, Truth):
        return _ALWAYS if condition.value else _NEVER
    if isinstance(condition, Comparison):
        return _of_comparison(condition)
    try:
        if condition.operator == "&":
            return reduce(Pattern.__and__, map(_normal, condition.terms))
        return _either(condition.terms)
    except PatternError:  # too many alternatives for the normal form
        return _opaque(condition)


def _either(terms: Iterable[Condition]) -> Pattern:
    """The union of the terms, with those that stay predicates in as few clauses as their bounds allow."""
    clauses: list[Clause] = []
    alike: dict[Clause, list[tuple[Condition, Clause]]] = {}
    for term in terms:
        found = _normal(term).clauses
        if len(found) == 1 and found[0].predicates:
            frame = replace(found[0], predicates=(), distance_low=-FOREVER)
            alike.setdefault(frame, []).append((term, found[0]))
        else:
            clauses += found
    for frame, members in alike.items():
        if len(members) == 1:
            clauses.append(members[0][1])
        else:
            low = min(clause.distance_low for _, clause in members)
            own = Predicate.of(junction("|", (term for term, _ in members)))
            clauses.append(replace(frame, distance_low=low, predicates=(own,)))
    return Pattern(tuple(clauses))


def _opaque(condition: Condition) -> Pattern:
    """The condition as a predicate, within the bounds that follow from it."""
    bounds = _limits(condition)
    return _NEVER if bounds is None else Pattern((replace(bounds, predicates=(Predicate.of(condition),)),))


# ----------------------------------------------------------------------------------------------------------------------
# Comparisons


def _of_comparison(node: Comparison) -> Pattern:
    found = _exact(node)
    return _opaque(node) if found is None else found


def _exact(node: Comparison) -> Pattern | None:
    """The comparison in normal form, or None where the normal form cannot say it."""
    difference = Sum.of(node.left).plus(Sum.of(node.right), -1)
    opposite = difference.times(-1)
    match list(difference.units.items()):
        case [(Operation("%", (number, Number(divisor))), factor)] if 0 < divisor <= _MOST_RESIDUES:
            compare = COMPARISONS[node.operator]
            kept = [compare(factor * r + difference.constant, 0) for r in range(divisor)]
            return _of_residues(Sum.of(number), kept)
        case [(Operation("//", (a, Number(size))), 1 | -1 as sign), (Operation("//", (b, other)), opposed)]:
            same = node.operator == "==" and other == Number(size) and sign + opposed == difference.constant == 0
            if same and {a, b} == {Q, K} and size > 0:
                return Pattern((Clause(chunks=(size,)),))
        case _:
            pass
    match node.operator:
        case "==":
            return _joined("&", _at_least_zero(difference), _at_least_zero(opposite))
        case "!=":
            return _joined("|", _at_least_zero(difference.less(1)), _at_least_zero(opposite.less(1)))
        case ">=" | ">":
            return _at_least_zero(difference.less(int(node.operator == ">")))
        case _:
            return _at_least_zero(opposite.less(int(node.operator == "<")))


def _joined(operator: str, *patterns: Pattern | None) -> Pattern | None:
    known = [pattern for pattern in patterns if pattern is not None]
    if len(known) < len(patterns):
        return None
    return reduce(Pattern.__and__ if operator == "&" else Pattern.__or__, known)


def _at_least_zero(number: Sum) -> Pattern | None:
    """The pairs for which a sum is 0 or more."""
    line = number.line
    if line is not None:
        return _of_line(line) if _is_sayable(line) else None
    for unit, factor in number.units.items():
        match unit:
            case Operation("abs", (inner,)):
                chooses_least, choices = False, [Sum.of(inner), Sum.of(inner).times(-1)]
            case Operation("min" | "max" as name, terms):
                chooses_least, choices = name == "min", [Sum.of(term) for term in terms]
            case _:
                continue
        rest = Sum({other: times for other, times in number.units.items() if other != unit}, number.constant)
        return _joined(
            "&" if (factor > 0) == chooses_least else "|",
            *(_at_least_zero(rest.plus(choice, factor)) for choice in choices),
        )
    match list(number.units.items()):
        case [(Operation("//", (inner, Number(divisor))), factor)] if divisor > 0:
            if factor > 0:
                return _at_least_zero(Sum.of(inner).less(-(number.constant // factor) * divisor))
            return _at_least_zero(Sum.of(inner).times(-1).less(1 - (number.constant // -factor + 1) * divisor))
        case _:
            return None


def _is_sayable(line: Linear) -> bool:
    """Whether a linear bound is one on q, on k or on their distance alone."""
    return line.query == 0 or line.key == 0 or line.query + line.key == 0


def _of_line(line: Linear) -> Pattern:
    limits = _limits_of_line(line)
    return _NEVER if limits is None else Pattern((limits,))


def _of_residues(number: Sum, kept: Sequence[bool]) -> Pattern | None:
    """The pairs at which the remainder of a linear number is one that is kept; `kept` is as long as the divisor."""
    line, divisor = number.line, len(kept)
    if line is None:
        return None
    if all(kept) or not any(kept):
        return _ALWAYS if all(kept) else _NEVER
    query, key = (number.units.get(unit, 0) % divisor for unit in (Q, K))
    if query and key and (query + key) % divisor:
        return None
    positions = [kept[((query or key) * at + number.constant) % divisor] for at in range(divisor)]
    step = next(s for s in range(1, divisor + 1) if divisor % s == 0 and positions[s:] == positions[:-s])
    residues = [at for at in range(step) if positions[at]]
    if query and key:
        return Pattern((Clause(distance_multiple=step),)) if residues == [0] else None
    if len(residues) > min(_MOST_PROGRESSIONS, max(1, step // 2)):
        return None
    if query:
        return Pattern(tuple(Clause(query_step=step, query_residue=at) for at in residues))
    return Pattern(tuple(Clause(key_step=step, key_residue=at) for at in residues))


# ----------------------------------------------------------------------------------------------------------------------
# Bounds that follow from a condition


def _limits(condition: Condition) -> Clause | None:
    """A clause that holds wherever the condition does, or None when it holds nowhere."""
    if isinstance(condition, Truth):
        return Clause() if condition.value else None
    if isinstance(condition, Junction):
        limits = map(_limits, condition.terms)
        return _meet(limits) if condition.operator == "&" else _hull(limits)
    left, right, strict = condition.left, condition.right, int(condition.operator in {"<", ">"})
    below, above = _at_most(left, right, strict), _at_most(right, left, strict)
    match condition.operator:
        case "<" | "<=":
            return below
        case ">" | ">=":
            return above
        case "==":
            return _meet([below, above])
        case _:
            return Clause()


def _at_most(a: Whole, b: Whole, gap: int) -> Clause | None:
    """What follows from a + gap <= b."""
    above = linear_bounds(operation("-", b, a))[1]
    return Clause() if above is None else _limits_of_line(above + Linear(constant=Fraction(-gap)))


def _limits_of_line(line: Linear) -> Clause | None:
    """What follows from a linear function being 0 or more; all of it where the line is one of a single number."""
    if line.is_constant:
        return Clause() if line.constant >= 0 else None
    low, high = least_distance(line), -least_distance(Linear(line.key, line.query, line.constant))
    keys = _positions_of(line.key, line.constant) if line.query <= 0 else (0, FOREVER)
    queries = _positions_of(line.query, line.constant) if line.key <= 0 else (0, FOREVER)
    if low > high or keys[0] >= keys[1] or queries[0] >= queries[1]:
        return None
    return Clause(
        distance_low=low,
        distance_high=high,
        # A query at a distance of at least 5 stands at 5 or later anyway, and so does such a key.
        key_low=keys[0] if keys[0] > -high else 0,
        key_high=keys[1],
        query_low=queries[0] if queries[0] > low else 0,
        query_high=queries[1],
    ).tightened()


def _positions_of(slope: Fraction, constant: Fraction) -> tuple[int, int]:
    """The range of positions p from 0 on with slope * p + constant >= 0."""
    if slope > 0:
        return max(0, -(constant // slope)), FOREVER
    return (0, max(0, constant // -slope + 1)) if slope < 0 else (0, FOREVER)


def _meet(limits: Iterable[Clause | None]) -> Clause | None:
    met: Clause | None = Clause()
    for clause in limits:
        met = None if met is None or clause is None else met.meet(clause)
    return met


def _hull(limits: Iterable[Clause | None]) -> Clause | None:
    """The smallest ranges that hold each of the clauses."""
    found = [clause for clause in limits if clause is not None]
    if not found:
        return None
    return Clause(
        distance_low=min(clause.distance_low for clause in found),
        distance_high=max(clause.distance_high for clause in found),
        key_low=min(clause.key_low for clause in found),
        key_high=max(clause.key_high for clause in found),
        query_low=min(clause.query_low for clause in found),
        query_high=max(clause.query_high for clause in found),
    )


__all__ = ["pattern_of"]
