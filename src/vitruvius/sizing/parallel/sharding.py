"""How the tensors of a model are cut among ranks: by heads and hidden channels, by experts, by rows for storage.

Tensor parallelism (Shoeybi et al., 2019) cuts the maps into heads and hidden channels by rows and the maps out of them
by columns; norms, routers, low-rank maps into narrow vectors and what this file knows nothing of stay whole on each
rank. Expert parallelism cuts stacked experts along their first axis. What ZeRO-3 or FSDP2 stores of what is left is a
part of the first axis, as torch.chunk cuts it: ranks may hold unequal parts, and all sizes here are of the rank that
holds most.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.cross import CrossAttention
from vitruvius.spec.ffn.mlp import Gated, Mlp
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.mixers.deltanet import GatedDeltaNet
from vitruvius.spec.mixers.differential import DifferentialAttention
from vitruvius.spec.mixers.gla import GatedLinearAttention
from vitruvius.spec.mixers.kda import KimiDelta
from vitruvius.spec.mixers.mamba import Mamba
from vitruvius.spec.mixers.mamba2 import Mamba2
from vitruvius.spec.mixers.mla import LatentAttention
from vitruvius.spec.mixers.retnet import RetNet
from vitruvius.spec.mixers.rwkv7 import RWKV7
from vitruvius.spec.mixers.short_conv import ShortConvolution

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.costs import TensorSpec
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.layer import Layer
    from vitruvius.spec.node import Component, Scope

How = Literal["whole", "rows", "columns", "grouped", "joined"]
"""`rows` and `columns` in equal parts; `grouped` rows belong to key heads, of which several ranks may share one;
`joined` rows have some at their end that every rank keeps (Mamba-2's B and C)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One tensor as the rank that holds most of it has it."""

    shape: tuple[int, ...]
    is_expert: bool
    """Whether it stacks experts, which other ranks copy than those that copy the rest."""
    how: How
    """How tensor parallelism cuts it."""
    spec: TensorSpec

    @property
    def count(self) -> int:
        """Parameters."""
        return prod(self.shape)

    @property
    def is_whole(self) -> bool:
        """Whether each tensor-parallel rank has all of it."""
        return self.how == "whole"

    @property
    def sums(self) -> bool:
        """Whether ranks have to add up what they make with their parts."""
        return self.how == "columns"

    def stored_over(self, ranks: int) -> int:
        """Parameters of it that one of `ranks` ranks stores under ZeRO-3 or FSDP2.

        Rows are cut; of stacked experts that are fewer than the ranks, the axis after (as torchtitan does).
        """
        first, *rest = self.shape
        if len(self.shape) > 2 and first < ranks:
            return first * -(-rest[0] // ranks) * prod(rest[1:])
        return -(-first // ranks) * prod(rest)


def _cuts(**names: str) -> dict[str, How]:
    """How each tensor of a kind is cut, from the names for each way."""
    ways: dict[str, How] = {"rows": "rows", "columns": "columns", "grouped": "grouped", "joined": "joined"}
    return {name: ways[way] for way, text in names.items() for name in text.split()}


_CUTS: Mapping[str, Mapping[str, How]] = {
    "attention": _cuts(rows="q gate sinks", grouped="k v", columns="out"),
    "differential": _cuts(rows="q", grouped="k v", columns="out"),
    "mla": _cuts(rows="q q_up kv_up", columns="out"),
    "gated-deltanet": _cuts(rows="q k v gate beta dt conv dt_bias A_log", columns="out"),
    "retnet": _cuts(rows="q k v gate", columns="out"),
    "gla": _cuts(rows="q k v gate decay_up", columns="out"),
    "kda": _cuts(rows="q k v beta conv decay_up dt_bias A_log gate_up", columns="out"),
    "mamba": _cuts(rows="in_proj conv dt_proj A_log D", columns="x_proj out_proj"),
    "mamba2": _cuts(joined="in_proj conv", rows="dt_bias A_log D norm", columns="out_proj"),
    "rwkv7": _cuts(
        rows="r k v decay_up rate_up value_up gate_up norm decay_bias rate_bias value_bias removal replacement bonus",
        columns="out",
    ),
    "short-conv": _cuts(rows="in_proj conv", columns="out_proj"),
    "mlp": _cuts(rows="up", columns="down"),
    "swiglu": _cuts(rows="up gate", columns="down"),
    "geglu": _cuts(rows="up gate", columns="down"),
}
"""Kind -> the first part of a tensor's name -> how it is cut. Kinds and tensors that are not named stay whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Something that tensor parallelism deals out, of one component."""

    of: str
    """Such as `heads`."""
    count: int
    copies: bool = False
    """Whether several ranks may keep a copy of one where there are fewer than ranks."""

    def problem(self, ranks: int) -> str:
        """Why it cannot be dealt out to so many ranks; empty where it can."""
        if self.count % ranks == 0 or (self.copies and ranks % self.count == 0):
            return ""
        return f"{self.of}={self.count:,} cannot be dealt out to {ranks} ranks"


def shares_of(component: Component, scope: Scope) -> list[Share]:
    """All that tensor parallelism deals out of a component; nothing of kinds that stay whole."""
    if isinstance(component, Moe):
        shared = [] if component.shared_expert is None else shares_of(component.shared_expert, scope)
        return [*shares_of(component.expert, scope), *shared]
    if component.kind not in _CUTS:
        return []
    match component:
        case Attention() | DifferentialAttention() | CrossAttention():
            return [Share(of="heads", count=component.heads), Share(of="kv_heads", count=component.groups, copies=True)]
        case GatedDeltaNet():
            return [Share(of="heads", count=component.heads), Share(of="key_heads", count=component.groups)]
        case LatentAttention() | GatedLinearAttention() | KimiDelta() | RetNet() | Mamba2():
            return [Share(of="heads", count=component.heads)]
        case RWKV7():
            return [Share(of="heads", count=scope.width // component.head_width)]
        case Mamba():
            return [Share(of="channels", count=component.inner(scope))]
        case ShortConvolution():
            return [Share(of="channels", count=scope.width)]
        case Mlp() | Gated():
            return [Share(of="hidden", count=component.hidden)]
        case _:
            return []


def stays_whole(component: Component) -> bool:
    """Whether tensor parallelism leaves a component whole on each rank, work and all."""
    return component.kind not in _CUTS and not isinstance(component, Moe)


def parts_of(component: Component, scope: Scope, *, tensor: int, expert: int) -> dict[str, Part]:
    """The tensors of a component on one rank, where `tensor` ranks share its heads and `expert` ranks its experts.

    The degrees must be ones that `shares_of` has no problem with.
    """
    return {
        name: _part(component, name, spec, tensor=tensor, expert=expert)
        for name, spec in component.tensors(scope).items()
    }


def _part(component: Component, name: str, spec: TensorSpec, *, tensor: int, expert: int) -> Part:
    first, _, rest = name.partition(".")
    if isinstance(component, Moe):
        if first == "experts":
            # Stacked as `gate_weight`: the name inside the expert, with its dots replaced.
            inside = rest.rpartition("_")[0] + "." + rest.rpartition("_")[2]
            how = _how(component.expert.kind, inside, spec)
            shape = (-(-spec.shape[0] // expert), *_cut(spec.shape[1:], how, tensor, component))
            return Part(shape=shape, is_expert=True, how=how, spec=spec)
        if first == "shared_expert" and component.shared_expert is not None:
            how = _how(component.shared_expert.kind, rest, spec)
            shape = _cut(spec.shape, how, tensor, component.shared_expert)
            return Part(shape=shape, is_expert=False, how=how, spec=spec)
        return Part(shape=spec.shape, is_expert=False, how="whole", spec=spec)
    how = _how(component.kind, name, spec)
    shape = _cut(spec.shape, how, tensor, component)
    return Part(shape=shape, is_expert=False, how=how, spec=spec)


def _how(kind: str, name: str, spec: TensorSpec) -> How:
    """How a tensor of a kind is cut; the bias of a map that is cut by columns is added once, so it stays whole."""
    how = _CUTS.get(kind, {}).get(name.partition(".")[0], "whole")
    return "whole" if how == "columns" and spec.role == "bias" else how


def _cut(shape: tuple[int, ...], how: How, ranks: int, component: Component) -> tuple[int, ...]:
    """The shape of one rank's part."""
    match how:
        case "whole":
            return shape
        case "rows":
            return (shape[0] // ranks, *shape[1:])
        case "columns":
            return (*shape[:-1], shape[-1] // ranks)
        case "grouped":
            assert isinstance(component, Attention | DifferentialAttention | CrossAttention)
            return (shape[0] // min(ranks, component.groups), *shape[1:])
        case "joined":
            assert isinstance(component, Mamba2)
            common = 2 * component.groups * component.state
            if component.groups % ranks == 0:
                return (shape[0] // ranks, *shape[1:])
            return ((shape[0] - common) // ranks + common, *shape[1:])


def layer_parts(layer: Layer, *, tensor: int, expert: int) -> dict[str, Part]:
    """The tensors of a layer on one rank, by their names in the layer; norms stay whole."""
    parts: dict[str, Part] = {}
    for sublayer, component in layer.sublayers():
        own = parts_of(component, layer.scope, tensor=tensor, expert=expert)
        parts |= {f"{sublayer}.{name}": part for name, part in own.items()}
    for name, spec in layer.tensors().items():
        if name not in parts:
            parts[name] = Part(shape=spec.shape, is_expert=False, how="whole", spec=spec)
    return parts


def outside(graph: Graph) -> dict[str, TensorSpec]:
    """The tensors outside the layers, by name."""
    prefixes = {f"{layer.path}." for layer in graph.every_layer()}
    return {
        name: spec
        for name, spec in graph.tensors().items()
        if not any(name[: i + 1] in prefixes for i, character in enumerate(name) if character == ".")
    }


def end_parts(ends: Mapping[str, TensorSpec], *, tensor: int) -> dict[str, Part]:
    """The tensors outside the layers on one rank, by name: the vocabulary is cut by rows, the rest stays whole.

    A vocabulary that does not divide is padded: the rank that holds most has the rounded-up share.
    """
    parts: dict[str, Part] = {}
    for name, spec in ends.items():
        by_rows = name in {"embedding.tokens.weight", "head.weight", "head.bias"}
        shape = (-(-spec.shape[0] // tensor), *spec.shape[1:]) if by_rows else spec.shape
        parts[name] = Part(shape=shape, is_expert=False, how="rows" if by_rows else "whole", spec=spec)
    return parts


def problems(graph: Graph, *, tensor: int) -> Iterator[str]:
    """Why the layers cannot be dealt out to `tensor` ranks, each reason once."""
    known: set[str] = set()
    seen: set[str] = set()
    for layer in graph.every_layer():
        if layer.name in seen:
            continue
        seen.add(layer.name)
        for sublayer, component in layer.sublayers():
            for share in shares_of(component, layer.scope):
                why = share.problem(tensor)
                if why and why not in known:
                    known.add(why)
                    yield f"{layer.name}.{sublayer}: {why}"
