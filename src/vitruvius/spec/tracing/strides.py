"""Which reshapes of a tensor are views of its memory: torch's own rules, in whole numbers."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of numbers in order, the last axis fastest."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the numbers lie in order; axes of size 1 may have any stride."""
    expected = dense(shape)
    return prod(shape) == 0 or all(
        size == 1 or step == due for size, step, due in zip(shape, strides, expected, strict=True)
    )


def viewed(shape: Sequence[int], strides: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of a view in another shape, or None where the numbers would have to be copied.

    Source: computeStride in PyTorch's ATen/TensorUtils.cpp: runs of axes that lie in order are cut anew.
    """
    if prod(shape) == 0:
        return dense(new)
    found = [0] * len(new)
    at = len(new) - 1
    base, run, filled = (strides[-1] if strides else 1), 1, 1
    for axis in range(len(shape) - 1, -1, -1):
        run *= shape[axis]
        ends = axis == 0 or (shape[axis - 1] != 1 and strides[axis - 1] != run * base)
        if not ends:
            continue
        while at >= 0 and (filled < run or new[at] == 1):
            found[at] = filled * base
            filled *= new[at]
            at -= 1
        if filled != run:
            return None
        if axis > 0:
            base, run, filled = strides[axis - 1], 1, 1
    if not shape:
        return tuple(1 for _ in new)
    return tuple(found) if at == -1 else None
