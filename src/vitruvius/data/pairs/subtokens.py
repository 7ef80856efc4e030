"""The parts of a name."""

from __future__ import annotations

import re

_SUBTOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+|[^\w\s]")


def subtokens(text: str) -> list[str]:
    """The parts of a name or text, in lower case: at underscores, humps and digits; a sign is one by itself."""
    return [part.lower() for part in _SUBTOKEN.findall(text)]
