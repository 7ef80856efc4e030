"""Long sequences: how far a check can afford to run, and positions at the end of the declared context."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.compare import EXACT, gap
from vitruvius.checks.decoding import decoded
from vitruvius.checks.outcome import Measure, failed, within
from vitruvius.checks.subject import probe_length
from vitruvius.errors import PositionOverflowError, SpecError
from vitruvius.nn import build
from vitruvius.nn.place import Place
from vitruvius.nn.positions.hooks import hooks_of
from vitruvius.nn.registry import Factory, make, make_position
from vitruvius.sizing import kv_cache_bytes, state_bytes
from vitruvius.spec import ensure
from vitruvius.spec.mixers.seeing import Seeing
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.units import exact, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model
    from vitruvius.spec import Architecture, Graph
    from vitruvius.spec.node import Heads, Position, Scope

AFFORDABLE = 2e8
"""Floating-point operations of a pass that a check spends without being asked: some tens of milliseconds."""
TURNED = 1e-6
"""How far the score of two tokens may change when both move to the end of the context, relative to their lengths.

fp64 angles at 131,072 tokens are right to 1e-11, fp32 ones to 1e-2; the tables of an fp32 model are rounded to 6e-8.
"""
_CHUNKS, _STEPS = 4, 3
_SHARE_OF_MEMORY = 0.25
_COPIES = 40
"""Numbers per token and channel that a pass without gradients holds at most, in fp64, logits apart."""


def length_stress(subject: Subject) -> Measure:
    """Longer sequences stay finite and decode as they are read; positions work at the end of the declared context."""
    wrong = at_the_end(subject.full_graph)
    if wrong:
        return failed(wrong)
    architecture = stretched(subject)
    graph = ensure(architecture)
    wrong = _past_the_table(subject, graph)
    if wrong:
        return failed(wrong)
    length, why = affordable_length(graph, subject.longest)
    same = architecture is subject.probed and subject.given is not None
    model = subject.model if same else build(architecture, dtype=torch.float64, seed=subject.seed).eval()
    ill, most = _run(model, subject, length)
    declared = subject.architecture.context
    values = {"tokens_run": length, "declared_context": declared, "stopped_by": why or None, "decode_gap": most}
    if ill:
        return failed(f"{length:,} tokens: {ill}", values=values)
    ran = f"{exact(length)} of {exact(declared)} tokens" + (f" ({why})" if why else "")
    how = "finite, decoding equals the full pass" if graph.is_causal else "finite"
    detail = f"{ran}: {how}; positions hold up to token {exact(declared)}"
    detail = detail if most <= EXACT else f"{length:,} tokens: decoding differs from the full pass"
    return within(most, EXACT, detail, values=values)


def stretched(subject: Subject) -> Architecture:
    """What is probed, with the declared context where a twin has a shorter one and its positions reach that far."""
    if not subject.is_twin:
        return subject.probed
    longer = replace(subject.probed, context=subject.architecture.context)
    try:
        ensure(longer)
    except SpecError:
        return subject.probed
    table = _table_limit(ensure(longer))
    return subject.probed if table is not None and table < longer.context else longer


def affordable_length(graph: Graph, longest: int | None) -> tuple[int, str]:
    """(tokens, what stops there): the longest sequence within the budget of time and memory, up to the context.

    With `longest`, up to that many tokens whatever it takes, as far as memory allows.
    """
    goal = graph.scope.context if longest is None else min(graph.scope.context, longest)
    length = goal
    why = "" if goal == graph.scope.context else "as asked"
    while length > 1 and _bytes(graph, length) > _SHARE_OF_MEMORY * _memory():
        length, why = length // 2, f"{exact(length // 2)} fit into {_SHARE_OF_MEMORY:.0%} of the memory"
    while longest is None and length // 2 >= probe_length(graph) and _operations(graph, length) > AFFORDABLE:
        length //= 2
        why = f"the next {exact(2 * length)} take {format_count(round(_operations(graph, 2 * length)))} operations"
    return length, why


def _operations(graph: Graph, length: int) -> float:
    """Of a pass; kernels that look at every pair count them all."""
    cost = graph.flops(length)
    mixers = [layer.mixer for layer in graph.layers if isinstance(layer.mixer, Seeing)]
    whole = any(mixer.position is not None and mixer.position.has_kernel for mixer in mixers)
    return cost.dense if whole else cost.useful


def _bytes(graph: Graph, length: int) -> int:
    """Of a pass in fp64 with its cache."""
    width = max((max(tensor.shape) for tensor in graph.tensors().values()), default=1)
    kept = kv_cache_bytes(graph, length, 1, "fp64") + state_bytes(graph, length, 1, "fp64") if graph.is_causal else 0
    return 8 * length * (_COPIES * min(width, 16 * graph.scope.width) + 4 * graph.scope.vocab_size) + kept


def _memory() -> int:
    """Bytes of this machine's memory that are free."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


