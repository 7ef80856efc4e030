"""Where fresh attention looks: entropy, distance and sink mass of every head, held against uniform weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.causality import backend
from vitruvius.checks.outcome import Measure, by_layer, does_not_apply, failed, within
from vitruvius.nn import Signals
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.norms import LayerNorm, RMSNorm
from vitruvius.spec.positions.rope import RotaryPosition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model
    from vitruvius.spec import Layer

SATURATED = 0.02
"""Entropy of a head relative to that of uniform weights, below which it is an argmax that hardly learns."""
SPREAD = 2.0
"""By what factor the spread of scores may differ from the one that widths and first weights give."""
FIRST = 4
"""Tokens at the start that are counted as sinks, as in StreamingLLM (Xiao et al., 2023)."""
_ROWS = 3
_SAME = 1e-13
_FEWEST = 4
"""Keys that a query must see for the spread of its scores to be measured."""
_CHANNELS = 16
"""Query channels of a layer that the spread is an average over; fewer leave it to chance."""
_BY_DISTANCE = {"rope", "alibi", "t5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where one head looks, as means over all queries that see more than one key."""

    entropy: float
    """Of the weights, relative to that of uniform weights over the same keys: 1 is uniform, 0 an argmax."""
    keys: float
    """e^entropy: how many keys it looks at, in effect."""
    distance: float
    """Mean distance to what it looks at, in tokens."""
    uniform_distance: float
    """The same for uniform weights over the pattern."""
    first: float
    """Weight on the first tokens of the text."""
    uniform_first: float
    sink: float
    """Weight that a sink takes and that no key gets."""
    moved: float
    """Greatest change of a weight from one text to another: 0 in a head that no content reaches."""


def heads_of(weights_BHTS: Tensor, allowed_TS: Tensor) -> list[Head]:
    """Statistics of each head from its attention weights over some texts, and the pairs that the pattern allows.

    Empty where no query sees more than one key.
    """
    count_T = allowed_TS.sum(-1)
    rows = count_T > 1
    if not rows.any():
        return []
    weights = weights_BHTS.detach().double().cpu()[:, :, rows]
    allowed, count = allowed_TS[rows], count_T[rows].double()
    place_Q, place_S = torch.arange(allowed_TS.shape[0])[rows].unsqueeze(1), torch.arange(allowed_TS.shape[1])
    far = (place_Q - place_S).abs().double()
    first = (place_S < FIRST).double().expand_as(far)
    late = (place_Q >= 2 * FIRST).squeeze(1) if bool((place_Q >= 2 * FIRST).any()) else torch.ones(len(far)).bool()
    total = weights.sum(-1)
    share = weights / total.unsqueeze(-1).clamp_min(1e-300)
    entropy = -(share * share.clamp_min(1e-300).log()).sum(-1)
    uniform = allowed.double() / count.unsqueeze(-1)
    measured = {
        "entropy": (entropy / count.log()).mean((0, 2)),
        "keys": entropy.exp().mean((0, 2)),
        "distance": (share * far).sum(-1).mean((0, 2)),
        "first": (share * first).sum(-1)[..., late].mean((0, 2)),
        "sink": 1 - total.mean((0, 2)),
        "moved": (share - share[:1]).abs().amax((0, 2, 3)),
    }
    return [
        Head(
            **{name: float(values[head]) for name, values in measured.items()},
            uniform_distance=float((uniform * far).sum(-1).mean()),
            uniform_first=float((uniform * first).sum(-1)[late].mean()),
        )
        for head in range(weights.shape[1])
    ]


