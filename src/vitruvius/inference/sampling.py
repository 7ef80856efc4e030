"""From logits to a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vitruvius.errors import RunError, UsageError

if TYPE_CHECKING:
    from torch import Tensor


_LEAST_TEMPERATURE = 1e-30
"""Below it logits pass what fp32 holds; the likeliest token alone is left long before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """How the next token is drawn. The cuts apply in the order of the fields, each to what the last one left."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token and ignores the rest."""
    top_k: int | None = None
    """Keep the k likeliest tokens."""
    top_p: float | None = None
    """Keep the fewest likeliest tokens whose probabilities reach this sum (Holtzman et al., 2020)."""
    min_p: float | None = None
    """Keep tokens at least this fraction as likely as the likeliest (Nguyen et al., 2024)."""

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        _within("temperature", self.temperature, 0.0, 100.0)
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k={self.top_k} keeps no token", fix="use a whole number from 1")
        if self.top_p is not None:
            _within("top_p", self.top_p, 1e-9, 1.0)
        if self.min_p is not None:
            _within("min_p", self.min_p, 0.0, 1.0)

    def sample(self, logits_BV: Tensor, generator: torch.Generator) -> Tensor:
        """One token per row, [B] int64. Equal generators and logits give equal tokens.

        Raises RunError where a logit is NaN.
        """
        if self.temperature == 0:
            return logits_BV.argmax(dim=-1)
        probabilities_BV = self.probabilities(logits_BV)
        try:
            return torch.multinomial(probabilities_BV, 1, generator=generator).squeeze(1)
        except RuntimeError:
            if not bool(logits_BV.isnan().any()):
                raise
            raise RunError(
                "the model gives NaN where the likelihood of a token is due",
                fix="its weights were thrown too far in training: take an earlier checkpoint, or train at a lower --lr",
            ) from None

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """What tokens are drawn from, [B, V] in fp32, summing to one. The temperature must not be 0."""
        scaled_BV = logits_BV.float() / max(self.temperature, _LEAST_TEMPERATURE)
        if self.top_k is not None and self.top_k < scaled_BV.shape[1]:
            kth = scaled_BV.topk(self.top_k, dim=-1).values[:, -1:]
            scaled_BV = scaled_BV.masked_fill(scaled_BV < kth, -torch.inf)
        probabilities_BV = scaled_BV.softmax(dim=-1)
        if self.top_p is not None and self.top_p < 1:
            probabilities_BV = _nucleus(probabilities_BV, self.top_p)
        if self.min_p is not None:
            floor = probabilities_BV.max(dim=-1, keepdim=True).values * self.min_p
            probabilities_BV = probabilities_BV.masked_fill(probabilities_BV < floor, 0)
        return probabilities_BV / probabilities_BV.sum(dim=-1, keepdim=True)


def _nucleus(probabilities_BV: Tensor, mass: float) -> Tensor:
    """Zero everything after the first tokens, by falling probability, that together reach `mass`."""
    ordered, index = probabilities_BV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.masked_fill(before >= mass, 0)
    return torch.zeros_like(probabilities_BV).scatter(1, index, kept)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise UsageError(f"{name}={value} is out of range", fix=f"use a number from {low:g} to {high:g}")
