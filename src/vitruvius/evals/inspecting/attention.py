"""What is gathered of every sublayer that mixes positions: maps over the shown text, scores over many rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.evals.inspecting.influence import PROBES, influence
from vitruvius.evals.inspecting.maps import (
    cells_of,
    differences,
    labels_of,
    map_record,
    run_of,
    share_of_second,
    side_of,
)
from vitruvius.evals.inspecting.roles import BY_NAME, HeadFacts, scores_on_repeats, scores_on_text
from vitruvius.spec.mixers.differential import DifferentialAttention

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.evals.inspecting.inspection import Ask
    from vitruvius.evals.inspecting.listening import Look, Part
    from vitruvius.evals.inspecting.roles import Thresholds
    from vitruvius.evals.inspecting.text import Reading
    from vitruvius.spec import Layer


def visible(look: Look, queries: int, keys: int) -> Tensor:
    """Which pairs the pattern of a sublayer allows, bool [T, S]; cross-attention sees the whole source."""
    pattern = None if look.part == "cross" or look.layer.mixer is None else look.layer.mixer.pattern()
    if pattern is None:
        return torch.ones(queries, keys, dtype=torch.bool)
    allowed = pattern.allows(torch.arange(queries).unsqueeze(1), torch.arange(keys))
    return torch.as_tensor(allowed).expand(queries, keys)


@dataclass(slots=True, kw_only=True)
class Shown:
    """Maps over the text that is shown."""

    chosen: dict[str, Layer]
    head: int | None
    seed: int
    side: int
    run: int
    """Tokens behind a cell along the decoder's text, or the only one."""
    source_run: int | None
    maps: list[dict[str, Any]] = field(default_factory=list[Any])
    kept: dict[str, str] = field(default_factory=dict[str, str])
    """What each sublayer has a map of: `attention`, `influence` or `nothing`."""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict[str, Any])
    """Further facts of a sublayer."""

    @classmethod
    def of(cls, reading: Reading, chosen: dict[str, Layer], ask: Ask) -> Shown:
        """For a text, with maps small enough that all of them together stay within bounds."""
        count = 0
        for layer in chosen.values():
            for part in (layer.mixer, layer.cross):
                heads = getattr(part, "heads", None) or 1
                kinds = 3 if isinstance(part, DifferentialAttention) else 1
                count += 0 if part is None else kinds * (1 if ask.head is not None else heads)
        longest = max(len(reading.tokens), len(reading.source or ()))
        side = side_of(longest, count)
        source_run = None if reading.source is None else run_of(len(reading.source), side)
        return cls(
            chosen=chosen,
            head=ask.head,
            seed=ask.seed,
            side=side,
            run=run_of(len(reading.tokens), side),
            source_run=source_run,
        )

    def take(self, look: Look) -> None:
        """Keep the maps of one sublayer."""
        if look.layer.path not in self.chosen:
            return
        if look.weights_BHTS is None:
            self._influence(look)
            return
        self.kept[look.path] = "attention"
        weights_HTS = look.weights_BHTS[0]
        allowed = visible(look, *weights_HTS.shape[1:])
        labels = labels_of(look, len(weights_HTS))
        for (head, which), weights_TS in zip(labels, weights_HTS, strict=True):
            self._keep(look.path, head, which, "attention", weights_TS, allowed)
        difference_HTS = differences(look)
        if difference_HTS is not None and isinstance(look.layer.mixer, DifferentialAttention):
            start = look.layer.mixer.first_lambda(look.layer.index)
            self.facts[look.path] = {"lambda": share_of_second(look.module, start)}
            for head, weights_TS in enumerate(difference_HTS):
                self._keep(look.path, head, "difference", "difference", weights_TS, allowed)

    def _keep(
        self, path: str, head: int | None, which: str | None, kind: str, weights_TS: Tensor, allowed: Tensor
    ) -> None:
        if self.head is None or head is None or head == self.head:
            cells = cells_of(weights_TS, allowed, side=self.side)
            self.maps.append(map_record(path, head, which, kind, cells))

    def _influence(self, look: Look) -> None:
        found = influence(look, seed=self.seed)
        if found is None:
            self.kept[look.path] = "nothing"
            return
        norms_QS, queries = found
        total = norms_QS.sum(-1, keepdim=True)
        share_QS = norms_QS / total.clamp_min(1e-300)
        reached = norms_QS > 0
        place_S = torch.arange(norms_QS.shape[1])
        far_QS = (torch.tensor(queries).unsqueeze(1) - place_S).abs().double()
        self.kept[look.path] = "influence"
        self.facts[look.path] = {
            "probes": PROBES,
            "queries": queries,
            "distance": float((share_QS * far_QS).sum(-1).mean()),
            "own": float(share_QS.gather(1, torch.tensor(queries).unsqueeze(1)).mean()),
        }
        self._keep(look.path, None, None, "influence", share_QS, reached)


