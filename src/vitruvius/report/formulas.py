"""Where each number of a bill comes from: a tree of amounts, each with the arithmetic that gives it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from vitruvius.sizing.formats import BYTES_PER_VALUE, is_quantisable, weight_format
from vitruvius.sizing.memory import cache_format, computing_format, state_tensor_bytes, stored_tensors
from vitruvius.spec.graph import Graph, Layer, resolve
from vitruvius.spec.node import LINEAR_ROLES, Component, Cross, Head, Mixer, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vitruvius.sizing import Bill
    from vitruvius.sizing.parts import Part
    from vitruvius.spec.model import Architecture
    from vitruvius.spec.node import StateSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A number, what it is, and the arithmetic behind it."""

    value: int
    name: str
    formula: str = ""
    """Whole numbers with `x`, `/` and `+`, e.g. `16 x 218,112,000`; empty where it is the sum of its parts."""
    parts: tuple[Amount, ...] = ()
    """What the formula is made of; their sum where there is no formula."""
    note: str = ""
    """Where it comes from, in words."""


def explain(architecture: Architecture, bill: Bill) -> list[Amount]:
    """The arithmetic of every number in a bill of this architecture."""
    graph = resolve(architecture)
    amounts = [_parameters(graph, "parameters, total", "count")]
    if bill.parameters.active != bill.parameters.total:
        amounts.append(_parameters(graph, "parameters, active", "active"))
    amounts += [_weights(graph, bill), _cache(graph, bill, "keys"), _cache(graph, bill, "state")]
    amounts += [*_working(graph, bill), _flops(graph, bill)]
    return [amount for amount in amounts if amount.value]


def lines(amounts: Iterable[Amount]) -> Iterator[str]:
    """The trees as text: the amount, what it is, indented below what it is a part of, and `= formula`."""
    for amount in amounts:
        rows = list(_rows(amount, 0))
        width = max(len(value) for value, _ in rows)
        yield from (f"{value:>{width}}  {text}" for value, text in rows)
        yield ""


# ----------------------------------------------------------------------------------------------------------------------


def _rows(amount: Amount, depth: int) -> Iterator[tuple[str, str]]:
    value = f"{amount.value:,}"
    formula = f" = {amount.formula}" if amount.formula not in {"", value} else ""
    note = f" ({amount.note})" if amount.note else ""
    yield value, f"{'  ' * depth}{amount.name}{formula}{note}"
    for part in amount.parts:
        yield from _rows(part, depth + 1)


def _times(*factors: int) -> str:
    return " x ".join(f"{factor:,}" for factor in factors)


def _blocks(graph: Graph) -> dict[str, list[Layer]]:
    """The layers of each block, in the order in which blocks first appear."""
    blocks: dict[str, list[Layer]] = {}
    for layer in (*graph.encoder, *graph.layers):
        blocks.setdefault(layer.name, []).append(layer)
    return blocks


def _tensor(name: str, tensor: TensorSpec, what: str) -> Amount:
    shape = _times(*tensor.shape)
    if what == "count" or tensor.used == (1, 1):
        return Amount(value=tensor.count, name=name, formula=shape)
    chosen, of = tensor.used
    return Amount(value=tensor.active, name=name, formula=f"{shape} x {chosen:,} / {of:,}")


_OUTSIDE = ("encoder.final_norm.", "streams.", "final_norm.", "head.")
"""What stands outside layers and embedding."""


def _parameters(graph: Graph, name: str, what: str) -> Amount:
    tensors = graph.tensors()
    parts = [_tensor(n, t, what) for n, t in tensors.items() if n.startswith("embedding.")]
    for block, layers in _blocks(graph).items():
        each = tuple(_tensor(n, t, what) for n, t in layers[0].tensors().items())
        own = sum(layer.owns_weights for layer in layers)
        one = sum(part.value for part in each)
        parts.append(Amount(value=own * one, name=block, formula=_times(own, one), parts=each))
    parts += [_tensor(n, t, what) for n, t in tensors.items() if n.startswith(_OUTSIDE)]
    return Amount(value=sum(part.value for part in parts), name=name, parts=tuple(parts))


