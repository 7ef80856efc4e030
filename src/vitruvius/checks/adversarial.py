"""Inputs and weights at their worst: repeats, rare ids, huge embeddings, gates driven to 0 and 1."""

from __future__ import annotations

import re
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.compare import gap, worst_in
from vitruvius.checks.decoding import decoded
from vitruvius.checks.outcome import Measure, failed, within
from vitruvius.nn.place import Place
from vitruvius.nn.positions.hooks import hooks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model

SATURATED = 1e-7
"""How far decoding may lie from the full pass with saturated gates, in fp64: they amplify what rounding leaves."""
LARGE = 100.0
"""What embeddings are multiplied by."""
HARD, STEEP, FAST = 100.0, 1e3, 6.0
"""Biases of saturated gates (e^100 is no number in fp32, and nobody needs it), what the maps of gates are multiplied
by, and logarithms of rates: e^6 forgets everything within a step."""
_GATES = {"gate", "beta", "forget", "decay", "dt", "rate"}
"""Words in the names of tensors that decide what is let through, kept or forgotten."""
_RATES = "A_log"
"""Logarithms of rates in state-space models."""
_WORDS = re.compile(r"[._]")
_LONGEST = 24
_STEPS = 4


def adversarial(subject: Subject) -> Measure:
    """Repeats, rare ids, embeddings x 100 and gates at 0 and 1 stay finite, and decoding equals the full pass."""
    patterns = adversarial_tokens(subject.probed.vocab_size, min(subject.length, _LONGEST))
    tokens_BT = torch.stack(list(patterns.values())).to(subject.model.device)
    gates = gates_of(subject.model)
    warning = ""
    for dtype in (torch.float32, torch.bfloat16):
        model, short = subject.plain(dtype), str(dtype).removeprefix("torch.")
        backward = dtype == torch.float32  # bf16 has the same range, and no-nan goes back through it
        ill = _ill(model, tokens_BT, list(patterns), backward=backward)
        if ill:
            return failed(f"{ill} in {short}")
        for extreme in (f"embeddings x {LARGE:g}", *(f"gates {mode}" for mode in MODES if gates)):
            with _at(extreme, model, gates):
                ill = _ill(model, tokens_BT, list(patterns), backward=backward)
            if ill and _is_normed(subject):
                return failed(f"{extreme}: {ill} in {short}")
            if ill and not warning:
                warning = f"{extreme}: {ill} in {short}; no norm brings the stream back"
    return _beside_saturated(subject, tokens_BT, gates, warning)


@torch.no_grad()
def _beside_saturated(subject: Subject, tokens_BT: Tensor, gates: Sequence[str], warning: str) -> Measure:
    """Decoding against the full pass, with every gate at its worst, and decays that never grow."""
    model = deepcopy(subject.model)
    growing = growing_decays(model, subject)
    if growing:
        return failed(f"{growing}: what lies further back gains weight")
    done = f"repeats, rare ids, embeddings x {LARGE:g}" + (f", {len(gates)} gates at their ends" if gates else "")
    if not subject.graph.is_causal:
        return Measure(passed=True, detail=f"{done}: finite in fp32 and bf16", warning=warning)
    if subject.graph.encoder:
        model.standing_source = subject.tokens(1, tokens_BT.shape[1], salt=77)
    gaps: dict[str, float] = {}
    length = tokens_BT.shape[1]
    steps = min(_STEPS, length - 1)
    for mode in MODES if gates else ("as drawn",):
        with saturated(model, gates, mode):
            full = model(tokens_BT)
            if full.isfinite().all() or _is_normed(subject):
                gaps[mode] = gap(decoded(model, tokens_BT, [length - steps, *[1] * steps]), full)
    where, most = worst_in(gaps) if gaps else ("", 0.0)
    detail = f"{done}: finite in fp32 and bf16, and decoding equals the full pass"
    detail = detail if most <= SATURATED else f"gates {where}: decoding differs from the full pass"
    return within(most, SATURATED, detail, warning=warning, values={"decode_gap": gaps, "gates": list(gates)})


def _ill(model: Model, tokens_BT: Tensor, names: Sequence[str], *, backward: bool) -> str:
    """What is not finite of a pass over these texts, or the empty text."""
    with torch.set_grad_enabled(backward):
        return not_finite(lambda: model.loss(tokens_BT, tokens_BT, per_token=True), model, names)


# ----------------------------------------------------------------------------------------------------------------------
# Inputs, for any model


