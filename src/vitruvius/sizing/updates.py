"""What an optimizer keeps of each parameter, and what its step takes besides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from vitruvius.spec.widen import weights as placed_weights

if TYPE_CHECKING:
    from vitruvius.sizing.workload import Optimizer
    from vitruvius.spec.costs import TensorSpec
    from vitruvius.spec.graph import Graph

CHUNK = 1 << 18
"""Numbers that AdamW updates at a time; `vitruvius.training.master` says why."""
_BLOCK_8BIT, _LEAST_8BIT = 256, 4096
_STEP_8BIT = 24
"""Bytes for each number of a chunk in a step of 8-bit AdamW on a CPU: its gradient, both moments and two temporaries in
fp32, and four bytes of packing, by measurement of bitsandbytes 0.50. Its kernel for CUDA takes the gradient alone."""
_FP32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerMemory:
    """Bytes of an optimizer over all trained parameters."""

    masters: int
    """fp32 copies of weights in a narrower format."""
    states: int
    """Moments."""
    scratch: int
    """The most that a step takes besides, at any moment."""
    formula: str
    """Of masters and states."""

    def with_average(self, count: int) -> OptimizerMemory:
        """The same, and an fp32 average of so many weights."""
        return replace(self, states=self.states + _FP32 * count, formula=f"{self.formula}; 4 N (fp32 average)")

    @property
    def total(self) -> int:
        """What stays from step to step."""
        return self.masters + self.states


def optimizer_memory(
    graph: Graph, optimizer: Optimizer, value_bytes: int, *, is_summed: bool = False
) -> OptimizerMemory:
    """Masters, moments and scratch where weights and gradients are numbers of `value_bytes`.

    is_summed: gradients are fp32 sums over micro-batches.
    """
    tensors = graph.tensors()
    count = sum(tensor.count for tensor in tensors.values())
    masters = _FP32 * count if value_bytes < _FP32 else 0
    largest = max((tensor.count for tensor in tensors.values()), default=0)
    # The norm of all gradients is taken in fp32, one tensor at a time; then AdamW reads a chunk at a time.
    in_chunks = _FP32 * (largest if value_bytes < _FP32 and not is_summed else min(CHUNK, largest))
    with_masters = "4 N (fp32 masters) + " if masters else ""
    match optimizer:
        case "adamw":
            formula = f"{with_masters}8 N (two fp32 moments), N = {count:,}"
            return OptimizerMemory(masters=masters, states=8 * count, scratch=in_chunks, formula=formula)
        case "muon":
            matrices = {name for name, weight in placed_weights(graph).items() if weight.is_hidden_matrix}
            of_muon = sum(tensors[name].count for name in matrices)
            scratch = max(
                (_orthogonalising(tensors[name], _FP32 if is_summed else value_bytes) for name in matrices), default=0
            )
            formula = f"{with_masters}4 M (one fp32 momentum, M = {of_muon:,} in matrices) + 8 (N - M), N = {count:,}"
            states = _FP32 * of_muon + 8 * (count - of_muon)
            return OptimizerMemory(masters=masters, states=states, scratch=max(scratch, in_chunks), formula=formula)
        case "adamw-8bit":
            states = sum(_in_8_bits(tensor) for tensor in tensors.values())
            formula = (
                f"{with_masters}2 N (two 8-bit moments) + 8 N / 256 (their absmax), fp32 below 4,096 numbers, "
                f"N = {count:,}"
            )
            scratch = max(in_chunks, _STEP_8BIT * min(CHUNK, largest))
            return OptimizerMemory(masters=masters, states=states, scratch=scratch, formula=formula)
        case "adamw-bf16":
            formula = f"{2 * value_bytes} N (two moments in the weights' format), N = {count:,}"
            return OptimizerMemory(masters=0, states=2 * value_bytes * count, scratch=0, formula=formula)


def _in_8_bits(tensor: TensorSpec) -> int:
    """Two moments of a tensor in bitsandbytes' blockwise 8 bits (Dettmers et al., 2022).

    A byte per number, and for each block of 256 its largest absolute value in fp32; tensors of fewer than 4,096
    numbers stay in fp32 (`min_8bit_size`).
    """
    if tensor.count < _LEAST_8BIT:
        return 2 * _FP32 * tensor.count
    return 2 * (tensor.count + _FP32 * -(-tensor.count // _BLOCK_8BIT))


def _orthogonalising(tensor: TensorSpec, value_bytes: int) -> int:
    """The most that `vitruvius.training.muon` takes for a matrix, or a stack of them."""
    count, (rows, columns) = tensor.count, tensor.shape[-2:]
    gram = prod(tensor.shape[:-2]) * min(rows, columns) ** 2
    narrow = 2
    reading = (2 if value_bytes < _FP32 else 1) * _FP32 * count
    held = 2 * _FP32 * count
    inside = (
        (_FP32 + narrow) * count,  # the normalised direction, and that in bf16
        2 * narrow * count + 4 * narrow * gram,  # x, a x, and products of x x' with itself
        3 * narrow * count + 2 * narrow * gram,
        4 * narrow * count + narrow * gram,  # x, a x, the product with x, their sum
        (narrow + _FP32) * count,
    )
    return max(reading, held + max(inside))
