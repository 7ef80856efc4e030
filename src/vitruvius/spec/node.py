"""What every component of a spec has in common: a kind, a registry, tensors and costs.

A *family* (Mixer, FeedForward, Position, ...) is a role in the architecture; a *kind* is one way to fill it.
A kind is a frozen dataclass deriving from its family and registered with `register`; it says what it is (its
fields) and what it costs (methods here). The module that computes it lives under the same name in `nn/`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module, metadata
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from annotated_types import Ge, Gt, Le

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vitruvius.errors import Finding
    from vitruvius.patterns import Pattern

LARGEST = 2**31 - 1

PositiveInt = Annotated[int, Gt(0), Le(LARGEST)]
"""A dimension: 1 to 2^31 - 1."""

NonNegativeInt = Annotated[int, Ge(0), Le(LARGEST)]
PositiveFloat = Annotated[float, Gt(0.0)]
NonNegativeFloat = Annotated[float, Ge(0.0)]

Role = Literal["matrix", "output", "router", "gain", "bias", "table"]
"""What a tensor is for, which decides how it is initialised and whether it is decayed:

matrix   a linear map applied to every token            output   the last map before the residual stream
router   the map from a token to its experts' scores     gain     a norm's scale
bias     an additive vector                              table    rows looked up by index
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a component may know about the architecture around it."""

    width: int
    """Width of the residual stream."""
    vocab_size: int
    context: int
    """Tokens the architecture is declared for."""
    depth: int
    """Number of layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One parameter tensor: its shape, its role, and which share of it a token uses."""

    shape: tuple[int, ...]
    role: Role = "matrix"
    used: tuple[int, int] = (1, 1)
    """(top_k, experts): a token passes through top_k of the experts that the tensor stacks."""
    start: float | None = None
    """The value that every entry starts with; None leaves it to the role: gains 1, biases 0, the others drawn."""

    @property
    def count(self) -> int:
        """Parameters stored."""
        return prod(self.shape)

    @property
    def active(self) -> int:
        """Parameters that take part in computing one token."""
        used, of = self.used
        return self.count * used // of


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Floating-point operations of a forward pass, a multiply-add counted as two.

    `useful` counts the query-key pairs that the pattern allows; `dense` counts every pair, which is what
    an implementation with a full score matrix does.
    """

    useful: int = 0
    dense: int = 0

    def __add__(self, other: Flops) -> Flops:
        """Sum of two costs."""
        return Flops(useful=self.useful + other.useful, dense=self.dense + other.dense)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Base of everything in a spec."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Component(Node):
    """Base of the families. Subclasses of a family are kinds."""

    family: ClassVar[str] = ""
    """Name of the family, as in error messages and docs (`mixer`, `ffn`, ...)."""

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

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:  # noqa: ARG002 (kinds without parameters)
        """Parameter tensors by name, exactly as the built module has them."""
        return {}

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """Cost of a forward pass over one sequence of `tokens` tokens; by default that of the linear maps."""
        per_token = sum(2 * t.active for t in self.tensors(scope).values() if t.role in LINEAR_ROLES)
        return Flops(useful=per_token * tokens, dense=per_token * tokens)

    def findings(self, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 (kinds that always fit)
        """What does not fit together inside this component; paths start at its own fields."""
        return ()


def under(prefix: str, found: Iterable[Finding]) -> Iterator[Finding]:
    """The findings with their paths moved below `prefix`."""
    for finding in found:
        yield replace(finding, path=f"{prefix}.{finding.path}" if finding.path else prefix)


LINEAR_ROLES: frozenset[Role] = frozenset({"matrix", "output", "router"})


class Mixer(Component):
    """Moves information between positions: attention, state spaces, convolutions."""

    __slots__ = ()
    family = "mixer"

    def pattern(self) -> Pattern | None:
        """Who attends to whom, or None when the mixer has no query-key pairs."""
        return None

    def cache_shapes(self, scope: Scope, capacity: int) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the decode state for one sequence of up to `capacity` tokens, in the model's dtype."""
        raise NotImplementedError


class FeedForward(Component):
    """Acts on each position by itself: MLPs, gated MLPs, mixtures of experts."""

    __slots__ = ()
    family = "ffn"

    @property
    def hidden_width(self) -> int:
        """Width of the widest inner activation per token (for drawings)."""
        raise NotImplementedError


class Router(Component):
    """Chooses experts for a token."""

    __slots__ = ()
    family = "router"

    def tensors_for(self, experts: int, width: int) -> Mapping[str, TensorSpec]:  # noqa: ARG002 (routers without any)
        """Parameter tensors of a router of tokens of `width` to that many experts, as the built module has them."""
        return {}

    def findings_for_choice(self, top_k: int) -> Iterable[Finding]:  # noqa: ARG002 (most fit any number)
        """What does not fit choosing this many experts."""
        return ()


class Position(Component):
    """Tells positions apart. `acts_on` names where: the embedding, queries and keys, or the scores."""

    __slots__ = ()
    family = "position"
    acts_on: ClassVar[Literal["embedding", "rotation", "scores"]]

    def longest_sequence(self, scope: Scope) -> int | None:
        """Tokens beyond which there are no positions, or None without such a limit."""
        del scope
        return None

    def findings_for_heads(self, head_width: int, farthest: int, scope: Scope) -> Iterable[Finding]:
        """What does not fit heads of this width in a layer that sees as far as `farthest` positions back."""
        del head_width, farthest, scope
        return ()


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


class Norm(Component):
    """Normalises a vector."""

    __slots__ = ()
    family = "norm"

    def tensors_of_width(self, width: int) -> Mapping[str, TensorSpec]:
        """Parameter tensors of a norm over vectors of `width`."""
        raise NotImplementedError

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """As a norm over the residual stream."""
        return self.tensors_of_width(scope.width)


class Head(Component):
    """Turns the last residual stream into what the model is for."""

    __slots__ = ()
    family = "head"
    causal: ClassVar[bool] = False
    """Whether seeing later tokens would give the answer away."""


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


FAMILIES: dict[str, type[Component]] = {
    family.family: family for family in (Mixer, FeedForward, Router, Position, Scaling, Norm, Head, Init)
}

_registry: dict[str, dict[str, type[Component]]] = {name: {} for name in FAMILIES}

Kind = TypeVar("Kind", bound=type[Component])


def register(node: Kind) -> Kind:
    """Add a kind to its family; the name is the default of its `kind` field. Usable as a decorator.

    Raises ValueError when the family already has another kind of that name.
    """
    name: str = node.__dataclass_fields__["kind"].default
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
