"""From a spec to a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.errors import UsageError
from vitruvius.nn.inits import initialise
from vitruvius.nn.model import Model
from vitruvius.nn.registry import Factory
from vitruvius.spec import ensure

if TYPE_CHECKING:
    from vitruvius.spec import Architecture

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Number formats a model can be built in, by the names that `size` uses."""


def build(
    architecture: Architecture,
    *,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Model:
    """A plain torch module with its first weights drawn; on the `meta` device nothing is allocated or drawn.

    Raises SpecError when the architecture does not fit together, UsageError for an unknown dtype.
    """
    graph = ensure(architecture)
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise UsageError(f"there is no number format {dtype!r}", fix=f"use one of {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    model = Model(graph, Factory(device=torch.device(device), dtype=dtype))
    if model.device.type != "meta":
        initialise(model, seed)
    return model