@torch.no_grad()
def _run(model: Model, subject: Subject, length: int) -> tuple[str, float]:
    """(what is not finite, how far decoding lies from the full pass) over that many tokens."""
    tokens = subject.tokens(1, length, salt=70)
    if model.graph.encoder:
        model.standing_source = subject.tokens(1, min(length, subject.length), salt=77)
    logits = model(tokens)
    if not logits.isfinite().all():
        return "logits are not finite", 0.0
    losses = logits[:, :-1].logsumexp(-1)
    if not losses.isfinite().all():
        return "the loss is not finite", 0.0
    if not model.graph.is_causal or length < 2:
        return "", 0.0
    steps = min(_STEPS, length - 1)
    chunk = max(1, -(-(length - steps) // _CHUNKS))
    sizes = [min(chunk, length - steps - start) for start in range(0, length - steps, chunk)]
    return "", gap(decoded(model, tokens, [*sizes, *[1] * steps]), logits)


# ----------------------------------------------------------------------------------------------------------------------
# Tables and their limits


def _table_limit(graph: Graph) -> int | None:
    position = graph.architecture.embedding.position
    table = None if position is None else position.learned_table(graph.scope)
    return None if table is None else table.limit


@torch.no_grad()
def _past_the_table(subject: Subject, graph: Graph) -> str:
    """A learned table must serve its last row while decoding, and refuse the next token by name."""
    limit = _table_limit(graph)
    if limit is None or not graph.is_causal or limit > subject.probed.context:
        return ""
    model = subject.fresh(torch.float32).eval()
    cache = model.cache(1, capacity=limit + 1)
    if limit > 1:
        model(subject.tokens(1, limit - 1), cache=cache)
    if not model(subject.tokens(1, 1), cache=cache).isfinite().all():
        return f"decoding token {limit:,}, the last of the table of positions, is not finite"
    try:
        model(subject.tokens(1, 1), cache=cache)
    except PositionOverflowError:
        return ""
    return f"decoding goes past a table of {limit:,} positions"


# ----------------------------------------------------------------------------------------------------------------------
# The end of the declared context, at full size


@torch.no_grad()
def at_the_end(graph: Graph) -> str:
    """What is wrong with positions at the end of the context, at full size; the empty text when nothing is."""
    for path, position, heads, scope in _positions(graph):
        factory = Factory(device=torch.device("cpu"), dtype=torch.float64)
        module = make_position(position, heads, scope, factory)
        for parameter in module.parameters():
            parameter.zero_()
        wrong = _of_hooks(module, position, heads, scope.context)
        if wrong:
            return f"{path}.mixer.position: {wrong}"
    return _of_embedding(graph)


def _positions(graph: Graph) -> Iterator[tuple[str, Position, Heads, Scope]]:
    """Every different position inside attention that goes by distance: (layer, position, heads, scope)."""
    seen: set[object] = set()
    for layer in (*graph.encoder, *graph.layers):
        mixer = layer.mixer
        if isinstance(mixer, Seeing) and mixer.position is not None:
            heads = mixer.heads_of(layer.scope)
            known = (mixer.position, heads, layer.scope.context)
            if known not in seen and not mixer.position.has_kernel:
                seen.add(known)
                yield layer.path, mixer.position, heads, layer.scope


def _of_hooks(module: Any, position: Position, heads: Heads, context: int) -> str:
    hooks, last = hooks_of(module), context - 1
    ends = torch.tensor(sorted({0, context // 2, max(0, last - 1), last}))
    if hooks.bias is not None and not hooks.bias(ends, ends, heads.queries).isfinite().all():
        return f"the bias at position {last:,} is not finite"
    if hooks.table_bias is not None and not hooks.table_bias().dense(ends, ends).isfinite().all():
        return f"the table of biases has nothing for position {last:,}"
    if hooks.rotate is None:
        return ""
    turned = _turned(hooks.rotate, heads.width, ends, torch.float64)
    if not all(x.isfinite().all() for x in turned):
        return f"what is turned at position {last:,} is not finite"
    rough = _turned(hooks.rotate, heads.width, ends, torch.float32)
    lost = max(gap(a.double(), b) for a, b in zip(rough, turned, strict=True))
    if not lost <= TURNED * 10:
        return f"in fp32 what is turned at position {last:,} is wrong by {lost:.2g}"
    moved = _moved(hooks.rotate, heads.width, last) if isinstance(position, RotaryPosition) else 0.0
    return "" if moved <= TURNED else f"the score of two tokens changes by {moved:.2g} when both move to {last:,}"


def _turned(rotate: Any, width: int, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, len(positions), width, generator=generator).to(dtype) for _ in range(2))
    return rotate(q, k, positions)


def _moved(rotate: Any, width: int, last: int) -> float:
    """How much scores of neighbours change when both move from the start to the end, relative to their lengths."""
    distance = min(3, last)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, width, generator=generator, dtype=torch.float64) for _ in range(2))
    scores: list[Tensor] = []
    for shift in (0, last - distance):
        turned_q, _ = rotate(q, k, torch.tensor([shift + distance]))
        _, turned_k = rotate(q, k, torch.tensor([shift]))
        scores.append((turned_q * turned_k).sum())
    return ((scores[0] - scores[1]).abs() / (q.norm() * k.norm())).item()


def _of_embedding(graph: Graph) -> str:
    """Positions on the embedding that have nothing to learn: finite, and told apart, at the end of the context."""
    position, scope = graph.architecture.embedding.position, graph.scope
    if position is None or position.tensors(scope):
        return ""
    last = scope.context - 1
    made = make(position, scope, Factory(device=torch.device("cpu"), dtype=torch.float64))
    x = torch.zeros(1, 2, scope.width, dtype=torch.float64)
    there = made.embed(x, Place(positions=torch.tensor([max(0, last - 1), last])))
    if not there.isfinite().all():
        return f"embedding.position at {last:,} is not finite"
    if last > 0 and torch.equal(there[:, 0], there[:, 1]):
        return f"embedding.position is the same at {last - 1:,} and {last:,}"
    return ""
