"""Random valid architectures over every registered kind.

The strategies walk the registries of kinds and of named patterns, so that what is registered tomorrow is drawn
tomorrow. A field is drawn by its type; where a type is not enough (head counts must divide, theta spans decades) a hint
in the table below draws it, knowing the dimensions around it and the fields drawn before it.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import assume
from hypothesis import strategies as st

from vitruvius.errors import PatternError
from vitruvius.patterns import NAMED, parse
from vitruvius.spec import Architecture, Block, findings, kinds
from vitruvius.spec.embeddings import Embedding
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.model import Encoder, MultiToken, NormPlace, Streams, SublayerOrder
from vitruvius.spec.node import Component, Mixer, Position
from vitruvius.spec.positions.scalings import LongRopeScaling


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


CONDITIONS = (
    "(q - k) % M == R",
    "(q * R + k * S) % M < S",
    "q // M - k // M <= 1",
    "k < q // M * M and (q * k) % S == 0",
    "R * k >= q or k % M == R",
    "(q + 1) // M == k + 1",
    "k % (q // M + 1) != S",
)


@st.composite
def conditions(draw) -> str:
    """A condition on q and k, most of them beyond the normal form."""
    text = draw(st.sampled_from(CONDITIONS))
    for letter, least in (("M", 2), ("R", 0), ("S", 1)):
        text = text.replace(letter, str(draw(st.integers(least, 7))))
    return text


@st.composite
def terms(draw, names=None) -> str:
    """One pattern with small arguments, e.g. `global(every=5, offset=2)`, or a condition of one's own."""
    if names is None and draw(st.integers(0, 3)) == 0:
        return f"where({draw(conditions())})"
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


def _has_kernel(chosen: dict[str, Any]) -> bool:
    return chosen["position"] is not None and chosen["position"].has_kernel


def _looks_back(chosen: dict[str, Any]) -> bool:
    return chosen["position"] is not None and bool(chosen["position"].causal_only)


