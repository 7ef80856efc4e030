"""Low-rank adapters on paper: which maps get them, and how many parameters that is.

Next to a map W [out, in] stand A [rank, in] and B [out, rank] (Hu et al., 2021): y = W x + scale * B (A x), which is
rank * (in + out) parameters. W is frozen: it keeps no gradient, no master and no moments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from vitruvius.sizing.formats import is_quantisable
from vitruvius.sizing.steps import Same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.workload import Adapters
    from vitruvius.spec.costs import TensorSpec
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.layer import Layer

MODES = ("lora", "qlora")
"""Modes of a workload that train adapters and freeze the rest."""


def is_adapted(name: str, tensor: TensorSpec, adapters: Adapters) -> bool:
    """Whether a tensor, by its name in the built module, has an adapter."""
    if not is_quantisable(name, tensor):  # the linear maps inside layers, without routers and convolutions
        return False
    if adapters.experts == "none" and len(tensor.shape) > 2:
        return False
    return adapters.targets == "linear" or {"mixer", "cross"}.intersection(name.split(".")) != set()


def adapter_tensors(graph: Graph, adapters: Adapters) -> dict[str, TensorSpec]:
    """The adapters' own tensors by name: `<map>.lora_A` and `<map>.lora_B`, one pair for each expert."""
    return dict(_pairs(graph, adapters))


def _pairs(graph: Graph, adapters: Adapters) -> Iterator[tuple[str, TensorSpec]]:
    apart = graph.mtp_tensors()
    for name, tensor in graph.tensors().items():
        if name in apart or not is_adapted(name, tensor, adapters):
            continue
        *stacked, outs, ins = tensor.shape
        module = name.removesuffix(".weight").removesuffix("_weight")
        down = replace(tensor, shape=(*stacked, adapters.rank, ins), role="matrix", start=None)
        up = replace(tensor, shape=(*stacked, outs, adapters.rank), role="matrix", start=0.0)
        yield f"{module}.lora_A", down
        yield f"{module}.lora_B", up


def adapter_parameters(graph: Graph, adapters: Adapters) -> int:
    """Parameters of all adapters."""
    return adapter_counts(graph, adapters).parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCounts:
    """What adapters come to, in numbers."""

    parameters: int
    kept: int
    """Numbers A x that one token's pass keeps for the backward pass, over all layers: rank for each map it meets."""
    spared: int
    """Numbers of one token that maps without an adapter would keep and frozen ones do not.

    Maps into a sublayer share one input, its normalised stream; each map out of it has its own. Other operations may
    keep the same, so that this is also how far it may be off.
    """


def adapter_counts(graph: Graph, adapters: Adapters) -> AdapterCounts:
    """Counts over all layers but those of multi-token prediction, which takes no part."""
    return _counts(Same(graph), adapters)


@lru_cache(maxsize=64)
def _counts(same: Same, adapters: Adapters) -> AdapterCounts:
    parameters = kept = spared = 0
    known: dict[str, tuple[int, int, int]] = {}
    for layer in (*same.graph.encoder, *same.graph.layers):
        if layer.name not in known:
            known[layer.name] = _of_layer(layer, adapters)
        one = known[layer.name]
        parameters += one[0] if layer.owns_weights else 0
        kept, spared = kept + one[1], spared + one[2]
    return AdapterCounts(parameters=parameters, kept=kept, spared=spared)


def _of_layer(layer: Layer, adapters: Adapters) -> tuple[int, int, int]:
    parameters = kept = spared = 0
    inputs: dict[str, tuple[int, bool]] = {}
    for name, tensor in layer.tensors().items():
        path = f"{layer.path}.{name}"
        if not is_quantisable(path, tensor):
            continue
        *stacked, outs, ins = tensor.shape
        met = tensor.used[0] if stacked else 1
        adapted = is_adapted(path, tensor, adapters)
        if adapted:
            parameters += prod(stacked) * adapters.rank * (ins + outs)
            kept += adapters.rank * met
        if tensor.role == "output":
            spared += 0 if adapted else ins * met
        else:
            place = name.split(".")[0]
            inputs[place] = (ins, adapted or inputs.get(place, (0, False))[1])
    spared += sum(width for width, adapted in inputs.values() if not adapted)
    return parameters, kept, spared
