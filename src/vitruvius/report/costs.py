"""What each kind costs, as formulas in its own fields: made by the methods that count, run with names for numbers.

The formulas are those of the kind with its defaults, each optional dimension given. `cost_rows` names what they are of;
a quantity that the code does not count in closed form is left out.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from vitruvius.report.symbols import NotClosedError, Symbol
from vitruvius.spec.costs import LINEAR_ROLES
from vitruvius.spec.node import Component, Cross, FeedForward, Head, Heads, Mixer, Norm, Position, Router, Scope, kinds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.costs import StateSpec, TensorSpec

_USUAL = {"ffn": "swiglu", "router": "softmax", "norm": "rmsnorm", "mixer": "attention"}
"""What stands inside another component, where that must be given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """One quantity of a kind."""

    name: str
    what: str
    """For readers."""
    value: Symbol


def formulas_of(family: str, kind: str) -> tuple[Formula, ...]:
    """Parameters, FLOPs and decode state of a kind, in its fields and those of the architecture around it."""
    component = symbolic(family, kind)
    found: list[Formula] = []
    for make in (_parameters, _active, _work, _state):
        try:
            found += make(component)
        except NotClosedError:
            continue
    return tuple(formula for formula in found if formula.value.terms)


def symbolic(family: str, kind: str, prefix: str = "") -> Component:
    """The kind with the names of its dimensions in their place, and its defaults elsewhere."""
    node = kinds(family)[kind]
    hints = get_type_hints(node, include_extras=True)
    given: dict[str, Any] = {}
    for field in fields(node):
        if field.name == "kind":
            continue
        hint = hints[field.name]
        if _is_dimension(hint):
            given[field.name] = Symbol.named(prefix + field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            given[field.name] = _inside(hint, f"{prefix}{field.name}.")
    return node(**given)


def assumed(family: str, kind: str) -> str:
    """In words, what the formulas assume of the fields: what is not a dimension has its default."""
    node = kinds(family)[kind]
    component = symbolic(family, kind)
    hints = get_type_hints(node, include_extras=True)
    inside = [
        f"`{field.name}: {getattr(component, field.name).kind}`"
        for field in fields(node)
        if field.default is MISSING and isinstance(getattr(component, field.name), Component)
    ]
    optional = [f"`{f.name}`" for f in fields(node) if _is_dimension(hints[f.name]) and f.default is None]
    said = [f"with {', '.join(inside)}"] if inside else []
    said += [f"{', '.join(optional)} given"] if optional else []
    return "; ".join([*said, "other fields at their defaults"])


def scope() -> Scope:
    """An architecture of which only the names of its dimensions are known."""
    names: dict[str, Any] = {n: Symbol.named(n) for n in ("width", "vocab_size", "context", "depth")}
    return Scope(**names)


_HEADS: Any = {
    "queries": Symbol.named("heads"),
    "groups": Symbol.named("kv_heads"),
    "width": Symbol.named("head_width"),
}
_EXPERTS: Any = Symbol.named("experts")
_TOP_K: Any = Symbol.named("top_k")


def tensors_of(component: Component) -> Mapping[str, TensorSpec]:
    """Its tensors where it stands: in the stream, in an attention's heads, before experts."""
    around = scope()
    if isinstance(component, Position) and component.acts_on != "embedding":
        return component.tensors_for_heads(Heads(**_HEADS), around)
    if isinstance(component, Router):
        return component.tensors_for(_EXPERTS, around.width)
    if isinstance(component, Norm):
        return component.tensors_of_width(around.width)
    return component.tensors(around)


# ----------------------------------------------------------------------------------------------------------------------


def _is_dimension(hint: Any) -> bool:
    """Whether a field is a whole number that a spec chooses, optional or not."""
    if get_origin(hint) in {Union, UnionType}:
        return any(_is_dimension(choice) for choice in get_args(hint))
    return get_origin(hint) is Annotated and get_args(hint)[0] is int


def _inside(hint: Any, prefix: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, Component):
        return symbolic(hint.family, _USUAL[hint.family], prefix)
    raise NotClosedError(prefix)


def _parameters(component: Component) -> Iterator[Formula]:
    value = sum((Symbol.of(tensor.count) for tensor in tensors_of(component).values()), Symbol.of(0))
    yield Formula(name="parameters", what="parameters", value=value)


def _active(component: Component) -> Iterator[Formula]:
    tensors = tensors_of(component).values()
    if any(tensor.used != (1, 1) for tensor in tensors):
        value = sum((Symbol.of(tensor.active) for tensor in tensors), Symbol.of(0))
        yield Formula(name="active", what="parameters that one token uses", value=value)


def _work(component: Component) -> Iterator[Formula]:
    around = scope()
    if isinstance(component, Mixer) and component.pattern() is not None:
        pair, one = Symbol.of(component.pair_flops(around)), Symbol.of(component.flops(around, 1).useful)
        yield Formula(name="token_flops", what="FLOPs for each token", value=one - pair)
        yield Formula(name="pair_flops", what="FLOPs for each query-key pair", value=pair)
    elif isinstance(component, Cross):
        one, two = (Symbol.of(component.flops(around, n).useful) for n in (1, 2))
        pair = (two - 2 * one) / 2
        yield Formula(name="token_flops", what="FLOPs for each token", value=one - pair)
        yield Formula(name="pair_flops", what="FLOPs for each pair of a token and a source token", value=pair)
    elif isinstance(component, (Mixer, FeedForward, Head)):
        one = Symbol.of(component.flops(around, 1).useful)
        yield Formula(name="token_flops", what="FLOPs for each token", value=one)
    elif isinstance(component, Position) and component.acts_on != "embedding":
        heads = Heads(**_HEADS)
        maps = sum((2 * Symbol.of(t.count) for t in tensors_of(component).values() if t.role in LINEAR_ROLES), _ZERO)
        token = maps + Symbol.of(component.token_flops_for_heads(heads))
        yield Formula(name="token_flops", what="FLOPs for each token", value=token)
        pair = Symbol.of(component.pair_flops_for_heads(heads))
        yield Formula(name="pair_flops", what="FLOPs for each query-key pair, besides the attention's", value=pair)


_ZERO = Symbol.of(0)


def _state(component: Component) -> Iterator[Formula]:
    kept: Mapping[str, StateSpec] = {}
    if isinstance(component, (Mixer, Cross)):
        kept = component.state_tensors(scope(), 1)
    elif isinstance(component, Position) and component.acts_on != "embedding":
        heads = Heads(**_HEADS)
        kept = {**component.slot_state(heads), **component.running_state(heads, scope())}
    for role, per in (("keys", "each token that is kept"), ("state", "each sequence")):
        for dtype, where in (("model", ""), ("fp32", ", in fp32")):
            specs = [spec for spec in kept.values() if (spec.role, spec.dtype) == (role, dtype)]
            value = sum((Symbol.of(spec.count) for spec in specs), _ZERO)
            yield Formula(name=f"{role}_{dtype}", what=f"numbers of decode state for {per}{where}", value=value)
