"""The formulas on the components' pages are what the code counts, for any numbers."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction

import pytest

from vitruvius.report.costs import formulas_of, symbolic, tensors_of
from vitruvius.report.symbols import NotClosedError, Symbol
from vitruvius.spec.node import Component, Cross, FeedForward, Head, Heads, Mixer, Position, Router, Scope, kinds

PRICED = [
    (family, kind)
    for family in ("mixer", "cross", "ffn", "position", "norm", "head", "router")
    for kind in kinds(family)
    if formulas_of(family, kind)
]
AROUND = {"width": 192, "vocab_size": 640, "context": 2048, "depth": 6, "heads": 12, "kv_heads": 4, "head_width": 16}
CHOICES = {"experts": 8, "top_k": 2}


def numbers(names) -> dict[str, int]:
    """A different multiple of 16 for each name that the scope does not fix."""
    own = sorted(set(names) - set(AROUND) - set(CHOICES))
    return {**AROUND, **CHOICES, **{name: 16 * (place + 2) for place, name in enumerate(own)}}


def with_numbers(component: Component, values, prefix="") -> Component:
    """The symbolic component with numbers for its names."""
    given = {}
    for field in fields(component):
        value = getattr(component, field.name)
        if isinstance(value, Symbol):
            given[field.name] = values[prefix + field.name]
        elif isinstance(value, Component) and prefix + field.name in {name.rpartition(".")[0] for name in values}:
            given[field.name] = with_numbers(value, values, f"{prefix}{field.name}.")
    return replace(component, **given)


def dimensions(component: Component, prefix="") -> set[str]:
    found = set()
    for field in fields(component):
        value = getattr(component, field.name)
        if isinstance(value, Symbol):
            found.add(prefix + field.name)
        elif isinstance(value, Component):
            found |= dimensions(value, f"{prefix}{field.name}.")
    return found


@pytest.mark.parametrize(("family", "kind"), PRICED, ids=lambda name: name)
def test_a_formula_gives_what_the_code_counts(family, kind):
    described = symbolic(family, kind)
    values = numbers(dimensions(described))
    component = with_numbers(described, values)
    scope = Scope(**{name: values[name] for name in ("width", "vocab_size", "context", "depth")})
    heads = Heads(queries=values["heads"], groups=values["kv_heads"], width=values["head_width"])
    for formula in formulas_of(family, kind):
        assert formula.value.at(values) == counted(component, formula.name, scope, heads), formula.name


def counted(component, name, scope, heads):
    """The same number, from the component with numbers in it."""
    in_heads = isinstance(component, Position) and component.acts_on != "embedding"
    tensors = tensors_in(component, scope, heads)
    match name:
        case "parameters":
            return sum(tensor.count for tensor in tensors.values())
        case "active":
            return sum(tensor.active for tensor in tensors.values())
        case "token_flops" | "pair_flops":
            return work(component, name, scope, heads, tensors)
    role, _, dtype = name.partition("_")
    if in_heads:
        state = {**component.slot_state(heads), **component.running_state(heads, scope)}
        return sum(spec.count for spec in state.values() if (spec.role, spec.dtype) == (role, dtype))
    assert isinstance(component, (Mixer, Cross))
    sizes = []
    for capacity in (7, 8):
        state = component.state_tensors(scope, capacity)
        sizes.append(sum(spec.count for spec in state.values() if (spec.role, spec.dtype) == (role, dtype)))
    return sizes[1] - sizes[0] if role == "keys" else sizes[1]


def tensors_in(component, scope, heads):
    if isinstance(component, Position) and component.acts_on != "embedding":
        return component.tensors_for_heads(heads, scope)
    if isinstance(component, Router):
        return component.tensors_for(CHOICES["experts"], scope.width)
    if component.family == "norm":
        return component.tensors_of_width(scope.width)
    return component.tensors(scope)


def work(component, name, scope, heads, tensors):
    """FLOPs for each token and for each pair, solved from those of passes over 5 and 11 tokens."""
    if isinstance(component, Position):
        if name == "pair_flops":
            return component.pair_flops_for_heads(heads)
        maps = sum(2 * tensor.count for tensor in tensors.values() if tensor.is_linear)
        return maps + component.token_flops_for_heads(heads)
    assert isinstance(component, (Mixer, Cross, FeedForward, Head))
    five, eleven = (component.flops(scope, tokens).useful for tokens in (5, 11))
    pattern = component.pattern() if isinstance(component, Mixer) else None
    pairs = [0, 0]
    if pattern is not None:
        pairs = [pattern.pairs(5), pattern.pairs(11)]
    elif isinstance(component, Cross):
        pairs = [25, 121]
    if pairs == [0, 0]:
        return Fraction(five, 5)
    pair = Fraction(5 * eleven - 11 * five, 5 * pairs[1] - 11 * pairs[0])
    return pair if name == "pair_flops" else (five - pairs[0] * pair) / 5


def test_every_kind_with_parameters_has_a_formula_for_them():
    for family in ("mixer", "cross", "ffn", "norm"):
        for kind in kinds(family):
            parameters = sum(tensor.count for tensor in tensors_of(symbolic(family, kind)).values())
            assert str(parameters) == str(formulas_of(family, kind)[0].value)


def test_symbols_follow_algebra():
    width, heads = Symbol.named("width"), Symbol.named("heads")
    assert str(2 * width * (heads + 1)) == "2*heads*width + 2*width"
    assert str(width // heads * heads) == "width"
    assert str((width - heads) * (width + heads)) == "-heads^2 + width^2"
    assert str(width / 2) == "width/2"
    assert (width * heads - 3).at({"width": 5, "heads": 7}) == 32
    assert str(width - width) == "0"


def test_what_has_no_closed_form_is_refused_and_not_guessed():
    width = Symbol.named("width")
    with pytest.raises(NotClosedError):
        bool(width > 64)
    with pytest.raises(NotClosedError):
        _ = width / (width + 1)
    with pytest.raises(NotClosedError):
        range(width)
    with pytest.raises(NotClosedError):
        Symbol.of(0.5)
