"""The arithmetic of claims about numbers, bytes and lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.errors import UsageError
from vitruvius.sizing.audit.outcome import Outcome, case_of
from vitruvius.sizing.claims import measured
from vitruvius.sizing.formats import is_quantisable, weight_format
from vitruvius.sizing.memory import cache_format, memory_of
from vitruvius.sizing.parameters import count_parameters
from vitruvius.spec.mixers.seeing import Seeing
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.units import exact, format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.audit.claims import Case, Claim


# ------------------------------------------------------------------------------------------------------------ counts


def parameters(claim: Claim) -> Outcome:
    """All that are stored."""
    graph = case_of(claim).graph
    counts = count_parameters(graph)
    parts = " + ".join(f"{name} {number:,}" for name, number in counts.by_component.items() if number)
    return Outcome(
        actual=counts.total,
        shown=f"{format_count(counts.total)} ({exact(counts.total)})",
        steps=(f"{parts} = {counts.total:,}",),
    )


def active_parameters(claim: Claim) -> Outcome:
    """Those that one token passes through."""
    counts = count_parameters(case_of(claim).graph)
    idle = counts.total - counts.active
    return Outcome(
        actual=counts.active,
        shown=f"{format_count(counts.active)} ({exact(counts.active)})",
        steps=(
            f"{counts.total:,} stored - {idle:,} of experts that a token does not pass through = {counts.active:,}",
            f"{counts.active_without_embedding:,} without the embedding tables",
        ),
    )


def weights(claim: Claim) -> Outcome:
    """Bytes of the weights as a format stores them."""
    case = case_of(claim)
    form = weight_format(case.weights)
    graph = case.graph
    total = count_parameters(graph).total
    if case.quantised == "everything" and form.is_quantised:
        tensors = {name: t for name, t in graph.tensors().items() if name not in graph.mtp_tensors()}
        size = sum(-(-t.count * form.bits // 8) for t in tensors.values())
        steps = (f"{total:,} parameters x {form.bits} bits = {size:,} bytes, scales not counted",)
    else:
        size = measured("weights", graph, dtype=case.weights)
        maps = sum(t.count for name, t in graph.tensors().items() if form.is_quantised and is_quantisable(name, t))
        steps = (f"{total - maps:,} parameters in {form.rest}, {maps:,} in {form.name}: {size:,} bytes",)
    return Outcome(actual=size, shown=f"{format_bytes(size)} ({exact(size)} bytes)", steps=steps)


def kv_cache(claim: Claim) -> Outcome:
    """Bytes of keys and values of a batch."""
    case = case_of(claim)
    kept = cache_format(case.workload)
    size = measured("kv_cache", case.graph, dtype=kept, context=case.context, batch=case.batch)
    rows: dict[str, tuple[int, int]] = {}
    graph = case.graph
    states = graph.states(case.context)[len(graph.encoder) :]
    for layer, state in zip(graph.layers, states, strict=False):
        numbers = sum(spec.count for spec in state.values() if spec.role == "keys")
        layers, _ = rows.get(layer.name, (0, 0))
        rows[layer.name] = layers + 1, numbers
    steps = [f"{layers} layers of {name} x {numbers:,} numbers" for name, (layers, numbers) in rows.items() if numbers]
    text = f"({' + '.join(steps)}) in {kept} x batch {case.batch} = {size:,} bytes, for {case.context:,} tokens"
    return Outcome(actual=size, shown=f"{format_bytes(size)} ({exact(size)} bytes)", steps=(text,))


# ------------------------------------------------------------------------------------------------------------ memory


def memory(claim: Claim) -> Outcome:
    """Bytes that a workload takes."""
    case = case_of(claim)
    memory = memory_of(case.graph, case.workload)
    parts = {
        "weights": memory.weights,
        "KV cache": memory.kv_cache,
        "state": memory.state,
        "activations": memory.activations,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "adapters": memory.adapters,
        "margin": memory.margin,
    }
    text = " + ".join(f"{name} {format_bytes(size)}" for name, size in parts.items() if size)
    return Outcome(
        actual=memory.total,
        shown=format_bytes(memory.total),
        steps=(f"{case.title}: {text} = {format_bytes(memory.total)}",),
        sure="estimate",
        off_by=memory.unsure + memory.margin,
        measure="a run on the device: vitruvius bench measures its peak",
    )


def fits(claim: Claim) -> Outcome:
    """Whether a workload fits its device."""
    outcome = memory(claim)
    case = case_of(claim)
    assert case.device is not None
    room = case.device.usable_bytes * case.count
    fits = outcome.actual <= room
    gap = format_bytes(abs(room - outcome.actual))
    text = (
        f"{case.count} x {case.device.name} has {format_bytes(room)} for a model: {gap} {'spare' if fits else 'short'}"
    )
    close = abs(room - outcome.actual) <= outcome.off_by
    return Outcome(
        actual=float(fits),
        shown=f"{'fits' if fits else 'does not fit'}, {gap} {'spare' if fits else 'short'}",
        steps=(*outcome.steps, text),
        sure="estimate" if close else "exact",
        off_by=1.0 if close else 0.0,
        measure="it is too close for arithmetic: a run on the device",
    )


# ----------------------------------------------------------------------------------------------------------- context


def scaled_context(claim: Claim) -> Outcome:
    """What rotary scaling says that it reaches."""
    found: list[tuple[float, str]] = []
    for name, position in _rotary(case_of(claim)):
        scaling = position.scaling
        factor, original = getattr(scaling, "factor", None), getattr(scaling, "original_context", None)
        if factor and original:
            found.append((factor * original, f"{name}: factor {factor:g} x original context {original:,}"))
    if not found:
        raise UsageError("no rotary position of this spec has a scaling", fix="claim about rotary_reach, or context")
    reach, text = min(found)
    return Outcome(actual=reach, shown=f"{reach:,.0f} tokens", steps=(f"{text} = {reach:,.0f} tokens",))


def rotary_reach(claim: Claim) -> Outcome:
    """The distance at which rotation stops preferring near keys."""
    case = case_of(claim)
    found: list[tuple[int, str]] = []
    for name, position in _rotary(case):
        mixer = case.graph.architecture.blocks[name].mixer
        assert isinstance(mixer, Seeing)
        width = mixer.heads_of(case.graph.scope).width
        distance = position.first_negative(width, case.context) or case.context
        found.append((distance, f"{name}: theta {position.theta:g} on {position.rotary_width(width)} channels"))
    if not found:
        raise UsageError("no layer of this spec has rotary positions", fix="claim about a spec that has")
    distance, text = min(found)
    return Outcome(
        actual=distance,
        shown=f"{distance:,} tokens",
        steps=(f"{text}: the sum of cos(m theta^(-2i/d)) is first negative at m = {distance:,} (Men et al., 2024)",),
    )


def _rotary(case: Case) -> Iterator[tuple[str, RotaryPosition]]:
    """(block, position) of every layer with rotary positions."""
    for name, block in case.graph.architecture.blocks.items():
        position = getattr(block.mixer, "position", None)
        if isinstance(position, RotaryPosition):
            yield name, position.in_context(case.graph.scope.context)


def receptive_field(claim: Claim) -> Outcome:
    """The farthest token that any can depend on through all layers, from the windows alone."""
    case = case_of(claim)
    reach = 1
    for layer in case.graph.layers:
        pattern = None if layer.mixer is None else layer.mixer.pattern()
        highs = [clause.distance_high for clause in pattern.clauses] if pattern is not None else [case.context]
        reach = min(case.context, reach + max(highs, default=0))
    return Outcome(
        actual=reach,
        shown=f"{reach:,} tokens",
        steps=(
            f"1 + the farthest distance of each of {len(case.graph.layers)} layers, at most the context = {reach:,}",
        ),
        sure="best",
        measure="the effective field is smaller: vitruvius check measures it by gradients",
    )