def attention_distribution(subject: Subject) -> Measure:
    """Fresh heads look around: none is an argmax or deaf to the text, and scores spread as widths and weights say."""
    patterns = list(subject.patterns())
    if not patterns:
        return does_not_apply("no layer attends")
    heard, sizes = _listen(subject.model, subject)
    place = torch.arange(subject.length)
    found: dict[str, list[Head]] = {}
    for (name, pattern), weights_BHTS in zip(patterns, heard, strict=True):
        heads = heads_of(weights_BHTS, pattern.allows(place.unsqueeze(1), place))
        if heads:
            found[name] = heads
    if not found:
        return does_not_apply("no query sees more than one key")
    weights: dict[str, Tensor] = {}
    for (name, _), weights_BHTS in zip(patterns, heard, strict=True):
        weights.setdefault(name, weights_BHTS)
    spreads = {} if subject.given is not None else _spreads(subject, weights, sizes)
    values = _values(found, spreads)
    deaf = [f"{name} head {i}" for name, heads in found.items() for i, h in enumerate(heads) if h.moved <= _SAME]
    sharp = [f"{name} head {i}" for name, heads in found.items() for i, h in enumerate(heads) if h.entropy < SATURATED]
    if subject.given is None and subject.probed.vocab_size > 1:
        if deaf:
            return failed(f"{deaf[0]} gives every text the same weights{_others(deaf)}", values=values)
        if sharp:
            what = f"{sharp[0]} looks at one key alone at first: entropy {SATURATED:.0%} of uniform or less"
            return failed(what + _others(sharp), values=values)
    return _judged(found, spreads, values, sharp + deaf)


def _judged(
    found: Mapping[str, Sequence[Head]], spreads: Mapping[str, float], values: dict[str, Any], odd: Sequence[str]
) -> Measure:
    every = [head for heads in found.values() for head in heads]
    ratios = [head.entropy for head in every]
    near = sum(h.distance for h in every) / max(sum(h.uniform_distance for h in every), 1e-30)
    detail = (
        f"{len(every)} heads: entropy {min(ratios):.0%} to {max(ratios):.0%} of uniform, distance {near:.0%} of it, "
        f"{_mean(every, 'first'):.0%} of the weight on the first {FIRST} tokens (uniform: "
        f"{_mean(every, 'uniform_first'):.0%})"
    )
    warning = f"{odd[0]} is an argmax or deaf to the text{_others(odd)}" if odd else ""
    if not spreads:
        return Measure(passed=True, detail=detail, values=values, warning=warning)
    where, worst = max(spreads.items(), key=lambda item: max(item[1], 1 / max(item[1], 1e-30)))
    off = max(worst, 1 / max(worst, 1e-30))
    if off > SPREAD:
        detail = f"{where}: scores spread {worst:.2g} times as far as scale, widths and first weights give"
    return within(off, SPREAD, detail, values=values, warning=warning)


def _mean(heads: Sequence[Head], name: str) -> float:
    return sum(getattr(head, name) for head in heads) / len(heads)


def _others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _values(found: Mapping[str, Sequence[Head]], spreads: Mapping[str, float]) -> dict[str, Any]:
    series = {
        name: [_mean(heads, name) for heads in found.values()]
        for name in ("entropy", "distance", "uniform_distance", "first", "uniform_first", "sink")
    }
    heads = {name: [asdict(head) for head in heads] for name, heads in found.items()}
    return by_layer(list(found), series, heads=heads, score_spread_over_expected=dict(spreads))


