"""What heads do: published roles, how each is scored, and from which score on a head has it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import torch

from vitruvius.checks.attention import heads_of
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

FEWEST = 4
"""Queries that must be able to do a thing for its score to be measured."""
_NOTHING = 1e-10
"""Mean square deviation from uniform weights below which there is nothing to be explained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One role: its name, what its score is, and who described it."""

    name: str
    score: str
    """What is measured, in a phrase. A weight is a mean over queries, beyond that of uniform weights on the keys that
    they see, over the most that could be: 0 is as much as those give, 1 is all of it."""
    source: str
    side: Literal["at least", "at most"] = "at least"
    """On which side of the threshold a head has the role."""


ROLES = (
    Role(
        name="induction",
        score="on random tokens written twice: weight that a token of the second copy puts on the token after its own "
        "first occurrence",
        source="Olsson et al., In-context Learning and Induction Heads, 2022 (prefix matching)",
    ),
    Role(
        name="duplicate",
        score="on random tokens written twice: weight that a token of the second copy puts on its own first occurrence",
        source="Wang et al., Interpretability in the Wild, 2022 (duplicate token heads)",
    ),
    Role(
        name="previous",
        score="weight on the token before",
        source="Voita et al., Analyzing Multi-Head Self-Attention, 2019; Elhage et al., A Mathematical Framework, 2021",
    ),
    Role(
        name="next",
        score="weight on the token after, where later tokens are seen",
        source="Voita et al., 2019; Clark et al., What Does BERT Look At?, 2019",
    ),
    Role(name="current", score="weight on the token itself", source="Clark et al., 2019"),
    Role(
        name="first",
        score="weight on the first token of the text, over all later queries that see it (an attention sink)",
        source="Xiao et al., 2023; threshold of Gu et al., When Attention Sink Emerges, 2024",
    ),
    Role(
        name="separator",
        score="weight on tokens of white space and punctuation alone",
        source="Clark et al., 2019 (heads that attend to delimiters)",
    ),
    Role(
        name="positional",
        score="share of the variance of the weights around uniform ones that distance alone explains",
        source="after Voita et al., 2019 (positional heads); R squared over all visible pairs",
    ),
    Role(
        name="local",
        score="mean distance to what it looks at, over that of uniform weights on the same keys",
        source="Sukhbaatar et al., Adaptive Attention Span, 2019 (mean distance)",
        side="at most",
    ),
    Role(
        name="broad",
        score="entropy of its weights over that of uniform weights on the same keys",
        source="Clark et al., 2019 (broad heads)",
    ),
)
"""The most telling first: of several that fit, the first is a head's role and the others are listed beside it."""

