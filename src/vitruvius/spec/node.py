"""What every component of a spec has in common: a kind, a registry, tensors and costs.

A *family* (Mixer, FeedForward, Position, ...) is a role in the architecture; a *kind* is one way to fill it.
A kind is a frozen dataclass deriving from its family and registered with `register`; it says what it is (its
fields) and what it costs (methods here). The module that computes it lives under the same name in `nn/`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import import_module, metadata
from math import sqrt
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from annotated_types import Ge, Gt, Le

from vitruvius.errors import UsageError
from vitruvius.spec.choosing import Chooser
from vitruvius.spec.costing import Costing
from vitruvius.spec.costs import LINEAR_ROLES, Activations, Flops, LearnedTable, Role, StateSpec, TensorSpec, Work
from vitruvius.spec.mixing import Mixing
from vitruvius.spec.placing import Norming, Placing
from vitruvius.spec.schedulable import marks
from vitruvius.spec.scope import Heads, Scope, Twin
from vitruvius.spec.tracing.losing import Losing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vitruvius.errors import Finding
    from vitruvius.spec.weight import Weight

__all__ = [
    "FAMILIES",
    "LARGEST",
    "LINEAR_ROLES",
    "Activations",
    "Component",
    "Cross",
    "FeedForward",
    "Flops",
    "Head",
    "Heads",
    "Init",
    "LearnedTable",
    "Mixer",
    "Node",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Norm",
    "Position",
    "PositiveFloat",
    "PositiveInt",
    "Role",
    "Router",
    "Scaling",
    "Scope",
    "StateSpec",
    "TensorSpec",
    "Twin",
    "Work",
    "all_kinds",
    "kinds",
    "load_installed",
    "load_kinds",
    "register",
    "under",
]

LARGEST = 2**31 - 1

PositiveInt = Annotated[int, Gt(0), Le(LARGEST)]
"""A dimension: 1 to 2^31 - 1."""

NonNegativeInt = Annotated[int, Ge(0), Le(LARGEST)]
PositiveFloat = Annotated[float, Gt(0.0)]
NonNegativeFloat = Annotated[float, Ge(0.0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Base of everything in a spec."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    schedulable = marks()
    """The fields that may change while a model trains, with why; they decide no tensor's shape."""


WIDTHS = frozenset({"heads", "kv_heads", "key_heads", "value_heads", "hidden", "inner", "rank", "latent"})
"""Fields that grow with the width of the stream, whatever the kind; a kind whose own do not says so in `widened`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component(Costing, Node):
    """Base of the families. Subclasses of a family are kinds."""

    family: ClassVar[str] = ""
    """Name of the family, as in error messages and docs (`mixer`, `ffn`, ...)."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names that the kind is known by: files may use them, and what is written has the kind's own."""

    kind: str
    """The registered name; each kind narrows this to a literal of its own."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """A family validates as the union of its registered kinds, told apart by `kind`."""
        if "family" not in cls.__dict__:
            return handler(source)
        from pydantic_core import core_schema

        choices = {name: handler.generate_schema(node) for name, node in kinds(cls.family).items()}
        return core_schema.tagged_union_schema(choices, discriminator="kind")

    def findings(self, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 (kinds that always fit)
        """What does not fit together inside this component; paths start at its own fields."""
        return ()

    def silent(self, scope: Scope, length: int) -> Iterable[str]:  # noqa: ARG002 (in most, every one matters)
        """Parameters without any effect on a pass over `length` tokens, for a reason that lies in the mathematics."""
        return ()

    def shrunk(self, twin: Twin) -> Mapping[str, object]:  # noqa: ARG002 (kinds without dimensions)
        """The fields that a small twin of this component changes; nodes inside, and nodes it gives, shrink in turn."""
        return {}

    def details(self, scope: Scope) -> Iterable[str] | None:  # noqa: ARG002 (kinds without anything to tell)
        """What a drawing says of this component, in short lines; None shows its fields as they were given."""
        return None

    def widened(self, factor: int) -> Mapping[str, object]:
        """The fields that change where everything is `factor` times as wide; what is a node inside widens by itself.

        By default every whole number among heads, hidden widths and ranks; experts, states and taps are no widths.
        """
        found: dict[str, object] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if type(value) is int and (f.name in WIDTHS or f.name.endswith("_rank")):
                found[f.name] = value * factor
        return found


def under(prefix: str, found: Iterable[Finding]) -> Iterator[Finding]:
    """The findings with their paths moved below `prefix`."""
    for finding in found:
        yield replace(finding, path=f"{prefix}.{finding.path}" if finding.path else prefix)


class Mixer(Mixing, Component):
    """Moves information between positions: attention, state spaces, convolutions."""

    __slots__ = ()
    family = "mixer"


class Cross(Component):
    """Reads the output of the encoder from the decoder's positions."""

    __slots__ = ()
    family = "cross"

    def heads_and_groups(self) -> tuple[int, int] | None:
        """Query heads and key heads, for drawings; None without heads."""
        return None

    def state_tensors(self, scope: Scope, source: int) -> Mapping[str, StateSpec]:
        """What is kept of a source of up to `source` tokens while decoding."""
        raise NotImplementedError