def _listen(model: Model, subject: Subject) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Attention weights of every sublayer that attends, and what each plain attention read, by layer."""
    heard: list[Tensor] = []
    read: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(f"{layer.path}.mixer").register_forward_pre_hook(_keep(read, layer.path))
        for layer in _plain(subject)
    ]
    options: dict[str, Any] = {}
    if subject.graph.encoder:
        options["source"] = subject.tokens(_ROWS, subject.length, salt=31)
    try:
        with torch.no_grad(), backend(model, "reference"):
            model(subject.tokens(_ROWS, subject.length, salt=30), signals=Signals(attention=heard), **options)
    finally:
        for handle in handles:
            handle.remove()
    return heard, read


def _keep(read: dict[str, Tensor], name: str) -> Any:
    def hook(_module: object, inputs: tuple[Tensor, ...]) -> None:
        read.setdefault(name, inputs[0].detach())  # layers that share weights call it again, with something else

    return hook


# ----------------------------------------------------------------------------------------------------------------------
# The spread of scores


def _plain(subject: Subject) -> list[Layer]:
    """Layers whose scores are scale x q . k and what depends on distance alone, so that their spread can be told."""
    return [
        layer
        for layer in (*subject.graph.encoder, *subject.graph.layers)
        if isinstance(layer.mixer, Attention)
        and layer.owns_weights
        and layer.keys_from is None
        and layer.mixer.heads * layer.mixer.width_of_head(layer.scope) >= _CHANNELS
        and layer.mixer.logit_cap is None
        and (layer.mixer.qk_norm is None or isinstance(layer.mixer.qk_norm, RMSNorm | LayerNorm))
        and (layer.mixer.position is None or layer.mixer.position.kind in _BY_DISTANCE)
    ]


def _spreads(subject: Subject, heard: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> dict[str, float]:
    """Measured over expected standard deviation of the scores, by layer."""
    place = torch.arange(subject.length)
    found: dict[str, float] = {}
    for layer in _plain(subject):
        mixer = layer.mixer
        assert isinstance(mixer, Attention)
        allowed_TS = mixer.pattern().allows(place.unsqueeze(1), place)
        expected = _expected(subject, layer, mixer, read[layer.path])
        measured = spread_of_scores(heard[layer.path], allowed_TS)
        if measured is not None and expected > 0:
            found[layer.path] = measured / expected
    return found


def spread_of_scores(weights_BHTS: Tensor, allowed_TS: Tensor) -> float | None:
    """Standard deviation of what the text adds to the scores of a query's keys, from the weights of several texts.

    The logarithm of a weight is its score up to a constant of the row. Each row is centred over its keys, and what is
    the same in all texts, a position, drops out with the mean over texts. None where queries see too few keys.
    """
    rows = allowed_TS.sum(-1) >= _FEWEST
    if not rows.any() or weights_BHTS.shape[0] < 2:
        return None
    allowed = allowed_TS[rows]
    count = allowed.sum(-1, keepdim=True).double()
    logs = weights_BHTS.detach().double().cpu()[:, :, rows].clamp_min(1e-300).log().masked_fill(~allowed, 0.0)
    centred = (logs - logs.sum(-1, keepdim=True) / count).masked_fill(~allowed, 0.0)
    variance = centred.var(dim=0, correction=1).sum(-1, keepdim=True) / (count - 1)
    return sqrt(variance.mean().item())


def _expected(subject: Subject, layer: Layer, mixer: Attention, x_BTD: Tensor) -> float:
    """The scale x sqrt(head width) x size of a query's channel x size of how keys differ in one, as it is turned.

    Less what is the same in every text: the share of queries and of keys that comes from where they stand.
    """
    x_BTD = x_BTD.double()
    apart_BTD = x_BTD - x_BTD.mean(dim=1, keepdim=True)
    own, apart = _rms(x_BTD), _rms(apart_BTD)
    query = _size(subject, f"{layer.path}.mixer.q", own)
    key, difference = (_size(subject, f"{layer.path}.mixer.k", size, biased=size == own) for size in (own, apart))
    if mixer.qk_norm is not None:
        eps: float = getattr(mixer.qk_norm, "eps", 0.0)
        query, difference = query / sqrt(query**2 + eps), difference / sqrt(key**2 + eps)
    fixed = max(0.0, 1 - _varying(x_BTD)) * max(0.0, 1 - _varying(apart_BTD))
    scale = abs(mixer.scale(layer.scope)) * sqrt(mixer.width_of_head(layer.scope))
    return scale * query * difference * sqrt(1 - fixed) * _turned(mixer, layer) ** 2


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def _varying(x_BTD: Tensor) -> float:
    """Share of the mean square that differs from text to text."""
    return (x_BTD.var(dim=0, correction=1).mean() / x_BTD.square().mean().clamp_min(1e-300)).item()


def _size(subject: Subject, name: str, size: float, *, biased: bool = True) -> float:
    """Root mean square of what a linear map with random weights makes of an input of that size."""
    module: Any = subject.model.get_submodule(name)
    weight, bias = module.weight.detach().double(), getattr(module, "bias", None)
    square = weight.square().mean().item() * weight.shape[1] * size**2
    return sqrt(square + (bias.detach().double().square().mean().item() if biased and bias is not None else 0.0))


def _turned(mixer: Attention, layer: Layer) -> float:
    """What a rotation multiplies queries and keys by, as YaRN does."""
    position = mixer.position
    if not isinstance(position, RotaryPosition):
        return 1.0
    factor = position.in_context(layer.scope.context).attention_factor
    return sqrt(1 + position.fraction * (factor**2 - 1))
