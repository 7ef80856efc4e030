"""Probes of what a model is: shapes, parameters, cache, first weights, files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save

from vitruvius.checks.outcome import Measure, does_not_apply, failed, passed
from vitruvius.errors import PositionOverflowError
from vitruvius.nn import build
from vitruvius.nn.weights import weights_of
from vitruvius.sizing import kv_cache_bytes, state_bytes
from vitruvius.units import exact, format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model
    from vitruvius.spec import Graph

_MOST_NAMED = 4


def output_shape(subject: Subject) -> Measure:
    """Logits are [batch, time, vocabulary], at several lengths."""
    for batch, length in ((1, 1), (2, subject.length), (3, max(1, subject.length // 2))):
        with torch.no_grad():
            shape = tuple(subject.model(subject.tokens(batch, length)).shape)
        if shape != (batch, length, subject.probed.vocab_size):
            return failed(f"tokens [{batch}, {length}] gave logits {list(shape)}")
    return passed(f"[batch, time, {subject.probed.vocab_size:,}] at lengths 1 to {subject.length}")


def parameters(subject: Subject) -> Measure:
    """Names and shapes of the module at full size, made on the meta device, are those that the spec counts.

    So are those of the buffers that are saved with the parameters.
    """
    built = build(subject.architecture, device="meta")
    shapes = _shapes(built)
    wrong = _differences(subject.full_graph, shapes) + _buffer_differences(subject.full_graph, built)
    if subject.given is not None:
        wrong += _differences(subject.graph, _shapes(subject.given))
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        return failed("; ".join(wrong[:_MOST_NAMED]) + more)
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    return passed(f"{len(shapes)} tensors, {format_count(total)} parameters ({exact(total)}), name by name")


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _buffer_differences(graph: Graph, model: Model) -> list[str]:
    expected = {name: tensor.shape for name, tensor in graph.buffers().items()}
    parameters = {name for name, _ in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in weights_of(model).items() if name not in parameters}
    different = [name for name in (*expected, *found) if expected.get(name) != found.get(name)]
    return [f"{name} is a saved buffer in only one of spec and module" for name in dict.fromkeys(different)]


def _differences(graph: Graph, found: Mapping[str, tuple[int, ...]]) -> list[str]:
    expected = {name: tensor.shape for name, tensor in graph.tensors().items()}
    wrong = [f"{name} is counted and not in the module" for name in expected if name not in found]
    wrong += [f"{name} is in the module and not counted" for name in found if name not in expected]
    for name, shape in expected.items():
        if name in found and found[name] != shape and not _grew(graph, name, found[name]):
            wrong.append(f"{name} is counted as {list(shape)} and is {list(found[name])}")
    return wrong


def _grew(graph: Graph, name: str, shape: tuple[int, ...]) -> bool:
    """Whether this is a learned position table that longer sequences have made longer."""
    position = graph.architecture.embedding.position
    table = None if position is None else position.learned_table(graph.scope)
    if table is None or name != f"embedding.position.{table.name}":
        return False
    return table.rows <= shape[0] <= table.limit


def cache_bytes(subject: Subject) -> Measure:
    """`model.cache` allocates what `size` prints: at full size on meta, and in real tensors on what is run."""
    if not subject.graph.is_causal:
        return does_not_apply("a stack that sees later tokens has no decode cache")
    full = build(subject.architecture, device="meta", dtype="bf16")
    context = subject.architecture.context
    allocated, printed = full.cache(1, capacity=context).nbytes, decode_bytes(subject.full_graph, context, 1, "bf16")
    if allocated != printed:
        return failed(f"at full size size says {exact(printed)} bytes and the cache takes {exact(allocated)}")
    for batch, capacity in ((1, 1), (2, subject.length), (3, max(1, subject.length // 3))):
        allocated = subject.model.cache(batch, capacity=capacity).nbytes
        printed = decode_bytes(subject.graph, capacity, batch, "fp64")
        if allocated != printed:
            return failed(
                f"{batch} x {capacity} tokens: size says {exact(printed)} bytes, allocated {exact(allocated)}"
            )
    whole = decode_bytes(subject.full_graph, context, 1, "bf16")
    return passed(f"{format_bytes(whole)} for {context:,} tokens in bf16, byte for byte")


def decode_bytes(graph: Graph, capacity: int, batch: int, dtype: str) -> int:
    """Keys, values and recurrent state together."""
    return kv_cache_bytes(graph, capacity, batch, dtype) + state_bytes(graph, capacity, batch, dtype)


def determinism(subject: Subject) -> Measure:
    """A seed gives the same weights every time and in every dtype (rounded), and two runs of a step the same bits."""
    first, again, other = (subject.fresh(torch.float32, seed=seed) for seed in (11, 11, 12))
    rounded = dict(subject.fresh(torch.bfloat16, seed=11).named_parameters())
    repeated, others = dict(again.named_parameters()), dict(other.named_parameters())
    for name, parameter in first.named_parameters():
        if not torch.equal(parameter, repeated[name]):
            return failed(f"{name} differs between two models of one seed")
        if not torch.equal(parameter.to(torch.bfloat16), rounded[name]):
            return failed(f"{name} in bf16 is not the rounded fp32 draw")
    if all(torch.equal(parameter, others[name]) for name, parameter in first.named_parameters()):
        return failed("two seeds gave the same weights")
    tokens = subject.tokens(2, min(subject.length, 32))
    with torch.no_grad():
        if not torch.equal(first(tokens), again(tokens)):
            return failed("two forward passes of equal models differ in their bits")
    wrong = _stepped_apart(first, again, subject.tokens(2, max(2, min(subject.length, 32)), salt=9))
    if wrong:
        return failed(wrong)
    return passed("equal bits from equal seeds, in fp32 and rounded to bf16, and after a step of two equal models")


def _stepped_apart(first: Model, again: Model, tokens_BT: Tensor) -> str:
    """What differs between two equal models after a forward pass, a backward pass and a step; the empty text else.

    Threads are as many as the check runs with: sums over other numbers of them are ordered otherwise.
    """
    losses: list[Tensor] = []
    for model in (first, again):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=True)
        loss = model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    if not torch.equal(*losses):
        return "the loss of two equal models differs in its bits"
    repeated = dict(again.named_parameters())
    apart = [name for name, parameter in first.named_parameters() if not torch.equal(parameter, repeated[name])]
    return f"{apart[0]} differs in its bits after one step of two equal models" if apart else ""


def round_trip(subject: Subject) -> Measure:
    """Weights written to safetensors and read into a model of another seed give the same logits, bit for bit."""
    source, target = subject.fresh(torch.float32, seed=3), subject.fresh(torch.float32, seed=4)
    weights = weights_of(source)
    for name in subject.graph.buffers():
        weights[name].uniform_(-0.1, 0.1, generator=torch.Generator(source.device).manual_seed(3))
    data = save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    loaded = load(data)
    own = weights_of(target)
    if set(loaded) != set(own):
        return failed(f"names differ: {sorted(set(loaded) ^ set(own))[:_MOST_NAMED]}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(loaded[name])
        tokens = subject.tokens(1, min(subject.length, 32))
        if not torch.equal(source(tokens), target(tokens)):
            return failed("logits differ after loading: something that matters is not among the parameters")
    return passed(f"{format_bytes(len(data))} of safetensors, equal bits after loading")


def position_overflow(subject: Subject) -> Measure:
    """A learned table serves its last position and refuses the next one by name."""
    position = subject.probed.embedding.position
    table = None if position is None else position.learned_table(subject.graph.scope)
    if table is None:
        return does_not_apply("no learned positions")
    limit = table.limit
    model = subject.fresh(torch.float32)
    with torch.no_grad():
        model(subject.tokens(1, limit))
        try:
            model(subject.tokens(1, limit + 1))
        except PositionOverflowError as error:
            if f"{limit:,}" in str(error) and f"{limit + 1:,}" in str(error) and error.fix:
                return passed(f"{limit:,} positions work, {limit + 1:,} are refused with the ways out")
            return failed(f"the message names neither limit and length nor a way out: {error}")
    return failed(f"{limit + 1:,} tokens went through a table of {limit:,} positions")
