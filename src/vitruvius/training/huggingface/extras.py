"""transformers, asked for in one place."""

from __future__ import annotations

import importlib.util

from vitruvius.errors import MissingExtraError


def require_transformers() -> None:
    """Raise MissingExtraError, in a line that names the extra, where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("hf", "transformers")
