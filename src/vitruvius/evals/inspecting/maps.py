"""Attention weights as small matrices of plain numbers: binned where they are many, null where nothing is visible."""

from __future__ import annotations

from math import isnan
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
        half = range(heads // 2)
        return [*((head, "first") for head in half), *((head, "second") for head in half)]
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
    q1, k1, q2, k2 = (module.get_parameter(f"lambda_{name}").detach().double() for name in ("q1", "k1", "q2", "k2"))
    return float((q1 * k1).sum().exp() - (q2 * k2).sum().exp()) + start


def cells_of(weights_TS: Tensor, allowed_TS: Tensor, *, side: int) -> Cells:
    """A map as lists of rows: each cell the weight of a run of keys, as a mean over a run of queries.

    So rows still sum to what they summed to, one where there is no sink. None where no pair of a cell is visible, and
    where a weight is no number.
    """
    queries, keys = (run_of(length, side) for length in weights_TS.shape)
    weights = _summed(weights_TS.detach().double().cpu(), queries, keys)
    full = _summed(torch.ones(len(weights_TS), 1, dtype=torch.float64), queries, 1)
    seen = _summed(allowed_TS.cpu().double(), queries, keys) > 0
    return [
        [round(value, _PLACES) if flag and not isnan(value) else None for value, flag in zip(row, flags, strict=True)]
        for row, flags in zip((weights / full).tolist(), seen.tolist(), strict=True)
    ]


def _summed(x: Tensor, rows: int, columns: int) -> Tensor:
    """Sums over blocks of a matrix; those at the end may be smaller."""
    height, width = (-(-length // run) * run for length, run in zip(x.shape, (rows, columns), strict=True))
    padded = torch.nn.functional.pad(x, (0, width - x.shape[1], 0, height - x.shape[0]))
    return padded.unflatten(0, (-1, rows)).unflatten(2, (-1, columns)).sum((1, 3))


def run_of(length: int, side: int) -> int:
    """Tokens behind each cell along a side."""
    return -(-length // side)


def map_record(path: str, head: int | None, which: str | None, kind: str, cells: Cells) -> dict[str, Any]:
    """One map as JSON data."""
    return {"path": path, "head": head, "map": which, "kind": kind, "cells": cells}
