"""How much each token changes what a mixer without an attention map makes of another one: gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vitruvius.nn.place import Passed

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.evals.inspecting.listening import Look

PROBES = 8
"""Random directions. The square of an entry has a relative standard error of at most sqrt(2 / 8) = 50 %, which a
Jacobian of rank one reaches; the entry itself half of that."""
QUERIES = 64
"""Most tokens whose dependence is measured, evenly spaced: a gradient is taken for each."""
_ELEMENTS = 1 << 23
"""Numbers of the input of a pass, in all copies of the text."""


def influence(look: Look, *, seed: int) -> tuple[Tensor, list[int]] | None:
    """Frobenius norms of d(output t)/d(input s) of the sublayer's mixer on the first row of its text: [Q, S], and which
    tokens the rows are.

    Estimated by Hutchinson's method (1989) with `PROBES` random signs, the same for the same seed; 0 is exactly 0. None
    where no gradient reaches the input.
    """
    length, width = look.x_BTD.shape[1:]
    count = min(QUERIES, length)
    queries = [round(i * (length - 1) / max(1, count - 1)) for i in range(count)]
    generator = torch.Generator().manual_seed(seed)
    signs_PD = torch.randint(0, 2, (PROBES, width), generator=generator).to(look.x_BTD) * 2 - 1
    together = max(1, _ELEMENTS // (length * width))
    squares_RS: list[Tensor] = []
    # A copy of the text for each token and each direction, so that one pass serves many of them.
    pairs = torch.cartesian_prod(torch.tensor(queries), torch.arange(PROBES))
    for part in pairs.split(together):
        squares = _squares(look, part[:, 0], signs_PD[part[:, 1]])
        if squares is None:
            return None
        squares_RS.append(squares)
    return torch.cat(squares_RS).unflatten(0, (count, PROBES)).mean(1).sqrt(), queries


def _squares(look: Look, query_R: Tensor, signs_RD: Tensor) -> Tensor | None:
    """Squared lengths, by input token, of the gradients of one directed output of each copy: [R, S] in fp64."""
    rows = torch.arange(len(query_R))
    x_RTD = look.x_BTD[:1].expand(len(query_R), -1, -1).detach().clone().requires_grad_()
    tokens = look.place.tokens
    place = replace(
        look.place,
        signals=None,
        backend="auto",
        tokens=None if tokens is None else tokens[:1].expand(len(query_R), -1),
        passed=Passed(),
    )
    with torch.enable_grad():
        # Not the module itself: its hooks have heard this sublayer already.
        y_RTD = look.module.forward(x_RTD, place, None)
        directed = (y_RTD[rows, query_R] * signs_RD).sum()
        if not directed.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(directed, x_RTD, allow_unused=True)
    return None if gradient is None else gradient.double().square().sum(-1).cpu()
