"""An entry of `train.preprocess`: which hook, and how it is called. Imports nothing that a worker need not load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Len


@dataclass(frozen=True, slots=True, kw_only=True)
class HookUse:
    """A hook of `train.preprocess`, and how it is called."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    hook: Annotated[str, Len(1, 4096)]
    """A built-in one by its name, an installed one by that of its entry point, or `file.py:function`."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the function gets by name."""
    sha256: str | None = None
    """Of its source; filled in when the run starts. A hook with another source is refused."""
