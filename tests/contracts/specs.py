"""Random valid architectures over every registered kind.

The strategies walk the registries of kinds and of named patterns, so that what is registered tomorrow is drawn
tomorrow. A field is drawn by its type; where a type is not enough (head counts must divide, theta spans decades) a hint
in the table below draws it, knowing the dimensions around it and the fields drawn before it.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import assume
from hypothesis import strategies as st

from vitruvius.errors import PatternError
from vitruvius.patterns import NAMED, parse
from vitruvius.spec import Architecture, Block, findings, kinds
from vitruvius.spec.embeddings import Embedding
from vitruvius.spec.model import NormPlace
from vitruvius.spec.node import Component, Mixer, Position


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a component may know about where it will stand."""

    width: int
    context: int
    inside: tuple[str, ...] = ()
    """Kinds around this one, outermost first."""


# ----------------------------------------------------------------------------------------------------------------------
# Patterns

SELFISH = ("sliding", "dilated", "block", "stride", "stride2d", "around", "causal")
"""Named patterns in which every query sees at least itself."""


@st.composite
def terms(draw, names=None) -> str:
    """One named pattern with small arguments, e.g. `global(every=5, offset=2)`."""
    entry = NAMED[draw(st.sampled_from(sorted(names or NAMED)))]
    given = [parameter for parameter in entry.parameters if parameter.default is None or draw(st.booleans())]
    arguments = [f"{parameter.name}={draw(st.integers(parameter.least, 7))}" for parameter in given]
    text = f"{entry.name}({', '.join(arguments)})" if entry.parameters else entry.name
    try:
        parse(text)
    except PatternError:
        assume(False)
    return text


@st.composite
def patterns(draw) -> str:
    """A causal pattern in which every query sees at least itself."""
    own = draw(terms(SELFISH))
    shape = draw(st.sampled_from(["causal", "one", "either", "both", "nested", "three"]))
    match shape:
        case "causal":
            return "causal"
        case "one":
            return f"causal & {own}"
        case "either":
            return f"causal & ({own} | {draw(terms())})"
        case "both":
            return f"causal & {own} & {draw(terms(SELFISH))}"
        case "nested":
            return f"causal & ({own} | ({draw(terms())} & {draw(terms())}))"
        case _:
            return f"causal & (sinks(2) | {draw(terms())} | {own})"


# ----------------------------------------------------------------------------------------------------------------------
# Components


def _divisor(draw, number: int) -> int:
    return draw(st.sampled_from([n for n in range(1, number + 1) if number % n == 0]))


def _factors(length: int | None = None) -> st.SearchStrategy[tuple[float, ...]]:
    """A list of divisors for as many pairs as the heads of random specs have."""
    lengths = st.sampled_from([2, 4, 8]) if length is None else st.just(length)
    return lengths.flatmap(lambda n: st.tuples(*[st.sampled_from([1.0, 1.5, 4.0])] * n))