def _weights(graph: Graph, bill: Bill) -> Amount:
    form = weight_format(bill.dtype)
    name, per_value = f"bytes of weights in {bill.dtype}", BYTES_PER_VALUE[form.rest]
    if not form.is_quantised:
        counted = bill.parameters.total + (bill.parameters.mtp if bill.mode == "train" else 0)
        return Amount(value=bill.weights_bytes, name=name, formula=_times(counted, per_value))
    kept = numbers = scales = 0
    for tensor_name, tensor, size in stored_tensors(graph, bill.dtype, bill.mode):
        if is_quantisable(tensor_name, tensor):
            numbers, scales = numbers + tensor.count, scales + size - -(-tensor.count * form.bits // 8)
        else:
            kept += tensor.count
    each = "row" if form.per == "row" else f"{form.block} numbers"
    more = f", {form.super_bits} for each {form.super_block} of them" if form.super_block else ""
    packed, rest = bill.weights_bytes - scales - kept * per_value, kept * per_value
    formula = f"{_times(numbers, form.bits)} / 8" if numbers * form.bits == 8 * packed else ""
    parts = (
        Amount(value=packed, name=f"linear maps in {form.name}", formula=formula),
        Amount(value=scales, name="their scales", note=f"{form.scale_bits} bits for each {each}{more}"),
        Amount(value=rest, name=f"the rest in {form.rest}", formula=_times(kept, per_value)),
    )
    return Amount(value=bill.weights_bytes, name=name, parts=parts)


def _working(graph: Graph, bill: Bill) -> Iterator[Amount]:
    """Adapters, gradients, states and activations, as far as the mode has them."""
    memory, workload = bill.memory, bill.workload
    if workload.mode == "inference":
        yield Amount(value=memory.activations, name="bytes of activations at the highest moment of a forward pass")
        return
    value = BYTES_PER_VALUE[computing_format(workload)]
    trained = bill.adapter_parameters or sum(tensor.count for tensor in graph.tensors().values())
    if bill.adapter_parameters:
        formula = _times(bill.adapter_parameters, value)
        yield Amount(value=memory.adapters, name="bytes of adapters", formula=formula)
    for name, amount in (("gradients", memory.gradients), (f"states of {workload.optimizer}", memory.optimizer)):
        formula = _times(trained, amount // trained) if amount % trained == 0 else ""
        yield Amount(value=amount, name=f"bytes of {name}", formula=formula)
    if workload.mode != "train":
        yield Amount(value=memory.activations, name="bytes of activations at the highest moment of a step")
        return
    from vitruvius.sizing.training import training_memory

    peak = training_memory(graph, workload).parts
    parts = tuple(_part(part) for part in peak.parts if part.name in {"saved", "transient"} and part.size)
    name = "bytes of activations and of gradients on their way"
    yield Amount(value=sum(part.value for part in parts), name=name, note=peak.formula, parts=parts)


def _part(part: Part) -> Amount:
    """A part of the account of training, whose formulas are in words."""
    return Amount(value=part.size, name=part.name, note=part.formula, parts=tuple(map(_part, part.parts)))


def _kept(state: dict[str, StateSpec], bill: Bill, role: str) -> Iterator[Amount]:
    """The tensors of one layer's keys or recurrent state, for one sequence."""
    for name, spec in state.items():
        if spec.role == role:
            value = state_tensor_bytes(spec, cache_format(bill.workload))
            yield Amount(value=value, name=name, formula=_times(*spec.shape, value // spec.count))


def _cache(graph: Graph, bill: Bill, role: str) -> Amount:
    """Keys or recurrent state: a row for each block, its tensors below."""
    parts: list[Amount] = []
    states = dict(zip(graph.every_layer(), graph.states(bill.context), strict=True))
    kept = bill.kv_cache_bytes if role == "keys" else bill.state_bytes
    for block, layers in _blocks(graph).items() if kept else ():
        # Layers of one block differ in what they keep where others read the keys of some of them.
        for readers in dict.fromkeys(layer.scope.readers for layer in layers):
            alike = [layer for layer in layers if layer.scope.readers == readers]
            each = tuple(_kept(states[alike[0]], bill, role))
            one = sum(part.value for part in each)
            total = len(alike) * bill.batch * one
            if total:
                label = f"{block}, whose keys others read too" if readers else block
                formula = _times(len(alike), bill.batch, one)
                parts.append(Amount(value=total, name=label, formula=formula, parts=each))
    what = f"cache for {bill.context:,} tokens" if role == "keys" else "recurrent state"
    name = f"bytes of {what}, batch {bill.batch:,}, {cache_format(bill.workload)}"
    return Amount(value=sum(part.value for part in parts), name=name, parts=tuple(parts))


def _flops(graph: Graph, bill: Bill) -> Amount:
    tokens = bill.context
    parts: list[Amount] = []
    for block, layers in _blocks(graph).items():
        each = tuple(part for _, component in layers[0].sublayers() for part in _work(component, graph, tokens))
        one = sum(part.value for part in each)
        formula = _times(len(layers), one)
        parts.append(Amount(value=len(layers) * one, name=block, formula=formula, parts=each))
    parts += _work(graph.architecture.head, graph, tokens)
    embedding = graph.architecture.embedding.flops(graph.scope, tokens).useful * (2 if graph.encoder else 1)
    ahead = graph.mtp_flops(tokens).useful if bill.mode == "train" else 0
    apart = (("embedding", embedding), ("multi-token prediction", ahead))
    parts += (Amount(value=value, name=name) for name, value in apart if value)
    name = f"FLOPs forward over {tokens:,} tokens; divided by {tokens:,}, per token"
    return Amount(value=sum(part.value for part in parts), name=name, parts=tuple(parts))


def _work(component: Component, graph: Graph, tokens: int) -> Iterator[Amount]:
    """The FLOPs of one component: its linear maps, then the rest."""
    scope = graph.scope
    cost = component.flops(scope, tokens).useful
    if isinstance(component, Head):
        logits = (2, scope.vocab_size, scope.width, tokens)
        yield Amount(value=cost, name="head", formula=_times(*logits) if cost == prod(logits) else "")
        return
    role = component.family
    used = sum(t.active for t in component.tensors(scope).values() if t.role in LINEAR_ROLES)
    maps = 2 * used * tokens
    if not 0 < maps <= cost:
        yield Amount(value=cost, name=role)
        return
    yield Amount(value=maps, name=f"{role}, maps", formula=_times(2, used, tokens))
    if cost > maps:
        formula = _pairs(component, graph, tokens, cost - maps)
        name = f"{role}, query-key pairs" if formula else f"{role}, rest"
        yield Amount(value=cost - maps, name=name, formula=formula)


def _pairs(component: Component, graph: Graph, tokens: int, cost: int) -> str:
    if isinstance(component, Cross):
        return _times(cost // tokens**2, tokens, tokens) if cost % tokens**2 == 0 else ""
    pattern = component.pattern() if isinstance(component, Mixer) else None
    if pattern is None or not isinstance(component, Mixer):
        return ""
    factors = (component.pair_flops(graph.scope), pattern.pairs(tokens))
    return _times(*factors) if prod(factors) == cost else ""
