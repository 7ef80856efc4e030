"""Where the time of one run goes: by component, by block, and as a flame graph.

Every component of a model is labelled while a profiler records one run. What a component computes belongs to its label,
forward pass and backward pass: autograd numbers its nodes, and a node's backward work goes to the label under which the
node was made. What belongs to no label (Python between components, casts of the whole) is a row of its own, so that the
rows add up to the run.

    components + backward work without a label + optimizer + between components = the whole run
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from vitruvius.evals.memory import peak_of, raw_events
from vitruvius.nn.registry import module_class
from vitruvius.spec import kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import nn

    from vitruvius.evals.jobs import Sample
    from vitruvius.nn import Model

STEP = "run"
"""Label of the whole."""
BETWEEN, REST_OF_BACKWARD = "between components", "backward, without a component"
_MARK = "part:"
_ENTRIES = ("forward", "fork", "loss", "rotate", "turn", "bias", "table_bias", "decay", "prune", "attend")
"""Methods through which other modules call a component."""
_INNER = ("router", "position")
"""Families of components inside components that get rows of their own."""
_PASSES = {"optimizer": "optimizer", "backward": REST_OF_BACKWARD}
"""Labels that training's step puts around its own parts, and the rows of what no component accounts for in them."""
_EVALUATE, _AUTOGRAD = "autograd::engine::evaluate_function: ", "torch::autograd::"
"""How autograd names the backward work of a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One span on one thread, as the profiler saw it. Times in nanoseconds."""

    name: str
    thread: int
    start: int
    duration: int
    sequence: int = -1
    """Autograd's number of the node that the span made or evaluates; negative without one."""
    device_time: int = 0
    """What it had an accelerator compute."""

    @property
    def end(self) -> int:
        """When it was over."""
        return self.start + self.duration


@dataclass(slots=True, kw_only=True)
class Part:
    """A component in some block, and the time that went into it, in seconds, without what is inside in rows."""

    component: str
    """Family and kind, `mixer attention`; what is inside another has the outer one before it."""
    block: str
    """Block of the spec; empty for what stands outside the layers."""
    calls: int = 0
    forward: float = 0.0
    backward: float = 0.0

    @property
    def seconds(self) -> float:
        """Of both passes."""
        return self.forward + self.backward


@dataclass(slots=True, kw_only=True)
class Profile:
    """Where one run's time went."""

    total: float
    """Seconds of the recorded run."""
    parts: list[Part]
    """Every component by block, the largest first, with what belongs to none."""
    stacks: dict[tuple[str, ...], float] = field(default_factory=dict[tuple[str, ...], float])
    """Seconds by stack of names, outermost first, without what deeper stacks hold."""
    covers: str = ""
    """What of the run was recorded, in words; empty when it is all of it."""
    recorded: int = 1
    """Runs that were recorded, of which this is the quickest."""
    extra_bytes: int = 0
    """Most memory allocated at a time, besides what was there before."""
    per_device: bool = False
    """Whether times are those of an accelerator's kernels instead of the processor's."""

    def by_component(self) -> dict[str, float]:
        """Seconds by component over all blocks, the largest first."""
        return _summed((part.component, part.seconds) for part in self.parts)

    def by_block(self) -> dict[str, float]:
        """Seconds by block over all components, the largest first; what is outside the layers under its own name."""
        return _summed((part.block or part.component, part.seconds) for part in self.parts)


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for name, seconds in pairs:
        sums[name] += seconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


# ----------------------------------------------------------------------------------------------------------------------
# Recording