HINTS = {
    ("attention", "heads"): lambda draw, around, chosen: draw(st.sampled_from([1, 2, 4])),
    ("attention", "kv_heads"): lambda draw, around, chosen: draw(st.none()) or _divisor(draw, chosen["heads"]),
    ("attention", "head_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 4, 10])),
    ("attention", "sees"): lambda draw, around, chosen: draw(patterns()),
    ("attention", "score_scale"): lambda draw, around, chosen: draw(
        st.sampled_from([None, 0.5, "1/sqrt(width)", "2/head_width"])
    ),
    ("attention", "sinks"): lambda draw, around, chosen: draw(
        st.sampled_from(["none"] if _has_kernel(chosen) else ["none", "none", "learned", "off-by-one"])
    ),
    ("attention", "logit_cap"): lambda draw, around, chosen: draw(
        st.sampled_from([None] if _has_kernel(chosen) else [None, None, 5.0, 50.0])
    ),
    ("attention", "prefix"): lambda draw, around, chosen: draw(
        st.sampled_from(["masked"] if _looks_back(chosen) else ["masked", "masked", "open"])
    ),
    ("mla", "heads"): lambda draw, around, chosen: draw(st.sampled_from([1, 2, 4])),
    ("mla", "q_rank"): lambda draw, around, chosen: draw(st.sampled_from([None, 6, 12])),
    ("mla", "kv_rank"): lambda draw, around, chosen: draw(st.sampled_from([4, 8, 20])),
    ("mla", "nope_width"): lambda draw, around, chosen: draw(st.sampled_from([3, 4, 8])),
    ("mla", "rope_width"): lambda draw, around, chosen: draw(st.sampled_from([4, 4, 8, 0])),
    ("mla", "value_width"): lambda draw, around, chosen: draw(st.sampled_from([4, 7])),
    ("mla", "sees"): lambda draw, around, chosen: draw(patterns()),
    ("mla", "score_scale"): lambda draw, around, chosen: draw(st.sampled_from([None, 0.5, "2/head_width"])),
    ("differential", "heads"): lambda draw, around, chosen: draw(st.sampled_from([1, 2, 4])),
    ("differential", "kv_heads"): lambda draw, around, chosen: draw(st.none()) or _divisor(draw, chosen["heads"]),
    ("differential", "head_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 4, 6])),
    ("differential", "sees"): lambda draw, around, chosen: draw(patterns()),
    ("differential", "score_scale"): lambda draw, around, chosen: draw(st.sampled_from([None, 0.5, "2/head_width"])),
    ("moe", "experts"): lambda draw, around, chosen: draw(st.integers(1, 5)),
    ("moe", "top_k"): lambda draw, around, chosen: draw(st.integers(1, min(3, chosen["experts"]))),
    ("moe", "router"): lambda draw, around, chosen: draw(_router(around, chosen["experts"], chosen["top_k"])),
    ("moe", "shared_gate"): lambda draw, around, chosen: draw(
        st.sampled_from(["none"] if chosen["shared_expert"] is None else ["none", "sigmoid"])
    ),
    ("moe", "capacity"): lambda draw, around, chosen: (
        None if chosen["router"].chooses == "tokens" else draw(st.sampled_from([None, 1.25]))
    ),
    ("sigmoid", "scale"): lambda draw, around, chosen: draw(st.sampled_from([1.0, 2.5])),
    ("sigmoid", "groups"): lambda draw, around, chosen: 1,
    ("sigmoid", "top_groups"): lambda draw, around, chosen: None,
    ("sigmoid", "balance_loss"): lambda draw, around, chosen: draw(st.sampled_from([0.0, 1e-3])),
    ("hash", "salt"): lambda draw, around, chosen: draw(st.integers(0, 3)),
    ("expert-choice", "z_loss"): lambda draw, around, chosen: draw(st.sampled_from([0.0, 1e-3])),
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
    ("cope", "positions"): lambda draw, around, chosen: draw(st.sampled_from([2, 5, 60])),
    ("cumulative-rope", "theta"): lambda draw, around, chosen: draw(st.sampled_from([10.0, 1e4])),
    ("fox", "horizon"): lambda draw, around, chosen: draw(st.sampled_from([3.0, 50.0])),
    ("fox", "evict"): lambda draw, around, chosen: "never",  # not to the last digit; tested by itself
    ("path", "rank"): lambda draw, around, chosen: draw(st.sampled_from([None, 2, 8])),
    ("path", "kernel"): lambda draw, around, chosen: draw(st.integers(1, 4)),
    ("path", "horizon"): lambda draw, around, chosen: draw(
        st.sampled_from([None, 20.0]) if chosen["forget"] == "fox" else st.none()
    ),
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
    ("mamba", "conv"): lambda draw, around, chosen: draw(st.sampled_from([2, 3, 4])),
    ("mamba2", "conv"): lambda draw, around, chosen: draw(st.sampled_from([2, 3, 4])),
    ("gated-deltanet", "conv"): lambda draw, around, chosen: draw(st.sampled_from([2, 3, 4])),
    ("kda", "conv"): lambda draw, around, chosen: draw(st.sampled_from([2, 3, 4])),
    ("short-conv", "conv"): lambda draw, around, chosen: draw(st.sampled_from([2, 3, 4])),
    ("mamba", "expand"): lambda draw, around, chosen: draw(st.sampled_from([1, 2])),
    ("mamba", "state"): lambda draw, around, chosen: draw(st.sampled_from([1, 4, 5])),
    ("mamba", "dt_rank"): lambda draw, around, chosen: draw(st.sampled_from([None, 1, 3])),
    ("mamba2", "heads"): lambda draw, around, chosen: draw(st.sampled_from([2, 4])),
    ("mamba2", "head_width"): lambda draw, around, chosen: draw(st.sampled_from([4, 5])),
    ("mamba2", "groups"): lambda draw, around, chosen: draw(st.sampled_from([1, 2])),
    ("mamba2", "state"): lambda draw, around, chosen: draw(st.sampled_from([1, 4, 5])),
    ("gated-deltanet", "heads"): lambda draw, around, chosen: draw(st.sampled_from([1, 2, 4])),
    ("gated-deltanet", "key_heads"): lambda draw, around, chosen: draw(
        st.sampled_from([None, _divisor(draw, chosen["heads"])])
    ),
    ("gated-deltanet", "head_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 4, 6])),
    ("gated-deltanet", "value_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 3, 8])),
    ("kda", "heads"): lambda draw, around, chosen: draw(st.sampled_from([1, 2, 4])),
    ("kda", "head_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 4, 6])),
    ("kda", "value_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 3, 8])),
    ("gla", "heads"): lambda draw, around, chosen: draw(st.sampled_from([1, 2, 4])),
    ("gla", "head_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 4, 6])),
    ("gla", "value_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 3, 8])),
    ("retnet", "heads"): lambda draw, around, chosen: draw(st.sampled_from([1, 2, 4])),
    ("retnet", "head_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 4, 6])),
    ("retnet", "value_width"): lambda draw, around, chosen: draw(st.sampled_from([None, 3, 8])),
    ("kda", "rank"): lambda draw, around, chosen: draw(st.sampled_from([None, 3])),
    ("gla", "rank"): lambda draw, around, chosen: draw(st.sampled_from([1, 4])),
    ("gla", "slowness"): lambda draw, around, chosen: draw(st.sampled_from([1.0, 16.0])),
    ("retnet", "theta"): lambda draw, around, chosen: draw(st.sampled_from([None, 100.0])),
    ("rwkv7", "head_width"): lambda draw, around, chosen: draw(st.sampled_from([2, 4, 8])),
    ("rwkv7", "decay_rank"): lambda draw, around, chosen: draw(st.sampled_from([1, 4])),
    ("rwkv7", "rate_rank"): lambda draw, around, chosen: draw(st.sampled_from([1, 4])),
    ("rwkv7", "gate_rank"): lambda draw, around, chosen: draw(st.sampled_from([1, 4])),
    ("rwkv7", "value_rank"): lambda draw, around, chosen: draw(st.sampled_from([1, 4])),
    ("rwkv7", "value_from"): lambda draw, around, chosen: None,
}
"""(kind, field) -> how to draw it."""

FLOATS = {"eps": [1e-6, 1e-5], "table_std": [0.02, 0.1], "factor": [1.5, 4.0]}
"""Values of number fields by name, whatever the kind; others keep their default or are drawn from 0.5 to 4."""

NEVER_INSIDE = {"moe": {"moe"}, "path": {"mla", "differential"}, "cope": {"mla", "differential"}}
"""Kinds that may not stand inside certain kinds."""


def component(family: str, around: Around) -> st.SearchStrategy[Component]:
    """A kind of a family that fits there, with random fields."""
    chosen = {
        name: node
        for name, node in kinds(family).items()
        if not NEVER_INSIDE.get(name, set()) & set(around.inside) and _fits(node, around)
    }
    return st.sampled_from(sorted(chosen)).flatmap(lambda name: node_of(chosen[name], around))


@st.composite
def _router(draw, around: Around, experts: int, top_k: int):
    """A router for that many experts. Few of them choose tokens: under most heads they are refused."""
    fitting = {name: node for name, node in kinds("router").items() if node.chooses == "experts"}
    if draw(st.integers(0, 9)) == 0:
        fitting = kinds("router")
    router = draw(node_of(fitting[draw(st.sampled_from(sorted(fitting)))], around))
    if router.kind != "sigmoid":
        return router
    groups = _divisor(draw, experts)
    open_groups = draw(st.sampled_from([None, *range(-(-top_k * groups // experts), groups + 1)]))
    return replace(router, groups=groups, top_groups=open_groups)


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
    return _fitted(node(**chosen), around)


def _fitted(made: Component, around: Around) -> Component:
    """LongRoPE's lists, which must be as long as half of the channels that turn, made to fit drawn heads."""
    scaling = getattr(getattr(made, "position", None), "scaling", None)
    if not isinstance(made, Attention) or not isinstance(scaling, LongRopeScaling) or around.width % made.heads:
        return made
    pairs = int((made.head_width or around.width // made.heads) * made.position.fraction) // 2
    lists = {name: (getattr(scaling, name) * pairs)[:pairs] for name in ("short_factor", "long_factor")}
    return replace(made, position=replace(made.position, scaling=replace(scaling, **lists)))


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
    blocks |= draw(_sharing(around, blocks))
    frame = draw(_frame(around, blocks, stacked=stacked))
    architecture = Architecture(
        name="random",
        vocab_size=draw(st.sampled_from([61, 97])),
        width=width,
        context=around.context,
        blocks={name: block for name, block in blocks.items() if name in written} | frame.pop("blocks", {}),
        layers=layers,
        streams=draw(_streams()),
        embedding=draw(_embedding(around)),
        norm=draw(component("norm", around)),
        head=draw(component("head", around)),
        init=draw(component("init", around)),
        **frame,
    )
    assume(not any(finding.severity == "error" for finding in findings(architecture)))
    return architecture


@st.composite
def _sharing(draw, around: Around, blocks: dict[str, Block]) -> dict[str, Block]:
    """Now and then block b reads the keys and values of block a, or mixes the values of a into its own."""
    field = draw(st.sampled_from([None, None, None, "kv_from", "value_from"]))
    if field is None:
        return {}
    mixers = [blocks[name].mixer for name in ("a", "b")]
    lender, reader = [m if isinstance(m, Attention) else draw(node_of(Attention, around)) for m in mixers]
    same = {name: getattr(lender, name) for name in ("heads", "kv_heads", "head_width")}
    if field == "kv_from":
        if lender.position is not None and lender.position.kind not in {"rope", "alibi", "t5"}:
            lender = replace(lender, position=None)
        same["position"] = lender.position
    reader = replace(reader, **same, **{field: "a"})
    return {"a": replace(blocks["a"], mixer=lender), "b": replace(blocks["b"], mixer=reader)}


@st.composite
def _streams(draw) -> Streams:
    if draw(st.integers(0, 4)):
        return Streams()
    return Streams(skips=draw(st.sampled_from(["none", "unet"])), embedding=draw(st.sampled_from(["none", "learned"])))


@st.composite
def _frame(draw, around: Around, blocks: dict[str, Block], *, stacked: bool) -> dict[str, Any]:
    """What stands beside the stack: mostly nothing, or an encoder that one of its blocks reads, or tokens ahead."""
    shape = draw(st.sampled_from(["plain", "plain", "plain", "encoder", "ahead"]))
    if shape == "encoder":
        blocks["a"] = replace(blocks["a"], cross=draw(component("cross", around)))
        source = draw(_block(around, "both"))
        if isinstance(source.mixer, Attention) and draw(st.booleans()):
            both_ways = replace(source.mixer, sees="everything")
            source = replace(source, mixer=both_ways)
        return {"encoder": Encoder(layers=draw(st.sampled_from(["e", "e*2", "e^2"]))), "blocks": {"e": source}}
    if shape == "ahead" and not stacked:
        return {"mtp": MultiToken(block="a", depth=draw(st.integers(1, 2)))}
    return {}


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
    order = draw(st.sampled_from([None, None, *get_args(SublayerOrder)])) if place in {None, "pre", "none"} else None
    return Block(
        mixer=mixer,
        ffn=ffn,
        norm=draw(st.none() | component("norm", around)),
        norm_place=place,
        order=order,
        residual_scale=draw(st.sampled_from([None, None, 0.5, "1/sqrt(2*depth)"])),
        weights=draw(st.sampled_from([None, None, None, "shared"])),
    )


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
