"""What a hook sees of a sample, and what it may give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

IGNORED = -100
"""A target that counts nothing."""
CHANGEABLE = ("inputs", "targets")
"""What a hook may give back; documents decide what attends to what, and belong to the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSample:
    """A sample as a hook sees it. The arrays are read-only, and as long as the run's context."""

    inputs: np.ndarray
    """Tokens, int64 [T]; the separator at padding."""
    targets: np.ndarray
    """The token after each, int64 [T]; -100 where there is none to be predicted."""
    documents: np.ndarray
    """Which document of its source each token is of, int64 [T]; a separator is of the one it ends, -1 is padding."""
    crosses: np.ndarray
    """Whether the target is of the next document, bool [T]."""
    sample_id: int
    """Its number in an epoch."""
    epoch: int
    source: str
    """Where its documents are from."""
    eos_id: int
    """The separator, which ends each document."""
    vocab_size: int
    """The architecture's: tokens are below it."""
    data_vocab_size: int
    """That of the data: ids from it on stand for nothing in the data."""


HookFunction: TypeAlias = "Callable[..., Mapping[str, Any]]"
"""`hook(sample, draw, **options)` gives new arrays by name: `inputs`, `targets` or both. draw: a numpy Generator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A hook that was found, and how it is called."""

    name: str
    """The function's, or the one it is registered under."""
    use: str
    """What `train.preprocess` calls it."""
    function: HookFunction
    options: Mapping[str, Any]
    sha256: str | None
    """Of its source; None for a built-in one, whose name stands for what it does."""
    source: bytes | None
    """The file that the function is in; None for a built-in one."""
    occurrence: int
    """How many hooks of this name come before it."""