@dataclass(slots=True, kw_only=True)
class Attended:
    """Scores of every head, gathered from passes over text and over repeated tokens."""

    thresholds: Thresholds
    chosen: dict[str, Layer]
    head: int | None
    separators: tuple[Tensor | None, Tensor | None] = (None, None)
    """Which tokens of the rows, and of their sources, are white space and punctuation alone."""
    seen: dict[str, tuple[Layer, Part]] = field(default_factory=dict[str, Any])
    """The sublayers in the order of a pass."""
    heads: dict[str, list[HeadFacts]] = field(default_factory=dict[str, list[HeadFacts]])
    repeats: dict[str, dict[str, list[float | None]]] = field(default_factory=dict[str, Any])
    labels: dict[str, list[tuple[int | None, str | None]]] = field(default_factory=dict[str, Any])

    def on_text(self, look: Look) -> None:
        """Scores of one sublayer on rows of text."""
        if look.layer.path not in self.chosen:
            return
        self.seen[look.path] = (look.layer, look.part)
        weights = look.weights_BHTS
        if weights is None:
            return
        own, source = self.separators
        marked = source if look.part == "cross" or look.path.startswith("encoder.") else own
        allowed = visible(look, *weights.shape[2:])
        self.labels[look.path] = labels_of(look, weights.shape[1])
        self.heads[look.path] = scores_on_text(weights, allowed, separators_BS=marked, crossing=look.part == "cross")

    def on_repeats(self, look: Look) -> None:
        """Scores of one sublayer on random tokens written twice."""
        if look.layer.path in self.chosen and look.weights_BHTS is not None and look.part == "mixer":
            allowed = visible(look, *look.weights_BHTS.shape[2:])
            self.repeats[look.path] = scores_on_repeats(look.weights_BHTS, allowed)

    def records(self, shown: Shown) -> list[dict[str, Any]]:
        """One record for each sublayer, as JSON data."""
        return [self._record(path, layer, part, shown) for path, (layer, part) in self.seen.items()]

    def _record(self, path: str, layer: Layer, part: Part, shown: Shown) -> dict[str, Any]:
        component = layer.mixer if part == "mixer" else layer.cross
        assert component is not None
        repeats = self.repeats.get(path, {})
        heads = [
            self._head(label, facts, {name: values[index] for name, values in repeats.items()})
            for index, (label, facts) in enumerate(
                zip(self.labels.get(path, ()), self.heads.get(path, ()), strict=True)
            )
            if self.head is None or label[0] == self.head
        ]
        return {
            "path": path,
            "stack": "encoder" if path.startswith("encoder.") else "decoder",
            "index": layer.index,
            "block": layer.name,
            "part": part,
            "kind": component.kind,
            "sees": getattr(component, "sees", None) if part == "mixer" else "the source",
            "keeps": shown.kept.get(path, "nothing"),
            "facts": shown.facts.get(path, {}),
            "heads": heads,
        }

    def _head(
        self, label: tuple[int | None, str | None], facts: HeadFacts, repeats: dict[str, float | None]
    ) -> dict[str, Any]:
        scores = {name: facts.scores[name] if name not in repeats else repeats[name] for name in BY_NAME}
        roles = self.thresholds.roles_of(scores)
        return {
            "head": label[0],
            "map": label[1],
            "role": roles[0] if roles else None,
            "roles": roles,
            "scores": scores,
            "keys": facts.keys,
            "distance": facts.distance,
            "uniform_distance": facts.uniform_distance,
            "sink": facts.sink,
        }
