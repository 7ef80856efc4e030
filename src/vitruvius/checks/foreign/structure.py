"""Probes of foreign models: shapes, parameters, repeatability, side effects, files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from vitruvius.checks.foreign.adapter import seeded, settings
from vitruvius.checks.outcome import Measure, does_not_apply, failed, passed
from vitruvius.units import exact, format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.checks.foreign.adapter import Foreign

_SHOWN = 4


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@torch.no_grad()
def output_shape(subject: Foreign) -> Measure:
    """Logits are [batch, time, vocabulary], at several lengths."""
    note = subject.answers()
    model, vocabulary = subject.copy(), subject.facts.vocab_size
    for batch, length in ((1, 1), (2, subject.length), (3, max(1, subject.length // 2))):
        logits = subject.own_logits(model, subject.tokens(batch, length))
        shape = tuple(logits.shape)
        if batch == 2 and not logits.isfinite().all():
            share = float((~logits.isfinite()).double().mean())
            return failed(f"{share:.0%} of the logits of plain random tokens are NaN or infinite")
        if subject.facts.headless:
            continue
        if shape != (batch, length, vocabulary):
            return failed(f"tokens [{batch}, {length}] gave logits {list(shape)}, and there are {vocabulary:,} tokens")
    what = "a body without a head: hidden states in place of logits" if subject.facts.headless else ""
    detail = what or f"[batch, time, {vocabulary:,}] at lengths 1 to {subject.length}"
    return passed(detail, warning=note)


def parameters(subject: Foreign) -> Measure:
    """Every parameter is registered once, tied weights are one tensor, and the config's promise to tie is kept."""
    hidden = list(unregistered(subject.given))
    if hidden:
        return failed(f"not registered, so neither moved, saved nor trained: {listed(hidden)}")
    model: Any = subject.given
    tied = tied_names(model)
    if getattr(getattr(model, "config", None), "tie_word_embeddings", False) is True and _two_tables(model):
        return failed("the config ties head and embedding, and they are two tensors")
    count = sum(parameter.numel() for parameter in model.parameters())
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    detail = f"{exact(count)} parameters in {sum(1 for _ in model.parameters())} tensors"
    detail += f"; tied: {listed([' = '.join(names) for names in tied])}" if tied else "; none tied"
    warning = f"frozen: {listed(frozen)}" if frozen else ""
    return passed(f"{detail}; no spec to hold the count against", warning=warning)


def _two_tables(model: Any) -> bool:
    """Whether head and embedding are there and hold a tensor each."""
    if not hasattr(model, "get_output_embeddings"):
        return False
    tables = [getattr(part, "weight", None) for part in (model.get_output_embeddings(), model.get_input_embeddings())]
    found = [table for table in tables if isinstance(table, Tensor)]
    return len(found) == 2 and found[0].data_ptr() != found[1].data_ptr()


def tied_names(module: nn.Module) -> list[list[str]]:
    """Names that stand for one parameter."""
    by_tensor: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        by_tensor.setdefault(id(parameter), []).append(name)
    return [names for names in by_tensor.values() if len(names) > 1]


def unregistered(module: nn.Module) -> Iterator[str]:
    """Modules and parameters that stand in a plain list, tuple or dictionary, where torch does not find them."""
    known = {id(part) for part in module.modules()} | {id(parameter) for parameter in module.parameters()}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name.startswith("_") and name in {"_parameters", "_buffers", "_modules"}:
                continue
            for held in _held(value):
                weights = [held] if isinstance(held, nn.Parameter) else list(held.parameters())
                if id(held) not in known and any(id(weight) not in known for weight in weights):
                    yield f"{path}.{name}".lstrip(".")
                    break


def _held(value: object) -> Iterator[nn.Module | nn.Parameter]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        if isinstance(part, nn.Module | nn.Parameter):
            yield part


