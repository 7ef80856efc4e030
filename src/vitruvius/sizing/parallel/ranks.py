"""What one rank of a parallel run stores: weights, gradients and optimizer states, tensor by tensor.

With AdamW, bf16 weights and gradients, fp32 masters and moments (2 + 2 + 12 bytes a parameter), a parameter that N data
ranks copy takes 16 bytes on each without sharding, 4 + 12/N under ZeRO-1, 2 + 14/N under ZeRO-2 and 16/N under ZeRO-3
(Rajbhandari et al., 2020). ZeRO-1 and 2 deal out the flat vector of all parameters; ZeRO-3 is counted as FSDP2 stores
it, rows of each tensor, so that a tensor with few rows does not divide evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.sizing.parallel.sharding import Part, end_parts, layer_parts, outside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vitruvius.sizing.workload import Optimizer
    from vitruvius.spec.costs import TensorSpec
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.layer import Layer, Stack

Zero = Literal[0, 1, 2, 3]
"""What data ranks divide: nothing (DDP), optimizer states, gradients too, weights too (FSDP)."""


def optimizer_bytes(count: int, optimizer: Optimizer, value_bytes: int, *, role: Literal["matrix", "rest"]) -> int:
    """Bytes of masters and moments for `count` numbers of one tensor, as `sizing.updates` counts whole models.

    8-bit moments have a scale for each block of 256, and stay in fp32 below 4,096 numbers.
    """
    if optimizer == "adamw-bf16":
        return 2 * value_bytes * count
    masters = 4 * count if value_bytes < 4 else 0
    if optimizer == "adamw-8bit":
        return masters + (2 * (count + 4 * -(-count // 256)) if count >= 4096 else 8 * count)
    return masters + (4 if optimizer == "muon" and role == "matrix" else 8) * count


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Bytes that a rank keeps from step to step."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    gathered: int = 0
    """Room for the gradients of the largest layer until they are divided (ZeRO-2), and for its weights whole and those
    of the next one on its way (ZeRO-3)."""
    parameters: int = 0
    """Parameters of this rank's tensors before data ranks divide them."""
    experts: int = 0
    """Of those, in experts."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.gathered

    def __add__(self, other: Stored) -> Stored:
        """Both; what is gathered is gathered for one at a time, so that the larger counts."""
        return Stored(
            weights=self.weights + other.weights,
            gradients=self.gradients + other.gradients,
            optimizer=self.optimizer + other.optimizer,
            gathered=max(self.gathered, other.gathered),
            parameters=self.parameters + other.parameters,
            experts=self.experts + other.experts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Storing:
    """How data ranks store their copies of the same tensors."""

    dense: int
    """Data ranks with copies of what is no expert."""
    experts: int
    """Data ranks with copies of the same experts: fewer, because ranks with other experts are no copies."""
    zero: Zero
    optimizer: Optimizer
    value_bytes: int
    """Of a weight."""
    sums: Literal["none", "fp32"]
    """Whether gradients of several micro-batches are added up in fp32, beside the gradient of the last."""
    average: Literal["none", "fp32"] = "none"
    """Whether an average of the weights is kept beside the masters, divided as they are."""

    @property
    def gradient_bytes(self) -> int:
        """Of a gradient."""
        return self.value_bytes + (4 if self.sums == "fp32" else 0)


def stored(parts: Mapping[str, Part], how: Storing, matrices: Collection[str]) -> Stored:
    """What a rank keeps of tensors that are gathered together (a layer, or one that stands outside the layers).

    `matrices` names those whose optimizer may be Muon.
    """
    weights = gradients = state = whole = parameters = experts = 0
    for name, part in parts.items():
        ranks = how.experts if part.is_expert else how.dense
        rows, flat = part.stored_over(ranks), -(-part.count // ranks)
        weights += how.value_bytes * (rows if how.zero == 3 else part.count)
        gradients += how.gradient_bytes * (part.count, part.count, flat, rows)[how.zero]
        kept = (part.count, flat, flat, rows)[how.zero]
        role = "matrix" if name in matrices else "rest"
        state += optimizer_bytes(kept, how.optimizer, how.value_bytes, role=role)
        state += 4 * kept if how.average == "fp32" else 0
        whole += part.count if ranks > 1 else 0
        parameters += part.count
        experts += part.count if part.is_expert else 0
    gathered = whole * how.value_bytes * (0, 0, 1, 3)[how.zero]
    return Stored(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        gathered=gathered,
        parameters=parameters,
        experts=experts,
    )


class Shelf:
    """Everything that ranks store of one model, each kind of layer counted once."""

    def __init__(
        self,
        graph: Graph,
        how: Storing,
        matrices: Collection[str],
        *,
        tensor: int,
        expert: int,
        ends: Mapping[str, TensorSpec] | None = None,
    ) -> None:
        """`ends` are the tensors outside the layers, where they are known already."""
        ends = outside(graph) if ends is None else ends
        self._graph = graph
        self._degrees = (tensor, expert)
        self._how = how
        self._known: dict[tuple[Stack, str], Stored] = {}
        self._matrices = matrices
        self._ends: dict[str, Stored] = {
            name: stored({name: part}, how, self._matrices) for name, part in end_parts(ends, tensor=tensor).items()
        }

    def layer(self, layer: Layer) -> Stored:
        """A layer with weights of its own."""
        key = (layer.stack, layer.name)
        if key not in self._known:
            tensor, expert = self._degrees
            parts = layer_parts(layer, tensor=tensor, expert=expert)
            path = layer.stack.value.format(index=layer.weights)
            self._known[key] = stored({f"{path}.{n}": part for n, part in parts.items()}, self._how, self._matrices)
        return self._known[key]

    def stage(self, layers: Iterable[Layer], *, is_first: bool, is_last: bool) -> Stored:
        """Layers that stand on one rank, weights that they share once, and what stands before or after all layers."""
        layers = list(layers)
        owners = {(layer.stack, layer.weights): layer for layer in layers}
        total = Stored()
        for layer in owners.values():
            total += self.layer(layer)
        for name, kept in self._ends.items():
            if self._stands_here(name, is_first=is_first, is_last=is_last):
                total += kept
        return total

    def _stands_here(self, name: str, *, is_first: bool, is_last: bool) -> bool:
        """Where a tensor outside the layers is stored; a tied table, at both ends of a pipeline."""
        if name.startswith("embedding."):
            tied = name == "embedding.tokens.weight" and "head.weight" not in self._ends
            reads_again = bool(self._graph.mtp) and name == "embedding.tokens.weight"
            return is_first or (is_last and (tied or reads_again))
        if name.startswith(("encoder.", "streams.")):
            return is_first
        return is_last