def record(model: Model, sample: Sample, *, reset: Callable[[], None], times: int = 1) -> Profile:
    """Profile runs of a model, and keep the quickest: the one that other work disturbed least."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells of itself on stderr; read when it first starts
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if model.device.type == "cuda" else [])]
    with profile(activities=activities):  # its first start in a process takes long
        pass
    with labelled(model):
        found = [_recorded(model, sample, reset, activities) for _ in range(times)]
    best = min(found, key=lambda one: one.total)
    best.covers, best.recorded = sample.covers, times
    best.extra_bytes = max(one.extra_bytes for one in found)
    return best


def _recorded(
    model: Model, sample: Sample, reset: Callable[[], None], activities: Sequence[ProfilerActivity]
) -> Profile:
    cuda = model.device.type == "cuda"
    reset()
    sample.before()
    before = _start_on_cuda(model.device) if cuda else 0
    recorder = profile(activities=activities, profile_memory=not cuda)
    with recorder as recorded, record_function(STEP):
        sample.run()
    raw = raw_events(recorded)
    found = attributed(list(_events(raw)), per_device=cuda)
    if cuda:
        found.extra_bytes = torch.cuda.max_memory_allocated(model.device) - before
    else:
        found.extra_bytes = peak_of((event.start_ns(), event.nbytes()) for event in raw if event.name() == "[memory]")
    return found


def _start_on_cuda(device: torch.device) -> int:
    """Bytes that are allocated now, from where the peak counts anew."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _events(raw: Sequence[Any]) -> Iterator[Event]:
    """Spans of the processor, each with the time of the kernels it launched."""
    on_device: dict[int, int] = defaultdict(int)
    for event in raw:
        if event.device_type() != DeviceType.CPU and event.linked_correlation_id() > 0:
            on_device[event.linked_correlation_id()] += event.duration_ns()
    for event in raw:
        if event.device_type() != DeviceType.CPU or event.name() == "[memory]":
            continue
        yield Event(
            name=event.name(),
            thread=event.start_thread_id(),
            start=event.start_ns(),
            duration=event.duration_ns(),
            sequence=event.sequence_nr(),
            device_time=on_device.get(event.correlation_id(), 0),
        )


@contextmanager
def labelled(model: Model) -> Iterator[None]:
    """Every component of the model under its label, while the block runs."""
    changed: list[tuple[nn.Module, str]] = []
    for module, label in _labels(model):
        for name in _ENTRIES:
            method = getattr(module, name, None)
            if callable(method) and name not in module.__dict__ and hasattr(type(module), name):
                module.__dict__[name] = _wrapped(method, label)
                changed.append((module, name))
    try:
        yield
    finally:
        for module, name in changed:
            del module.__dict__[name]


def _wrapped(method: Callable[..., Any], label: str) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        with record_function(label):
            return method(*args, **named)

    return call


def _labels(model: Model) -> Iterator[tuple[nn.Module, str]]:
    """Each component's module with its label, once; outer ones first."""
    seen: set[int] = set()

    def once(module: nn.Module | None, component: str, block: str = "") -> Iterator[tuple[nn.Module, str]]:
        if module is None or id(module) in seen:
            return
        seen.add(id(module))
        yield module, f"{_MARK}{block}|{component}"
        for inner, name in _inside(module):
            if id(inner) not in seen:
                seen.add(id(inner))
                yield inner, f"{_MARK}{block}|{component} / {name}"

    architecture = model.architecture
    yield from once(model.embedding, "embedding")
    for layer in model.graph.every_layer():
        at = model.get_submodule(layer.path)
        for name, component in layer.sublayers():
            yield from once(getattr(at, name), f"{name} {component.kind}", layer.name)
        for name in ("mixer_norm", "cross_norm", "ffn_norm", "mixer_out_norm", "cross_out_norm", "ffn_out_norm"):
            yield from once(getattr(at, name), f"norm {layer.norm.kind}" if layer.norm else "norm", layer.name)
    yield from once(model.head, f"head {architecture.head.kind}")
    final = "norm" if architecture.norm is None else f"norm {architecture.norm.kind}"
    for name, module in model.named_modules():
        if name.rpartition(".")[2].endswith("norm") and not any(f".{part}." in f".{name}." for part in _HOLDERS):
            yield from once(module, final)


_HOLDERS = ("mixer", "cross", "ffn", "embedding", "head")
"""Parts whose inner norms are theirs."""