BY_NAME: Mapping[str, Role] = {role.name: role for role in ROLES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From which score on a head has a role; for `local` up to which."""

    induction: float = 0.4
    duplicate: float = 0.4
    previous: float = 0.5
    next: float = 0.5
    current: float = 0.5
    first: float = 0.3
    separator: float = 0.5
    positional: float = 0.9
    local: float = 0.25
    broad: float = 0.95

    def __post_init__(self) -> None:
        """Raise UsageError for a threshold that no score can be held against."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
                raise UsageError(
                    f"the threshold {field.name}={value!r} is not above 0 and at most 1",
                    fix="scores end at 1: for example previous=0.5",
                )

    @classmethod
    def parse(cls, settings: Mapping[str, str]) -> Thresholds:
        """Thresholds from names and texts. Raises UsageError."""
        found: dict[str, float] = {}
        for name, text in settings.items():
            if name not in BY_NAME:
                raise UsageError(f"there is no role {name!r}", fix="use one of " + ", ".join(BY_NAME))
            try:
                found[name] = float(text)
            except ValueError:
                raise UsageError(f"{name}={text!r} is no number", fix=f"for example {name}=0.5") from None
        return cls(**found)

    def roles_of(self, scores: Mapping[str, float | None]) -> list[str]:
        """The roles that these scores give, the most telling first."""
        found: list[str] = []
        for role in ROLES:
            score, threshold = scores.get(role.name), getattr(self, role.name)
            if score is None:
                continue
            if score >= threshold if role.side == "at least" else score <= threshold:
                found.append(role.name)
        return found


Scores = dict[str, "float | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """Scores and statistics of one head; None where it cannot be measured."""

    scores: Scores
    keys: float | None
    """e^entropy: how many keys it looks at, in effect."""
    distance: float | None
    """Mean distance to what it looks at, in tokens."""
    uniform_distance: float | None
    sink: float | None
    """Weight that a sink takes and that no key gets."""


def scores_on_text(
    weights_BHTS: Tensor, allowed_TS: Tensor, *, separators_BS: Tensor | None, crossing: bool
) -> list[HeadFacts]:
    """Scores of each head on ordinary text. With `crossing`, queries and keys are of different texts.

    Sums over rows run in fp64.
    """
    weights = weights_BHTS.detach().double().cpu()
    allowed = allowed_TS.cpu()
    several = allowed.sum(-1) > 1
    heads = weights.shape[1]
    if not several.any():
        nothing: Scores = dict.fromkeys(BY_NAME)
        return [HeadFacts(scores=nothing, keys=None, distance=None, uniform_distance=None, sink=None)] * heads
    statistics = heads_of(weights, allowed)
    columns: dict[str, list[float | None]] = {
        "first": _at(weights, allowed, several, offset=None),
        "separator": _on(weights, allowed, several, separators_BS),
        "broad": [_finite(head.entropy) for head in statistics],
    }
    if not crossing:
        columns |= {
            "previous": _at(weights, allowed, several, offset=-1),
            "current": _at(weights, allowed, several, offset=0),
            "next": _at(weights, allowed, several, offset=1),
            "positional": _by_distance(weights, allowed, several),
            "local": [
                _finite(head.distance / head.uniform_distance) if head.uniform_distance > 0 else None
                for head in statistics
            ],
        }
    return [
        HeadFacts(
            scores={name: columns[name][head] if name in columns else None for name in BY_NAME},
            keys=_finite(statistics[head].keys),
            distance=None if crossing else _finite(statistics[head].distance),
            uniform_distance=None if crossing else _finite(statistics[head].uniform_distance),
            sink=_finite(max(0.0, statistics[head].sink)),
        )
        for head in range(heads)
    ]


def scores_on_repeats(weights_BHTS: Tensor, allowed_TS: Tensor) -> dict[str, list[float | None]]:
    """Induction and duplicate scores of each head on rows whose second half repeats the first, which has no repeats."""
    weights, length = weights_BHTS.detach().double().cpu(), weights_BHTS.shape[2] // 2
    allowed = allowed_TS.cpu()
    second = torch.arange(length, 2 * length)
    found: dict[str, list[float | None]] = {}
    for name, key in (("induction", second - length + 1), ("duplicate", second - length)):
        seen = allowed[second, key]
        found[name] = _beyond_uniform(weights, allowed, second[seen], key[seen])
    return found


def repeated_tokens(ids: Tensor, *, rows: int, length: int, seed: int) -> Tensor:
    """Rows [rows, 2 * length] of `length` different ids drawn at random, written twice; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    once = torch.stack([ids[torch.randperm(len(ids), generator=generator)[:length]] for _ in range(rows)])
    return torch.cat([once, once], dim=1)


def _at(weights: Tensor, allowed: Tensor, several: Tensor, *, offset: int | None) -> list[float | None]:
    """Mean weight on the key at this offset (on the first key without one), over the queries that see it and others."""
    queries = torch.arange(allowed.shape[0])
    keys = torch.zeros_like(queries) if offset is None else queries + offset
    inside = several & (keys >= 0) & (keys < allowed.shape[1])
    queries, keys = queries[inside], keys[inside]
    if offset is None and allowed.shape[0] == allowed.shape[1]:
        later = queries > 0  # the first token's own look at itself says nothing
        queries, keys = queries[later], keys[later]
    seen = allowed[queries, keys]
    return _beyond_uniform(weights, allowed, queries[seen], keys[seen])


def _beyond_uniform(weights: Tensor, allowed: Tensor, queries: Tensor, keys: Tensor) -> list[float | None]:
    """Mean weight of these pairs, less that of uniform weights, over the most that could be; by head.

    In a narrow window a head that prefers nothing puts much weight on everything: that is no role.
    """
    if len(queries) < FEWEST:
        return [None] * weights.shape[1]
    uniform = (1 / allowed[queries].sum(-1).double()).mean()
    if uniform >= 1:
        return [None] * weights.shape[1]
    return _listed((weights[:, :, queries, keys].mean((0, 2)) - uniform) / (1 - uniform))


def _on(weights: Tensor, allowed: Tensor, several: Tensor, marked_BS: Tensor | None) -> list[float | None]:
    """Mean weight on marked keys, less that of uniform weights, over the most that could be."""
    if marked_BS is None or not marked_BS.any():
        return [None] * weights.shape[1]
    marked = marked_BS.double().cpu()
    on_BHT = torch.einsum("bhts,bs->bht", weights[:, :, several], marked)
    uniform = allowed[several].double() / allowed[several].sum(-1, keepdim=True)
    by_chance = torch.einsum("ts,bs->bt", uniform, marked).mean()
    if by_chance >= 1:
        return [None] * weights.shape[1]
    return _listed((on_BHT.mean((0, 2)) - by_chance) / (1 - by_chance))


def _by_distance(weights: Tensor, allowed: Tensor, several: Tensor) -> list[float | None]:
    """Share of the squared deviation from uniform weights that the mean at each distance explains, by head."""
    query, key = torch.nonzero(allowed & several.unsqueeze(1), as_tuple=True)
    deviation_BHP = weights[:, :, query, key] - 1 / allowed.sum(-1)[query].double()
    apart = query - key - int((query - key).min())
    number_D = torch.bincount(apart).double() * weights.shape[0]
    sums_HD = torch.zeros(weights.shape[1], len(number_D), dtype=torch.float64)
    sums_HD.index_add_(1, apart, deviation_BHP.sum(0))
    explained = (sums_HD.square() / number_D.clamp_min(1)).sum(1)
    total = deviation_BHP.square().sum((0, 2))
    enough = total > _NOTHING * number_D.sum()
    return _listed(torch.where(enough, explained / total.clamp_min(1e-300), 0.0))


def _listed(values: Tensor) -> list[float | None]:
    return [_finite(float(value)) for value in values]


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
