"""Layers cut among the processes that compute one share of a batch together (tensor parallelism).

Attention is cut by heads, feed-forward networks by hidden channels, each expert of a mixture too, embedding and head by
tokens. Maps into a part need nothing of the others; of the maps out of it the results are summed. What is not in
`PLANS` is computed whole by every process: right, and without gain. Source: Shoeybi et al., "Megatron-LM", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.nn import functional as F

from vitruvius.nn.cross import CrossAttentionModule
from vitruvius.nn.ffn.mlp import GatedModule, MlpModule
from vitruvius.nn.ffn.moe import Experts
from vitruvius.nn.mixers.attention import AttentionModule
from vitruvius.training.engines.cutting import cut
from vitruvius.training.engines.exchange import copied, summed
from vitruvius.training.engines.vocabulary import split_vocabulary
from vitruvius.training.splitting import ROTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from torch import distributed as dist

    from vitruvius.nn import Model
    from vitruvius.nn.block import LayerModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """How the tensors of one module are cut."""

    dims: dict[str, int] = field(default_factory=dict[str, int])
    """Parameter of the module -> dimension that is cut."""
    summed: tuple[str, ...] = ()
    """Parameters that act on every process's own part, and are whole: their gradients are summed."""


def split_layers(model: Model, group: dist.ProcessGroup) -> tuple[dict[str, int], frozenset[str]]:
    """Keep this process's part of every tensor that is cut, and let the modules exchange what the parts need.

    Returns parameter -> dimension that was cut, and the parameters whose gradients have to be summed over the group.
    """
    dims: dict[str, int] = {}
    partial: set[str] = set()
    # Cut in an order that is the same in all processes; a module that layers share comes once.
    for name, module in list(_cut_modules(model)):
        cuts = PLANS[type(module)](module, group)
        for parameter, dim in cuts.dims.items():
            cut(module, parameter, dim, group)
            dims[f"{name}.{parameter}"] = dim
        partial |= {f"{name}.{parameter}" for parameter in cuts.summed}
    dims |= _cut_vocabulary(model, group)
    return dims, frozenset(partial)


def _cut_modules(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """The modules that have a plan and may be cut."""
    bound = _bound_together(model)
    for name, module in model.named_modules():
        if type(module) in PLANS and id(module) not in bound and _may_be_cut(module):
            yield name, module


def _may_be_cut(module: nn.Module) -> bool:
    if isinstance(module, AttentionModule):
        position = module.spec.position
        return position is None or position.kind in ROTATIONS
    if isinstance(module, Experts):
        return not any(name.endswith("_bias") for name, _ in module.named_parameters())
    return True


def _bound_together(model: Model) -> set[int]:
    """Mixers that lend each other keys or values of heads, where one of them cannot be cut: then none of them is."""
    lending = [
        module.mixer
        for layer, module in zip(model.graph.layers, cast("list[LayerModule]", list(model.layers)), strict=True)
        if layer.lends or list(layer.loans())
    ]
    can = all(type(mixer) in PLANS and _may_be_cut(mixer) for mixer in lending)
    return set() if can else {id(mixer) for mixer in lending}


def _attention(module: Any, group: dist.ProcessGroup) -> Cuts:
    """By heads: each process has some of the queries' and the keys' they read."""
    degree, spec = group.size(), module.spec
    module.heads, module.groups = module.heads // degree, module.groups // degree
    module.first_head = group.rank() * module.heads
    # What tells how much a cache keeps.
    module.spec = replace(spec, heads=module.heads, kv_heads=module.groups, head_width=module.head_width)
    _reads_with_others(module, group)
    module.out = _SummedLinear.of(module.out, group)
    maps = [name for name in ("q", "k", "v", "gate") if getattr(module, name) is not None]
    dims = {**_rows(module, maps), "out.weight": 1}
    if module.sinks is not None:
        dims["sinks"] = 0
    shared = [f"{name}.{p}" for name in ("q_norm", "k_norm") if (norm := getattr(module, name)) is not None
              for p, _ in norm.named_parameters()]  # fmt: skip
    if module.value_mix is not None:
        shared.append("value_mix")
    return Cuts(dims=dims, summed=tuple(shared))


def _cross(module: Any, group: dist.ProcessGroup) -> Cuts:
    """By heads, as attention; keys and values read the source."""
    degree, spec = group.size(), module.spec
    module.groups //= degree
    module.first_head = group.rank() * (spec.heads // degree)
    module.spec = replace(spec, heads=spec.heads // degree, kv_heads=module.groups, head_width=module.head_width)
    for name in ("q", "k", "v"):
        _reads_with_others(getattr(module, name), group)
    module.out = _SummedLinear.of(module.out, group)
    return Cuts(dims={**_rows(module, ["q", "k", "v"]), "out.weight": 1})


def _feed_forward(module: Any, group: dist.ProcessGroup) -> Cuts:
    """By hidden channels."""
    _reads_with_others(module, group)
    module.down = _SummedLinear.of(module.down, group)
    maps = ["gate", "up"] if isinstance(module, GatedModule) else ["up"]
    return Cuts(dims={**_rows(module, maps), "down.weight": 1})


def _experts(module: Any, group: dist.ProcessGroup) -> Cuts:
    """Every expert by its hidden channels."""
    _reads_with_others(module, group)
    module.register_forward_hook(lambda _module, _inputs, output: summed(output, group))
    names = ["gate_weight", "up_weight"] if module.gated else ["up_weight"]
    return Cuts(dims={**dict.fromkeys(names, 1), "down_weight": 2})


PLANS: dict[type[nn.Module], Callable[[Any, Any], Cuts]] = {
    AttentionModule: _attention,
    CrossAttentionModule: _cross,
    GatedModule: _feed_forward,
    MlpModule: _feed_forward,
    Experts: _experts,
}
"""Module -> how it is cut; it changes what the module knows of its own size, and returns what to cut."""


def _rows(module: nn.Module, maps: list[str]) -> dict[str, int]:
    """The rows of some linear maps, and of their biases."""
    return {f"{name}.{p}": 0 for name in maps for p, _ in module.get_submodule(name).named_parameters()}


def _reads_with_others(module: nn.Module, group: dist.ProcessGroup) -> None:
    """Sum the gradients of what a module reads first."""

    def read(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (copied(inputs[0], group), *inputs[1:])

    module.register_forward_pre_hook(read)


class _SummedLinear(nn.Linear):
    """A map out of a part: the results of all processes are summed, the bias is added once."""

    group: dist.ProcessGroup

    @classmethod
    def of(cls, linear: nn.Linear, group: dist.ProcessGroup) -> _SummedLinear:
        """The same map, whose weight is about to be cut."""
        linear.__class__ = cls
        made = cast("_SummedLinear", linear)
        made.group = group
        return made

    def forward(self, x: Tensor) -> Tensor:
        """The whole map, in every process."""
        y = summed(F.linear(x, self.weight), self.group)
        return y if self.bias is None else y + self.bias


def _cut_vocabulary(model: Model, group: dist.ProcessGroup) -> dict[str, int]:
    """By tokens, where the degree divides them."""
    table, head = model.embedding.tokens, cast("Any", model.head)
    if model.architecture.vocab_size % group.size():
        return {}
    split_vocabulary(table, head, group)
    cut(table, "weight", 0, group)
    dims = {"embedding.tokens.weight": 0}
    for name in ("weight", "bias"):
        if getattr(head, name) is not None:
            cut(head, name, 0, group)
            dims[f"head.{name}"] = 0
    return dims