class FeedForward(Component):
    """Acts on each position by itself: MLPs, gated MLPs, mixtures of experts."""

    __slots__ = ()
    family = "ffn"

    @property
    def is_causal(self) -> bool:
        """Whether what it makes of a token depends on no later one."""
        return True

    @property
    def hidden_width(self) -> int:
        """Width of the widest inner activation per token (for drawings)."""
        raise NotImplementedError


class Router(Chooser, Component):
    """Chooses experts for a token."""

    __slots__ = ()
    family = "router"


class Position(Placing, Component):
    """Tells positions apart. `acts_on` names where: the embedding, queries and keys, or the scores."""

    __slots__ = ()
    family = "position"
    acts_on: ClassVar[Literal["embedding", "rotation", "scores"]]
    has_kernel: ClassVar[bool] = False
    """Whether its module computes attention by itself (the hook `attend`)."""
    causal_only: ClassVar[str] = ""
    """What it does that makes no sense for a key later than the query; empty where it works in both directions."""

    def longest_sequence(self, scope: Scope) -> int | None:
        """Tokens beyond which there are no positions, or None without such a limit."""
        del scope
        return None

    def learned_table(self, scope: Scope) -> LearnedTable | None:
        """The table of positions that grows with the sequences, or None without one."""
        del scope
        return None

    def findings_for_heads(self, head_width: int, farthest: int, scope: Scope) -> Iterable[Finding]:
        """What does not fit heads of this width in a layer that sees as far as `farthest` positions back."""
        del head_width, farthest, scope
        return ()

    def resized(self, before: int, after: int) -> Position:
        """The same for heads of `after` channels in place of `before`, as in a small twin."""
        del before, after
        return self

    def tensors_for_heads(self, heads: Heads, scope: Scope) -> Mapping[str, TensorSpec]:
        """Parameter tensors inside attention; by default those of `tensors`."""
        del heads
        return self.tensors(scope)

    def pair_flops_for_heads(self, heads: Heads) -> int:
        """What the position adds to the cost of each query-key pair."""
        del heads
        return 0

    def token_flops_for_heads(self, heads: Heads) -> int:
        """What the position adds to the cost of each token, besides its linear maps."""
        del heads
        return 0

    def slot_state(self, heads: Heads) -> Mapping[str, StateSpec]:
        """What is kept beside each key: shapes are (rows, width) and stand for rows x slots x width.

        `k` and `v`, where given, replace the format of the keys and values themselves.
        """
        del heads
        return {}

    def running_state(self, heads: Heads, scope: Scope) -> Mapping[str, StateSpec]:
        """What is kept once for each sequence."""
        del heads, scope
        return {}


class Scaling(Component):
    """Stretches rotary frequencies past the length they were trained on."""

    __slots__ = ()
    family = "scaling"

    def frequencies(self, plain: tuple[float, ...], theta: float, width: int) -> tuple[float, ...]:
        """Radians per position of each pair, from the unscaled ones of a head of `width` channels."""
        raise NotImplementedError

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0

    def longest_context(self) -> float | None:
        """Tokens that the scaling is meant to reach, or None when it does not say."""
        return None

    def for_context(self, context: int) -> Scaling:
        """The scaling as it is in an architecture of that context: itself, unless it chooses by it."""
        del context
        return self

    def findings_for_pairs(self, pairs: int) -> Iterable[Finding]:
        """What does not fit that many turning pairs of channels."""
        del pairs
        return ()

    def resized(self, pairs: int) -> Scaling:
        """The same for another number of pairs."""
        del pairs
        return self


class Norm(Norming, Component):
    """Normalises a vector."""

    __slots__ = ()
    family = "norm"

    def tensors_of_width(self, width: int) -> Mapping[str, TensorSpec]:
        """Parameter tensors of a norm over vectors of `width`."""
        raise NotImplementedError

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """As a norm over the residual stream."""
        return self.tensors_of_width(scope.width)


class Head(Losing, Component):
    """Turns the last residual stream into what the model is for."""

    __slots__ = ()
    family = "head"
    causal: ClassVar[bool] = False
    """Whether seeing later tokens would give the answer away."""

    def outputs(self, scope: Scope) -> int:
        """Numbers in each row of what the head returns."""
        return scope.vocab_size


