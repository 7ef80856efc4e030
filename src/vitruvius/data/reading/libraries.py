"""Packages of the `data` extra, imported when the first file that needs them is read."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from vitruvius.data.extras import require


@cache
def library(name: str) -> Any:
    """The module of that name; these packages have no types of their own.

    Raises:
        MissingExtraError: the package is not installed.
    """
    require(name.partition(".")[0])
    return importlib.import_module(name)
