"""Attention weights as small matrices of plain numbers: binned where they are many, null where nothing is visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vitruvius.spec.mixers.differential import DifferentialAttention

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitruvius.evals.inspecting.listening import Look

LARGEST_SIDE = 96
"""Cells along a side of a map."""
LEAST_SIDE = 8
MOST_CELLS = 1 << 20
"""Cells of all maps together: a page and a document stay within some megabytes."""
_PLACES = 5
"""Decimal places of a weight."""

Cells = list[list["float | None"]]


def side_of(tokens: int, maps: int) -> int:
    """Most cells along a side of each of so many maps of a text."""
    fitting = int((MOST_CELLS / max(1, maps)) ** 0.5)
    return max(LEAST_SIDE, min(tokens, LARGEST_SIDE, fitting))


def labels_of(look: Look, heads: int) -> list[tuple[int | None, str | None]]:
    """(head, which of its maps) of each map that a sublayer computes."""
    if isinstance(look.layer.mixer, DifferentialAttention) and look.part == "mixer":
        half = heads // 2
        return [(head, "first") for head in range(half)] + [(head, "second") for head in range(half)]
    return [(head, None) for head in range(heads)]


def differences(look: Look) -> Tensor | None:
    """First map less lambda times the second, of each head of differential attention: [H, T, S], with signs."""
    mixer = look.layer.mixer
    if not isinstance(mixer, DifferentialAttention) or look.part != "mixer" or look.weights_BHTS is None:
        return None
    first_HTS, second_HTS = look.weights_BHTS[0].double().cpu().chunk(2)
    return first_HTS - share_of_second(look.module, mixer.first_lambda(look.layer.index)) * second_HTS


def share_of_second(module: nn.Module, start: float) -> float:
    """Lambda of a differential attention: exp(q1 . k1) - exp(q2 . k2) + its first value."""
    q1, k1, q2, k2 = (
        module.get_parameter(f"lambda_{name}").detach().double() for name in ("q1", "k1", "q2", "k2")
    )
    return float((q1 * k1).sum().exp() - (q2 * k2).sum().exp()) + start


def cells_of(weights_TS: Tensor, allowed_TS: Tensor, *, side: int) -> Cells:
    """A map as lists of rows: each cell the weight of a run of keys, as a mean over a run of queries.

    So rows still sum to what they summed to, one where there is no sink. None where no pair of a cell is visible, and
    where a weight is no number.
    """
    weights = weights_TS.detach().double().cpu()
    keys = _summed(weights, side, dim=1)
    rows = _summed(keys, side, dim=0) / _summed(torch.ones(len(weights), 1, dtype=torch.float64), side, dim=0)
    seen = _summed(_summed(allowed_TS.cpu().double(), side, dim=1), side, dim=0) > 0
    found: Cells = []
    for row, visible in zip(rows, seen, strict=True):
        values = (float(value) if flag else None for value, flag in zip(row, visible, strict=True))
        found.append([None if value is None or value != value else round(value, _PLACES) for value in values])
    return found


def _summed(x: Tensor, side: int, *, dim: int) -> Tensor:
    """Sums over runs of equal length along one axis, the last perhaps shorter, so that `side` of them or fewer are
    left.
    """
    length = x.shape[dim]
    run = -(-length // side)
    place = torch.arange(length) // run
    shape = list(x.shape)
    shape[dim] = -(-length // run)
    return torch.zeros(shape, dtype=x.dtype).index_add_(dim, place, x)


def run_of(length: int, side: int) -> int:
    """Tokens behind each cell along a side."""
    return -(-length // side)


def map_record(path: str, head: int | None, which: str | None, kind: str, cells: Cells) -> dict[str, Any]:
    """One map as JSON data."""
    return {"path": path, "head": head, "map": which, "kind": kind, "cells": cells}