def _inside(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Routers and positions inside a component."""
    known: dict[type[nn.Module], str] = {}
    for family in _INNER:
        for kind, spec in kinds(family).items():
            made = module_class(spec)
            if made is not None:
                known[made] = f"{family} {kind}" if made not in known else family
    for inner in module.modules():
        if inner is not module and type(inner) in known:
            yield inner, known[type(inner)]


# ----------------------------------------------------------------------------------------------------------------------
# Reading what was recorded


@dataclass(slots=True)
class _Span:
    event: Event
    label: str
    """The innermost component around it, or its own; empty outside all."""
    path: tuple[str, ...]
    """Names from the outermost span to this one."""
    node: int | None
    """Autograd's number of the node whose backward work it is part of; None outside the backward pass."""
    own: int
    """Nanoseconds that no span inside it accounts for."""


def attributed(events: Sequence[Event], *, per_device: bool = False) -> Profile:
    """Spans as rows and stacks. The span called `run` is the whole; what is outside it is left out.

    per_device: count what kernels took, on whichever thread they were launched, instead of the processor's time.
    """
    whole = next(event for event in events if event.name == STEP)
    threads: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event.start >= whole.start and event.end <= whole.end and (per_device or event.thread == whole.thread):
            threads[event.thread].append(event)
    spans = [span for group in threads.values() for span in _nested(group)]
    makers = {span.event.sequence: span.label for span in spans if span.event.sequence >= 0 and span.node is None}
    parts: dict[tuple[str, str], Part] = {}
    stacks: dict[tuple[str, ...], float] = defaultdict(float)
    for span in spans:
        label = span.label or ("" if span.node is None else makers.get(span.node, ""))
        block, component = _named(label, span)
        part = parts.setdefault((block, component), Part(component=component, block=block))
        part.calls += span.event.name.startswith(_MARK)
        spent = (span.event.device_time if per_device else span.own) / 1e9
        if not spent:
            continue
        if "backward" in span.path:
            part.backward += spent
        else:
            part.forward += spent
        stacks[_stack(span, label)] += spent
    total = sum(part.seconds for part in parts.values()) if per_device else whole.duration / 1e9
    ordered = sorted((part for part in parts.values() if part.seconds), key=lambda part: -part.seconds)
    return Profile(total=total, parts=ordered, stacks=dict(stacks), per_device=per_device)


def _nested(events: Sequence[Event]) -> list[_Span]:
    """The spans of one thread, each with what is around it."""
    spans: list[_Span] = []
    around: list[_Span] = []
    for event in sorted(events, key=lambda event: (event.start, -event.duration)):
        while around and event.end > around[-1].event.end:
            around.pop()
        outer = around[-1] if around else None
        label = event.name if event.name.startswith(_MARK) else "" if outer is None else outer.label
        node = event.sequence if event.name.startswith(_EVALUATE) else None if outer is None else outer.node
        span = _Span(event, label, (*(() if outer is None else outer.path), event.name), node, event.duration)
        if outer is not None:
            outer.own -= event.duration
        spans.append(span)
        around.append(span)
    return spans


def _named(label: str, span: _Span) -> tuple[str, str]:
    """(block, component) of a span."""
    if label:
        block, _, component = label.removeprefix(_MARK).partition("|")
        return block, component
    for name, row in _PASSES.items():
        if name in span.path:
            return "", row
    return "", BETWEEN


def _stack(span: _Span, label: str) -> tuple[str, ...]:
    """The names of a span's stack as people read them; backward work under the component that it belongs to."""
    names: list[str] = []
    for name in span.path:
        if name.startswith(_MARK):
            names += _frames(name)
        elif name.startswith(_EVALUATE):
            names += [*(_frames(label) if label else ()), name.removeprefix(_EVALUATE).removeprefix(_AUTOGRAD)]
        else:
            names.append(name.removeprefix("aten::"))
    return tuple(names)


def _frames(label: str) -> list[str]:
    """Block and component; of a component inside another only its own name, since the other is around it."""
    block, _, component = label.removeprefix(_MARK).partition("|")
    outer, _, inner = component.rpartition(" / ")
    return [inner] if outer else [part for part in (block, component) if part]