@torch.no_grad()
def determinism(subject: Foreign) -> Measure:
    """Two passes over the same tokens in eval mode give equal bits, with other tokens in between; so does one seed."""
    model, tokens = subject.copy(), subject.tokens(2, subject.length)
    first = subject.own_logits(model, tokens).clone()
    if not _same(first, subject.own_logits(model, tokens)):
        return failed(f"two passes in eval mode differ{_reason(subject, model, tokens)}")
    subject.own_logits(model, subject.tokens(2, subject.length, salt=1))
    if not _same(first, subject.own_logits(model, tokens)):
        return failed("a pass over other tokens changes the next one: the module keeps state between calls")
    one, again, other = (subject.fresh(seed) for seed in (11, 11, 12))
    if one is None or again is None or other is None:
        return passed("equal bits from one model; how to draw its weights again is not known")
    repeated, others = dict(again.named_parameters()), dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        if name not in repeated or not _same(parameter, repeated[name]):
            return failed(f"{name} differs between two models of one seed")
    same = all(name in others and _same(p, others[name]) for name, p in one.named_parameters())
    warning = "seeds change no weight: the model is made with a seed of its own" if same else ""
    return passed("equal bits from one model and from equal seeds", warning=warning)


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal bits; not-a-number counts as equal to itself."""
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _reason(subject: Foreign, model: nn.Module, tokens_BT: Tensor) -> str:
    """What in eval mode still trains, or whether random numbers or kept state make the difference."""
    on = [name or "the model" for name, part in model.named_modules() if part.training]
    if on:
        return f": in training mode in spite of eval(): {listed(on)}"
    seen: list[Tensor] = []
    for _ in range(2):
        with seeded(1):
            seen.append(subject.own_logits(model, tokens_BT).clone())
    if _same(*seen):
        return ": dropout or noise that eval() leaves on"
    return ", with equal random numbers too: the module keeps state between calls, or a sum has no fixed order"


@torch.enable_grad()
def side_effects(subject: Foreign) -> Measure:
    """A forward pass in eval mode leaves torch's settings and random numbers as they are."""
    model, tokens = subject.copy(), subject.tokens(2, subject.length)
    before, states = settings(), []
    changed: list[str] = []
    for seed in (1, 2):
        with seeded(seed):
            start = torch.get_rng_state()
            subject.own_logits(model, tokens)
            after = settings()
            states.append((start, torch.get_rng_state()))
        changed += [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    if changed:
        return failed(f"a forward pass changes torch's settings: {listed(list(dict.fromkeys(changed)))}")
    if torch.equal(states[0][1], states[1][1]):
        return failed("a forward pass sets torch's global seed: whatever is drawn after it repeats")
    if not all(torch.equal(start, end) for start, end in states):
        return passed("settings stay", warning="a forward pass in eval mode draws random numbers")
    return passed("default dtype, threads, gradients, deterministic algorithms, device and random numbers stay")


@torch.no_grad()
def round_trip(subject: Foreign) -> Measure:
    """The state dictionary, through safetensors into a model with other weights, gives the same logits, bit for bit."""
    source = subject.copy()
    state = source.state_dict()
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        return failed(f"no tensors, so safetensors cannot hold them: {listed(strange)}")
    kept, names = _once(state)
    data = save(kept)
    loaded = load(data)
    target = subject.fresh(4)
    if target is None:
        target = subject.copy()
        for tensor in target.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1.0)
    elif target.state_dict().keys() != state.keys():
        different = sorted(target.state_dict().keys() ^ state.keys())
        return failed(f"a new model has other names: {listed(different)}")
    target.to(next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32))
    target.to(subject.device)
    target.load_state_dict({name: loaded[names[name]] for name in state})
    tokens = subject.tokens(1, subject.length)
    if not _same(subject.own_logits(source, tokens), subject.own_logits(target, tokens)):
        return failed("logits differ after loading: something that matters is not in the state dictionary")
    shared = f", {len(state) - len(kept)} of {len(state)} names share a tensor" if len(kept) < len(state) else ""
    outside = list(_plain_tensors(source))
    warning = f"plain tensors are neither saved nor moved with the model: {listed(outside)}" if outside else ""
    return passed(f"{format_bytes(len(data))} of safetensors{shared}, equal bits after loading", warning=warning)


def _once(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor under the first of its names, and for every name the one it is kept under."""
    seen: dict[tuple[object, ...], str] = {}
    names: dict[str, str] = {}
    for name, tensor in state.items():
        where = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        names[name] = seen.setdefault(where, name)
    return {name: state[name].detach().cpu().clone().contiguous() for name in dict.fromkeys(names.values())}, names


def _plain_tensors(module: nn.Module) -> Iterator[str]:
    """Floating-point tensors that are attributes of a module and no parameter or buffer of it."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1:
                yield f"{path}.{name}".lstrip(".")


def without_spec(_: Foreign) -> Measure:
    """Needs a spec: holds the module against what a spec declares."""
    return does_not_apply("no spec to hold the module against")
