"""FSDP2 around a model: each layer by itself, then what is left, and every way into the model known to it."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from vitruvius.nn.block import LayerModule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import distributed as dist
    from torch import nn

    from vitruvius.nn import Model

ENTRANCES = ("loss", "hidden", "encode")
"""Methods of a model that compute with its weights, besides `forward`, the only one where FSDP's hooks fire."""


def shard_model(
    model: Model,
    group: dist.ProcessGroup,
    device: torch.device,
    *,
    apart: Mapping[nn.Module, dist.ProcessGroup] | None = None,
) -> None:
    """Cut every tensor along its first dimension among the processes of a group, layer by layer, on a device.

    apart: modules inside layers whose tensors are cut among a group of their own; not at all where it has one process.
    Scalars stay whole; their gradients are summed by nobody here.
    """
    mesh = DeviceMesh.from_group(group, device.type, mesh_dim_names=("data",))
    # Sums are fp32, and are rounded once, to the dtype of the weights, as those of one process are.
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    whole = {parameter for parameter in model.parameters() if parameter.dim() == 0}
    for module, own in (apart or {}).items():
        if own.size() == 1:
            whole.update(module.parameters())
            continue
        copies = DeviceMesh.from_group(own, device.type, mesh_dim_names=("copies",))
        fully_shard(module, mesh=copies, mp_policy=policy)
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for layer in [module for module in model.modules() if isinstance(module, LayerModule)]:
        fully_shard(layer, mesh=mesh, mp_policy=policy, ignored_params=whole)
        layer.register_forward_pre_hook(_hidden, prepend=True)
        layer.register_forward_pre_hook(_found)
    # What is left (embedding, head, last norm) computes first and last: it is kept through a step.
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=whole, reshard_after_forward=False)
    for module in _sharded(model):
        # Losses are weighted by targets, so that gradients are summed over processes, and not averaged.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(enable=True)
    # A process whose rows have no token so far ahead gives no gradient where others do: it takes part with zeros.
    sharded: Any = model
    sharded.set_reduce_scatter_unused_params(bool(len(model.mtp)))
    _enter_through_hooks(model)


class _Hidden:
    """What FSDP's hook on inputs is not to look into.

    It rebuilds every dataclass that holds a tensor with a gradient. A layer would then report its losses, and lend its
    keys, to a copy of the place that nobody reads. Weights are waited for by what comes first, the stream.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _hidden(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0], *(_Hidden(each) for each in inputs[1:]))


def _found(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0], *(each.value for each in inputs[1:]))


def _sharded(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _enter_through_hooks(model: Any) -> None:
    """Let every way into the model pass FSDP's hooks once, however they call each other."""
    inside = False

    def computing(_: nn.Module, work: Callable[[], Any]) -> Any:
        return work()

    model.computing = computing.__get__(model, type(model))
    register_fsdp_forward_method(model, "computing")

    def through(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def entered(*inputs: Any, **options: Any) -> Any:
            nonlocal inside
            if inside:
                return method(*inputs, **options)
            # After a pass without a backward pass, weights are still whole, and may be older than their parts.
            model.reshard()
            inside = True
            try:
                return model.computing(lambda: method(*inputs, **options))
            finally:
                inside = False

        return entered

    def entering(_module: nn.Module, _inputs: object) -> None:
        nonlocal inside
        model.reshard()
        inside = True

    def left(_module: nn.Module, _inputs: object, _output: object) -> None:
        nonlocal inside
        inside = False

    for name in ENTRANCES:
        setattr(model, name, through(getattr(model, name)))
    model.register_forward_pre_hook(entering, prepend=True)
    model.register_forward_hook(left, always_call=True)