HINTS = {
    ("attention", "heads"): lambda draw, around, chosen: draw(st.sampled_from([1, 2, 4])),
    ("attention", "kv_heads"): lambda draw, around, chosen: draw(st.none()) or _divisor(draw, chosen["heads"]),
    ("attention", "head_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 4, 10])),
    ("attention", "sees"): lambda draw, around, chosen: draw(patterns()),
    ("attention", "score_scale"): lambda draw, around, chosen: draw(
        st.sampled_from([None, 0.5, "1/sqrt(width)", "2/head_width"])
    ),
    ("moe", "experts"): lambda draw, around, chosen: draw(st.integers(1, 5)),
    ("moe", "top_k"): lambda draw, around, chosen: draw(st.integers(1, min(3, chosen["experts"]))),
    ("rope", "theta"): lambda draw, around, chosen: draw(st.sampled_from([100.0, 1e4, 5e5])),
    ("rope", "fraction"): lambda draw, around, chosen: draw(st.sampled_from([1.0, 1.0, 0.5])),
    ("longrope", "short_factor"): lambda draw, around, chosen: draw(_factors()),
    ("longrope", "long_factor"): lambda draw, around, chosen: draw(_factors(len(chosen["short_factor"]))),
    ("longrope", "factor"): lambda draw, around, chosen: draw(st.sampled_from([None, 1.0, 4.0])),
    ("t5", "buckets"): lambda draw, around, chosen: draw(st.sampled_from([4, 8, 32])),
    ("t5", "farthest"): lambda draw, around, chosen: draw(st.sampled_from([17, 40, 128])),
    ("gated-additive", "base"): lambda draw, around, chosen: (
        draw(st.sampled_from([None, 100.0])) if chosen["table"] == "sinusoidal" else None
    ),
    ("gated-additive", "size"): lambda draw, around, chosen: (
        draw(st.sampled_from([None, around.context, 64])) if chosen["table"] == "learned" else None
    ),
    ("gated-additive", "start"): lambda draw, around, chosen: (
        draw(st.sampled_from([None, 1, 5])) if chosen["table"] == "learned" else None
    ),
    ("llama3", "low"): lambda draw, around, chosen: draw(st.sampled_from([0.5, 1.0])),
    ("llama3", "high"): lambda draw, around, chosen: draw(st.sampled_from([2.0, 4.0])),
    ("yarn", "slow"): lambda draw, around, chosen: 1.0,
    ("yarn", "fast"): lambda draw, around, chosen: draw(st.sampled_from([4.0, 32.0])),
    ("yarn", "temperature"): lambda draw, around, chosen: draw(st.sampled_from([0.0, 0.1])),
    ("sinusoidal", "base"): lambda draw, around, chosen: draw(st.sampled_from([100.0, 1e4])),
    ("learned", "size"): lambda draw, around, chosen: draw(st.sampled_from([None, around.context, 64])),
    ("learned", "start"): lambda draw, around, chosen: draw(st.sampled_from([None, 1, 5])),
    ("softmax", "balance_loss"): lambda draw, around, chosen: draw(st.sampled_from([0.01, 1e-3])),
    ("softmax", "z_loss"): lambda draw, around, chosen: draw(st.sampled_from([0.0, 1e-3])),
    ("lm", "softcap"): lambda draw, around, chosen: draw(st.sampled_from([None, 5.0, 30.0])),
    ("mup", "base_width"): lambda draw, around, chosen: draw(st.sampled_from([8, 16, 64])),
    ("completep", "base_width"): lambda draw, around, chosen: draw(st.sampled_from([8, 16, 64])),
    ("completep", "base_depth"): lambda draw, around, chosen: draw(st.sampled_from([1, 2])),
    ("normal", "std"): lambda draw, around, chosen: draw(st.sampled_from([0.02, 0.05, 0.1])),
}
"""(kind, field) -> how to draw it."""

FLOATS = {"eps": [1e-6, 1e-5], "table_std": [0.02, 0.1], "factor": [1.5, 4.0]}
"""Values of number fields by name, whatever the kind; others keep their default or are drawn from 0.5 to 4."""

NEVER_INSIDE = {"moe": "moe"}
"""Kinds that may not stand inside a kind."""


def component(family: str, around: Around) -> st.SearchStrategy[Component]:
    """A kind of a family that fits there, with random fields."""
    chosen = {
        name: node
        for name, node in kinds(family).items()
        if NEVER_INSIDE.get(name) not in around.inside and _fits(node, around)
    }
    return st.sampled_from(sorted(chosen)).flatmap(lambda name: node_of(chosen[name], around))


def _fits(node: type[Component], around: Around) -> bool:
    if not issubclass(node, Position):
        return True
    return (node.acts_on == "embedding") == (around.inside == ("embedding",))


@st.composite
def node_of(draw, node: type, around: Around):
    """One kind with random fields."""
    kind = node.__dataclass_fields__["kind"].default
    inside = Around(width=around.width, context=around.context, inside=(*around.inside, kind))
    chosen: dict[str, Any] = {}
    types = _types(node)
    for field in fields(node):
        if field.name == "kind":
            continue
        hint = HINTS.get((kind, field.name))
        if hint is not None:
            chosen[field.name] = hint(draw, inside, chosen)
        elif (strategy := _by_type(types[field.name], field, inside)) is not None:
            chosen[field.name] = draw(strategy)
    return node(**chosen)


@cache
def _types(node: type) -> dict[str, Any]:
    return get_type_hints(node, include_extras=True)


def _by_type(annotation: Any, field: Any, around: Around) -> st.SearchStrategy | None:
    """A strategy for a field's type, or None to keep its default."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _number(arguments[0], field)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in {Union, UnionType}:
        inner = [_by_type(argument, field, around) for argument in arguments if argument is not NoneType]
        known = [strategy for strategy in inner if strategy is not None]
        return st.one_of(st.none(), *known) if NoneType in arguments else (st.one_of(*known) if known else None)
    if annotation is bool:
        return st.booleans()
    if annotation in {int, float}:
        return _number(annotation, field)
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return component(annotation.family, around)
    assert field.default is not MISSING or field.default_factory is not MISSING, f"no strategy for {field.name}"
    return None


def _number(kind: type, field: Any) -> st.SearchStrategy:
    if kind is int:
        return st.sampled_from([8, 16, 24, 12, 5])
    if field.name in FLOATS:
        return st.sampled_from(FLOATS[field.name])
    return st.just(field.default) if field.default is not MISSING else st.sampled_from([0.5, 1.0, 4.0])


# ----------------------------------------------------------------------------------------------------------------------
# Architectures

LAYERS = ("a", "a*2", "a b", "(a b)*2", "a b^2", "(a b)^2", "a*2 b*2")
STACKED = (["a b", "f*2"], ["(a b)*2", "f*3 g"], ["a*2 b", "f g f"], ["a^2 b", "f^2 g"])


@st.composite
def architectures(draw) -> Architecture:
    """A small architecture that fits together."""
    width = draw(st.sampled_from([16, 24, 32]))
    around = Around(width=width, context=draw(st.sampled_from([24, 36, 48])))
    layers = draw(st.sampled_from([*LAYERS, *STACKED]))
    stacked = isinstance(layers, list)
    blocks = {name: draw(_block(around, "mixer" if stacked else "both")) for name in ("a", "b")}
    if stacked:
        blocks |= {name: draw(_block(around, "ffn")) for name in ("f", "g")}
    written = " ".join(layers) if stacked else layers
    architecture = Architecture(
        name="random",
        vocab_size=draw(st.sampled_from([61, 97])),
        width=width,
        context=around.context,
        blocks={name: block for name, block in blocks.items() if name in written},
        layers=layers,
        embedding=draw(_embedding(around)),
        norm=draw(component("norm", around)),
        head=draw(component("head", around)),
        init=draw(component("init", around)),
    )
    assume(not any(finding.severity == "error" for finding in findings(architecture)))
    return architecture


@st.composite
def _block(draw, around: Around, part: str) -> Block:
    mixer = draw(component("mixer", around)) if part != "ffn" else None
    ffn = draw(component("ffn", around)) if part != "mixer" else None
    if part == "both" and draw(st.integers(0, 5)) == 0:
        # A block may lack one of the two; dropping the mixer of all of them is tried too.
        mixer, ffn = draw(st.sampled_from([(mixer, None), (None, ffn)]))
    if part == "ffn":
        return Block(ffn=ffn)  # the mixer's line chooses the norms of a stacked layer
    place = draw(st.sampled_from([None, *get_args(NormPlace)]))
    return Block(mixer=mixer, ffn=ffn, norm=draw(st.none() | component("norm", around)), norm_place=place)


@st.composite
def _embedding(draw, around: Around) -> Embedding:
    within = Around(width=around.width, context=around.context, inside=("embedding",))
    return Embedding(
        scale=draw(st.sampled_from([None, 2.0, "sqrt(width)"])),
        position=draw(st.none() | component("position", within)),
        norm=draw(st.none() | component("norm", within)),
    )


def components_of(value: object) -> list[Component]:
    """Every component in an architecture, outermost first."""
    found = [value] if isinstance(value, Component) else []
    if isinstance(value, dict):
        inner = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        inner = [getattr(value, field.name) for field in fields(value)]
    else:
        inner = []
    return found + [component for part in inner for component in components_of(part)]


def sees_later(architecture: Architecture) -> bool:
    """Whether some layer reads later tokens."""
    mixers = [block.mixer for block in architecture.blocks.values() if isinstance(block.mixer, Mixer)]
    return any((pattern := mixer.pattern()) is not None and not pattern.is_causal for mixer in mixers)
