"""How much each token changes what a mixer without an attention map makes of another one: gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vitruvius.nn.place import Passed

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.evals.inspecting.listening import Look

PROBES = 16
"""Random directions. The square of an entry has a relative standard error of at most sqrt(2 / 16) = 35 %, which a
Jacobian of rank one reaches; the entry itself half of that."""
QUERIES = 64
"""Most tokens whose dependence is measured, evenly spaced: a gradient is taken for each."""
_TOGETHER = 16
"""Copies of the text in a pass."""


def influence(look: Look, *, seed: int) -> tuple[Tensor, list[int]] | None:
    """Frobenius norms of d(output t)/d(input s) of the sublayer's mixer on the first row of its text: [Q, S], and which
    tokens the rows are.

    Estimated by Hutchinson's method (1989) with `PROBES` random signs, the same for the same seed; 0 is exactly 0. None
    where no gradient reaches the input.
    """
    length = look.x_BTD.shape[1]
    queries = [round(i * (length - 1) / max(1, min(QUERIES, length) - 1)) for i in range(min(QUERIES, length))]
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (PROBES, look.x_BTD.shape[2]), generator=generator).to(look.x_BTD) * 2 - 1
    rows: list[Tensor] = []
    for start in range(0, len(queries), _TOGETHER):
        part = _of_queries(look, queries[start : start + _TOGETHER], signs)
        if part is None:
            return None
        rows.append(part)
    return torch.cat(rows), queries


def _of_queries(look: Look, queries: list[int], signs_PD: Tensor) -> Tensor | None:
    """The rows of some tokens, [Q, S]: each has a copy of the text for itself, so that one pass serves all."""
    x_QTD = look.x_BTD[:1].expand(len(queries), -1, -1).detach().clone().requires_grad_()
    tokens = look.place.tokens
    place = replace(
        look.place,
        signals=None,
        backend="auto",
        tokens=None if tokens is None else tokens[:1].expand(len(queries), -1),
        passed=Passed(),
    )
    with torch.enable_grad():
        y_QTD = look.module(x_QTD, place, None)
        own_QD = y_QTD[torch.arange(len(queries)), queries]
        if not own_QD.requires_grad:
            return None
        squares = torch.zeros(x_QTD.shape[:2], dtype=torch.float64)
        for sign_D in signs_PD:
            # Weights are constants here: only the way from input to output is asked for.
            (gradient,) = torch.autograd.grad((own_QD * sign_D).sum(), x_QTD, retain_graph=True, allow_unused=True)
            if gradient is None:
                return None
            squares += gradient.double().square().sum(-1).cpu()
    return (squares / len(signs_PD)).sqrt()
