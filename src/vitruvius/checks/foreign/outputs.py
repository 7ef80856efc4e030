"""Logits and caches, wherever a model puts them: a tensor, an attribute, a dictionary, a tuple."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGITS = ("logits", "prediction_logits", "lm_logits")
"""Names under which models return logits."""
HIDDEN = ("last_hidden_state",)
"""Names under which a body without a head returns what a head would read."""
_DEEP = 2
_SHOWN = 6


class NoLogitsError(Exception):
    """A forward pass returned nothing that could be one row of logits per token."""


def logits_in(output: object, batch: int, time: int, vocab_size: int) -> Tensor:
    """The logits [batch, time, *] in whatever a forward pass returned.

    Raises NoLogitsError, saying what came instead, when there is no floating-point tensor of that shape.
    """
    named = named_in(output, LOGITS)
    if isinstance(named, Tensor):
        return _rows(named, batch, time, vocab_size)
    hidden = named_in(output, HIDDEN)
    if isinstance(hidden, Tensor):
        return _rows(hidden, batch, time, vocab_size)
    found = [tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.dim() > 0]
    for fits in (
        [tensor for tensor in found if tuple(tensor.shape) == (batch, time, vocab_size)],
        [tensor for tensor in found if tensor.dim() == 3 and tensor.shape[:2] == (batch, time)],
        found,
    ):
        if fits:
            return _rows(fits[0], batch, time, vocab_size)
    if any(True for _ in tensors_in(output)):
        raise NoLogitsError(f"forward returned {described(output)}: no floating-point tensor that could be logits")
    raise NoLogitsError(f"forward returned {described(output)}: no tensor")


def _rows(found: Tensor, batch: int, time: int, vocab_size: int) -> Tensor:
    if found.dim() == 3 and found.shape[:2] == (batch, time) and found.is_floating_point():
        return found
    shape = tuple(found.shape)
    due = f"tokens [{batch}, {time}] gave {list(shape)}"
    if not found.is_floating_point():
        raise NoLogitsError(f"{due} of {found.dtype}: token ids or classes, not logits")
    if shape == (batch, vocab_size, time):
        raise NoLogitsError(f"{due}: the vocabulary is axis 1, and belongs last")
    if shape == (time, batch, vocab_size):
        raise NoLogitsError(f"{due}: time comes first, and the batch belongs there")
    if shape == (batch, 1, vocab_size):
        raise NoLogitsError(f"{due}: the last position alone")
    if shape == (batch * time, vocab_size):
        raise NoLogitsError(f"{due}: batch and time are one axis")
    raise NoLogitsError(f"{due}: not one row of logits per token")


def named_in(output: object, names: tuple[str, ...]) -> Any:
    """The first of the names that a mapping or an object holds with a value; None without one."""
    for name in names:
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if value is not None and not callable(value):
            return value
    return None


def cache_in(output: object, name: str) -> Any:
    """The decode cache that came with the logits: by its name, else what a tuple holds behind its tensors."""
    found = named_in(output, (name,))
    if found is not None or not isinstance(output, tuple | list):
        return found
    rest = [part for part in output if part is not None and not isinstance(part, Tensor)]
    return rest[0] if rest else None


def tensors_in(output: object, depth: int = 0) -> Iterator[Tensor]:
    """Every tensor of an output, two containers deep."""
    if isinstance(output, Tensor):
        yield output
    elif depth < _DEEP and isinstance(output, Mapping):
        yield from chain.from_iterable(tensors_in(part, depth + 1) for part in output.values())
    elif depth < _DEEP and isinstance(output, tuple | list):
        yield from chain.from_iterable(tensors_in(part, depth + 1) for part in output)


def described(output: object, depth: int = 0) -> str:
    """`tuple(Tensor[2, 8], None)`: what a forward pass returned, in a few words."""
    if isinstance(output, Tensor):
        return f"Tensor{list(output.shape)} of {str(output.dtype).removeprefix('torch.')}"
    if depth < _DEEP and isinstance(output, Mapping):
        parts = [f"{str(key)[:40]}: {described(value, depth + 1)}" for key, value in list(output.items())[:_SHOWN]]
        return f"{type(output).__name__}({', '.join(parts)})"
    if depth < _DEEP and isinstance(output, tuple | list):
        return f"{type(output).__name__}({', '.join(described(part, depth + 1) for part in output[:_SHOWN])})"
    return "None" if output is None else type(output).__name__