class Init(Component):
    """Draws the first weights."""

    __slots__ = ()
    family = "init"

    table_std: float
    """Standard deviation of embedding and position tables."""
    residual: Literal["plain", "scaled"]
    """`scaled` divides maps into the residual stream by sqrt(2 x layers)."""

    def matrix_std(self, fan_in: int, fan_out: int) -> float:
        """Standard deviation of a matrix with these fans."""
        raise NotImplementedError

    def attention_scale(self, head_width: int) -> float:
        """What scores of heads of this width are multiplied by."""
        return 1 / sqrt(head_width)

    def branch_scale(self, depth: int) -> float:
        """What each sublayer of a stack of `depth` layers is multiplied by before it joins the residual stream."""
        del depth
        return 1.0

    def logit_scale(self, width: int) -> float:
        """What the logits of a stream of `width` are multiplied by."""
        del width
        return 1.0

    def std_of(self, weight: Weight, scope: Scope) -> float:
        """Standard deviation of a tensor that is drawn."""
        tensor = weight.tensor
        if tensor.role == "table":
            return self.table_std
        std = self.matrix_std(fan_in=tensor.shape[-1], fan_out=tensor.shape[-2])
        return std / sqrt(2 * scope.depth) if tensor.role == "output" and self.residual == "scaled" else std

    def learning_rate_scale(self, weight: Weight, scope: Scope) -> float:
        """What the learning rate of a tensor under Adam is multiplied by."""
        del weight, scope
        return 1.0

    def weight_decay_scale(self, weight: Weight, scope: Scope) -> float:
        """What the decoupled weight decay of a tensor is multiplied by, besides its learning rate."""
        del weight, scope
        return 1.0

    def eps_scale(self, weight: Weight, scope: Scope) -> float:
        """What Adam's eps is multiplied by for a tensor, as its gradients are."""
        del weight, scope
        return 1.0


FAMILIES: dict[str, type[Component]] = {
    family.family: family for family in (Mixer, Cross, FeedForward, Router, Position, Scaling, Norm, Head, Init)
}

_registry: dict[str, dict[str, type[Component]]] = {name: {} for name in FAMILIES}

Kind = TypeVar("Kind", bound=type[Component])


def register(node: Kind) -> Kind:
    """Add a kind to its family; the name is the default of its `kind` field. Usable as a decorator.

    Raises ValueError when the family already has another kind of that name, or an alias means another one.
    """
    name: str = node.__dataclass_fields__["kind"].default
    names = {kind for family in _registry.values() for kind in family}
    aliases = {
        a
        for f in _registry.values()
        for kind in f.values()
        if kind.__qualname__ != node.__qualname__
        for a in kind.aliases
    }
    if name in aliases or not aliases.union(names).isdisjoint(node.aliases):
        message = f"{node.family} kind {name!r}: its name or an alias of it already means another kind"
        raise ValueError(message)
    known = _registry[node.family].setdefault(name, node)
    if known is not node and known.__qualname__ != node.__qualname__:
        message = f"{node.family} kind {name!r} is already registered by {known.__module__}.{known.__qualname__}"
        raise ValueError(message)
    _registry[node.family][name] = node
    return node


@cache
def load_kinds() -> None:
    """Import the built-in kinds, then those that installed packages register under `vitruvius.components`.

    What is loaded here must not import torch: modules have a group of their own (`vitruvius.nn.registry`).
    Raises UsageError when an installed package cannot be loaded.
    """
    import_module("vitruvius.spec.builtin")
    load_installed("vitruvius.components")


def load_installed(group: str) -> None:
    """Import what installed packages offer in a group of entry points.

    Raises UsageError, naming the package and its entry point, when one fails to load.
    """
    for point in metadata.entry_points(group=group):
        try:
            point.load()
        except Exception as error:
            package = "an installed package" if point.dist is None else f"the installed package {point.dist.name!r}"
            what = (
                f"{package} offers {point.name} = {point.value}, which fails to load: {type(error).__name__}: {error}"
            )
            name = "it" if point.dist is None else point.dist.name
            fix = f"repair {name}, or uninstall it: pip uninstall {'<its name>' if point.dist is None else name}"
            raise UsageError(what, where=f"entry points {group}", fix=fix) from error


def kinds(family: str) -> dict[str, type[Component]]:
    """Registered kinds of a family by name, in alphabetical order."""
    load_kinds()
    return dict(sorted(_registry[family].items()))


def all_kinds() -> tuple[type[Component], ...]:
    """Every registered kind: a key for what was derived from the registry, which may still grow."""
    load_kinds()
    return tuple(kind for family in _registry.values() for kind in family.values())
