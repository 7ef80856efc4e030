"""The optional packages of this floor, asked for in one place."""

from __future__ import annotations

import importlib.util

from vitruvius.errors import MissingExtraError

_EXTRAS = {"numpy": "run", "tokenizers": "run", "datatrove": "cluster"}
"""The smallest extra that brings a package; `data` has the others."""


def require(*modules: str) -> None:
    """Check that `modules` can be imported, without importing them.

    Raises:
        MissingExtraError: names the first that is missing and the extra that brings it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(_EXTRAS.get(module, "data"), module)
