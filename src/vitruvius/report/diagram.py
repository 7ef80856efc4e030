"""What a drawing of an architecture shows, before anything decides where it stands or how it looks.

Everything here comes from the resolved graph: the stack from tokens up to logits, and the inside of each distinct
block: a kind says what to write (`details`), or is drawn from its fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from vitruvius.report.folding import Part, fold, line_of
from vitruvius.spec.ffn.mlp import Gated, Mlp
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.layer import Stack
from vitruvius.spec.mixers.seeing import described
from vitruvius.spec.node import Cross, Mixer
from vitruvius.spec.reporting import printable
from vitruvius.spec.rules import ensure
from vitruvius.spec.writing import to_data
from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.graph import Graph, Layer
    from vitruvius.spec.model import Architecture, NormPlace, SublayerOrder
    from vitruvius.spec.node import Component, Norm, TensorSpec

MOST_DESIGNS: Final = 12
"""The insides of at most so many blocks are drawn."""

_LONGEST_TEXT: Final = 400
_LONGEST_DETAIL: Final = 72
_GOLDEN: Final = 0.6180339887498949
"""Its multiples, taken modulo one, fall evenly and never in step with a grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Query heads above the key and value heads that they share."""

    queries: int
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A row of experts, some of them lit."""

    experts: int
    chosen: int
    shared: bool
    """Whether there is one that every token passes through."""
    router: str

    def lit(self, drawn: int) -> frozenset[int]:
        """Which of `drawn` experts a token of the drawing passes through: scattered, the same at every drawing."""
        lit: set[int] = set()
        turn = 0.0
        while len(lit) < min(self.chosen, drawn):
            turn = (turn + _GOLDEN) % 1.0
            lit.add(int(turn * drawn))
        return frozenset(lit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """The linear maps of a feed-forward network with what stands between them."""

    inward: tuple[str, ...]
    """`up`, or `gate` and `up`."""
    activation: str
    outward: str


Art = Heads | Experts | Maps


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A component: its kind, what it says of itself in a few lines, its parameters."""

    title: str
    details: tuple[str, ...] = ()
    parameters: int = 0
    art: Art | None = None
    sees: str | None = None
    """The text of its pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The inside of one block."""

    name: str
    layers: int
    """How many layers of the stack it is."""
    parameters: int
    """Of one layer."""
    active: int
    """Of one layer, for each token."""
    norm: str
    norm_place: NormPlace
    boxes: tuple[Box, ...]
    """What it applies, in order."""
    order: SublayerOrder = "in-turn"
    stack: str = "layers"
    """What the layers of its stack are called: `layers`, or `encoder layers`."""
    of: int = 0
    """How many layers its stack has."""
    note: str = ""
    """What else is to be said of its layers, in a few words."""

    @property
    def is_parallel(self) -> bool:
        """Whether all its sublayers read the stream as it came in."""
        return self.order != "in-turn" and len(self.boxes) > 1

    @property
    def place(self) -> str:
        """How many layers it is, of how many."""
        return f"{self.layers:,} of {self.of:,} {self.stack}"

    def norm_of(self, box: int) -> str:
        """What the norm before a sublayer is called, counted from 0."""
        return f"the same {self.norm}" if self.order == "parallel-one-norm" and box else self.norm

    @property
    def norm_before(self) -> bool:
        """Whether a norm stands between the stream and what is applied."""
        return self.norm_place in {"pre", "sandwich"}

    @property
    def norm_after(self) -> bool:
        """Whether a norm stands between what is applied and the addition."""
        return self.norm_place in {"output", "sandwich"}

    @property
    def sees(self) -> str | None:
        """The text of its pattern, where it has one."""
        return next((box.sees for box in self.boxes if box.sees), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagram:
    """A whole architecture, ready to be drawn."""

    name: str
    description: str
    parameters: int
    active: int
    depth: int
    width: int
    context: int
    vocab_size: int
    embedding: Box
    stack: tuple[Part, ...]
    """Bottom first."""
    final_norm: Box | None
    head: Box
    designs: tuple[Design, ...]
    """In the order in which the stacks first show them, the main one first."""
    encoder: tuple[Part, ...] = ()
    """The stack that reads the source, bottom first."""
    encoder_norm: Box | None = None
    ways: tuple[str, ...] = ()
    """What runs from layer to layer besides the stream, and what stands on top while training."""

    @property
    def facts(self) -> tuple[str, ...]:
        """The line under the title."""
        total = f"{format_count(self.parameters)} parameters"
        active = (f"{format_count(self.active)} active",) if self.active != self.parameters else ()
        depth = f"{self.depth:,} layers"
        if self.encoder:
            depth += f" and {sum(part.layers for part in self.encoder):,} of the encoder"
        sizes = (depth, f"width {self.width:,}", f"context {self.context:,}")
        return (total, *active, *sizes, f"vocabulary {self.vocab_size:,}", *self.ways)

    @property
    def drawn(self) -> tuple[Design, ...]:
        """The designs whose inside is drawn: all, unless there are more than anyone looks at."""
        return self.designs[:MOST_DESIGNS]

    @property
    def undrawn(self) -> str:
        """What is said of the others; empty where there are none."""
        more = len(self.designs) - len(self.drawn)
        return f"{more:,} more blocks are not drawn" if more else ""

    @property
    def layer_line(self) -> str:
        """The stack in one line: `(dense moe) x 16`."""
        return line_of(self.stack)

    @property
    def stream(self) -> str:
        """The shape on the arrows."""
        return f"[B, T, {self.width:,}]"

    def design(self, name: str) -> tuple[int, Design]:
        """Place and design of a block."""
        return next((i, design) for i, design in enumerate(self.designs) if design.name == name)


def diagram_of(architecture: Architecture) -> Diagram:
    """What to draw of an architecture. Raises SpecError when it does not fit together."""
    graph = ensure(architecture)
    apart = graph.mtp_tensors()
    tensors = {name: tensor for name, tensor in graph.tensors().items() if name not in apart}
    return Diagram(
        name=printable(architecture.name, _LONGEST_DETAIL),
        description=printable(" ".join(architecture.description.split()), _LONGEST_TEXT),
        parameters=sum(tensor.count for tensor in tensors.values()),
        active=sum(tensor.active for tensor in tensors.values()),
        depth=len(graph.layers),
        width=architecture.width,
        context=architecture.context,
        vocab_size=architecture.vocab_size,
        embedding=_embedding(graph, _count(tensors, "embedding.")),
        stack=fold(graph.layers),
        final_norm=_norm(graph.final_norm, _count(tensors, "final_norm.")),
        encoder=fold(graph.encoder) if graph.encoder else (),
        encoder_norm=_norm(graph.encoder_norm, _count(tensors, "encoder.final_norm.")),
        ways=tuple(_ways(graph, sum(tensor.count for tensor in apart.values()))),
        head=_head(graph, _count(tensors, "head.")),
        designs=tuple(_design(layers) for layers in _by_block(graph)),
    )


# ----------------------------------------------------------------------------------------------------------------------
# The ends of the stack


def _count(tensors: Mapping[str, TensorSpec], prefix: str) -> int:
    return sum(tensor.count for name, tensor in tensors.items() if name.startswith(prefix))


def _embedding(graph: Graph, parameters: int) -> Box:
    embedding, scope = graph.architecture.embedding, graph.scope
    details = [f"{scope.vocab_size:,} × {scope.width:,}"]
    if embedding.scale is not None:
        details.append(f"scaled by {printable(str(embedding.scale))}")
    if embedding.position is not None:
        details.append(f"+ {', '.join(described(embedding.position, scope))} positions")
    if embedding.norm is not None:
        details.append(f"then {embedding.norm.kind}")
    return Box(title="embedding", details=tuple(details), parameters=parameters)


def _norm(norm: Norm | None, parameters: int) -> Box | None:
    return None if norm is None else Box(title=norm.kind, parameters=parameters)


def _head(graph: Graph, parameters: int) -> Box:
    head, scope = graph.architecture.head, graph.scope
    details = [f"{scope.width:,} × {scope.vocab_size:,}"]
    if getattr(head, "tied", False):
        details = ["tied to the embedding"]
    cap = getattr(head, "softcap", None)
    if cap is not None:
        details.append(f"capped at {cap:g}")
    return Box(title=f"{head.kind} head", details=tuple(details), parameters=parameters)


def _ways(graph: Graph, ahead: int) -> Iterator[str]:
    streams, mtp = graph.architecture.streams, graph.architecture.mtp
    if streams.skips != "none":
        yield "skips from the first half to the second"
    if streams.embedding != "none":
        yield "the embedding enters every layer"
    if mtp is not None:
        yield f"{mtp.depth:,} tokens ahead in training ({format_count(ahead)} apart)"


# ----------------------------------------------------------------------------------------------------------------------
# Blocks


def _by_block(graph: Graph) -> list[list[Layer]]:
    """The layers of each block of each stack, in the order in which they first appear."""
    blocks: dict[object, list[Layer]] = {}
    for layer in (*graph.layers, *graph.encoder):
        blocks.setdefault((layer.stack, layer.name), []).append(layer)
    return list(blocks.values())


def _design(layers: list[Layer]) -> Design:
    layer = layers[0]
    tensors = layer.tensors().values()
    return Design(
        name=layer.name,
        layers=len(layers),
        parameters=sum(tensor.count for tensor in tensors),
        active=sum(tensor.active for tensor in tensors),
        norm=layer.norm.kind,
        norm_place=layer.norm_place,
        boxes=tuple(_box(name, component, layer) for name, component in layer.sublayers()),
        order=layer.order,
        stack="encoder layers" if layer.stack is Stack.ENCODER else "layers",
        of=layer.scope.depth,
        note=_note(layer),
    )


def _note(layer: Layer) -> str:
    if layer.residual_scale is None:
        return ""
    return f"each branch times {printable(str(layer.residual_scale), 24)}"


def _box(sublayer: str, component: Component, layer: Layer) -> Box:
    said, sees = component.details(layer.scope), getattr(component, "sees", None)
    details = _fields(component) if said is None else tuple(printable(line, _LONGEST_DETAIL) for line in said)
    return Box(
        title=_TITLES.get((sublayer, component.kind), component.kind),
        details=details,
        parameters=sum(tensor.count for tensor in component.tensors(layer.scope).values()),
        art=_art(component),
        sees=" ".join(sees.split()) if isinstance(sees, str) else None,
    )


_TITLES = {("ffn", "moe"): "mixture of experts", ("cross", "attention"): "cross-attention"}
"""What the box of a sublayer's kind is called, where that is not the kind."""


def _art(component: Component) -> Art | None:
    match component:
        case Moe():
            renormalised = ", renormalised" if getattr(component.router, "renormalise", False) else ""
            router = f"{component.router.kind} router{renormalised}"
            shared = component.shared_expert is not None
            return Experts(experts=component.experts, chosen=component.top_k, shared=shared, router=router)
        case Gated():
            return Maps(inward=("gate", "up"), activation=component.activation, outward="down")
        case Mlp():
            return Maps(inward=("up",), activation=component.activation, outward="down")
        case Mixer() | Cross():
            heads = component.heads_and_groups()
            return None if heads is None else Heads(queries=heads[0], groups=heads[1])
        case _:
            return None


def _fields(component: Component) -> tuple[str, ...]:
    """What a kind that this file does not know says of itself: its fields as they were given."""
    data = {name: value for name, value in to_data(component).items() if name not in {"kind", "sees"}}
    return tuple(printable(f"{name} {_short(value)}", _LONGEST_DETAIL) for name, value in data.items())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        kind = fields.get("kind")
        rest = {k: v for k, v in fields.items() if k != "kind"}
        inside = ", ".join(f"{k} {_short(v)}" for k, v in rest.items())
        return " ".join(part for part in (str(kind) if kind else "", f"({inside})" if inside else "") if part)
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}"