def adversarial_tokens(vocabulary: int, length: int) -> dict[str, Tensor]:
    """Texts that upset norms, gates and counters, by name: [T] each."""
    place = torch.arange(length)
    last = vocabulary - 1
    return {
        "one token repeated": torch.zeros(length, dtype=torch.int64),
        "a period of 2": (place % 2) % vocabulary,
        "a period of 3": (place % 3) % vocabulary,
        "one token, then another": (place >= length // 2).long() * last,
        "the last ids": (last - place % min(vocabulary, length)).clamp_min(0),
    }


def not_finite(losses: Callable[[], Tensor], model: nn.Module, names: Sequence[str]) -> str:
    """What is not finite of losses [B, T] of texts with these names, or the empty text; gradients too while enabled."""
    losses_BT = losses()
    for name, row in zip(names, losses_BT, strict=True):
        if not row.isfinite().all():
            return f"{name}: the loss is not finite"
    if not losses_BT.requires_grad:
        return ""
    model.zero_grad(set_to_none=True)
    losses_BT.float().mean().backward()
    ill = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    model.zero_grad(set_to_none=True)
    return f"{names[0]} and others: the gradient of {ill[0]} is not finite" if ill else ""


# ----------------------------------------------------------------------------------------------------------------------
# Gates


def gates_of(model: Model) -> list[str]:
    """Names of the parameters that drive gates of mixers and positions, or decide how fast something is forgotten."""
    found: list[str] = []
    for name, _ in model.named_parameters():
        inside = name.partition(".mixer.")[2] or name.partition("embedding.position.")[2]
        words = set(_WORDS.split(inside))
        if words & _GATES or inside.endswith(_RATES) or "shared_gate" in name:
            found.append(name)
    return found


def _apart(number: int, name: str, values: Tensor) -> Tensor:
    """Biases of gates and step sizes far out, one channel up and the next down; in each tensor another one first."""
    if _is_map(name, values):
        return values
    up = (torch.arange(values.numel(), device=values.device) + number) % 2 == 0
    top = FAST if name.endswith(_RATES) else HARD
    return torch.where(up, top, -HARD).to(values.dtype).view_as(values)


def _is_map(name: str, values: Tensor) -> bool:
    return values.dim() > 1 and not name.endswith(_RATES)


MODES: dict[str, Callable[[int, str, Tensor], Tensor]] = {
    "apart": _apart,
    "steep": lambda _, name, values: values * STEEP if _is_map(name, values) else values,
}
"""How gates are saturated: half of them at each end whatever the text says, or as each token says."""


@contextmanager
def _at(extreme: str, model: Model, gates: Sequence[str]) -> Iterator[None]:
    """The model with large embeddings, or with its gates in one of the modes."""
    mode = extreme.removeprefix("gates ")
    tables = {} if mode in MODES else {"table": model.embedding.tokens.weight}
    with _scaled(tables, lambda _, values: values * LARGE), saturated(model, gates, mode):
        yield


@contextmanager
def saturated(model: Model, gates: Sequence[str], mode: str) -> Iterator[None]:
    """The gates are at their ends inside the block, in one of the `MODES`; any other name leaves them alone."""
    parameters = dict(model.named_parameters())
    numbers = {name: number for number, name in enumerate(gates)}
    change = MODES.get(mode)
    tensors = {name: parameters[name] for name in gates} if change is not None else {}
    with _scaled(tensors, lambda name, values: values if change is None else change(numbers[name], name, values)):
        yield


@contextmanager
def _scaled(tensors: Mapping[str, Tensor], change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """The tensors hold other values inside the block."""
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(change(name, before[name]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(before[name])


def _is_normed(subject: Subject) -> bool:
    """Whether a norm stands between what comes in and every sublayer."""
    return all(layer.norm_place in {"pre", "sandwich", "post"} for layer in subject.graph.every_layer())


def growing_decays(model: Model, subject: Subject) -> str:
    """A position whose decay rises along the text, so that old keys gain weight; the empty text when none does."""
    length = min(subject.length, _LONGEST)
    generator = torch.Generator().manual_seed(subject.seed + 8)
    drawn = torch.randn(2, length, subject.graph.scope.width, generator=generator, dtype=torch.float64)
    place: Any = Place(positions=torch.arange(length, device=model.device))
    for layer in (*subject.graph.encoder, *subject.graph.layers):
        mixer = model.get_submodule(f"{layer.stack.value.format(index=layer.weights)}.mixer") if layer.mixer else None
        decay = hooks_of(getattr(mixer, "position", None)).decay
        if decay is not None and bool((decay(drawn.to(model.device), place, None).diff(dim=-1) > 0).any()):
            return f"{layer.path}.mixer.position"
    return ""
