"""What one rank stores where DeepSpeed's ZeRO divides, as DeepSpeed 0.19 lays it out and our engine tells it.

Stage 2 lays the tensors of each group of the optimizer end to end, pads that to twice the ranks, and deals out equal
parts: of masters and moments, and of gradients in fp32, into which several micro-batches are summed. Weights in fp32
have a master beside them. Gradients travel through a bucket in the format of the weights, and are summed in fp32.
Stage 3 deals out each tensor, rounded up, and keeps sums of gradients in fp32 and a bucket in fp32 from step to step.

Source: Rajbhandari et al., 2020, for what is divided; DeepSpeed 0.19.8 for how, which a test holds to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from vitruvius.sizing.parallel.ranks import Stored

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vitruvius.spec.graph import Graph

BUCKET = 1 << 23
"""Elements that the engine lets travel together at most (`reduce_bucket_size` and `allgather_bucket_size`)."""
PREFETCH = 50_000_000
"""Elements of weights that stage 3 gathers ahead of what computes (DeepSpeed's `stage3_prefetch_bucket_size`)."""
SUM_BYTES = 4
"""Gradients are summed, and divided ones kept, in fp32."""
_STATE_BYTES = 12
"""Master and two moments."""
_ALIGNED = 2
"""Elements to which each part begins."""


def bucket_of(parameters: int, *, most: int = BUCKET) -> int:
    """Elements of the bucket of a model with so many parameters: even, and at least 2."""
    wanted = min(most, parameters)
    return max(2, wanted + wanted % 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSpeed:
    """A model as DeepSpeed divides it among data ranks."""

    groups: tuple[tuple[int, ...], ...]
    """Elements of the tensors of each group that the optimizer makes, in their order."""
    unit: int
    """Elements of the largest layer, or of a larger tensor outside them: what is whole together under stage 3."""
    stages: frozenset[Literal[2, 3]]
    """Stages that are DeepSpeed's in a search; another engine has the others."""
    bucket: int

    @classmethod
    def of(
        cls, graph: Graph, groups: Sequence[Sequence[str]], *, stages: Collection[Literal[2, 3]], most: int = BUCKET
    ) -> DeepSpeed:
        """A graph whose tensors the optimizer groups by these names. most: elements that travel together."""
        counts = {name: tensor.count for name, tensor in graph.tensors().items()}
        inside: dict[str, int] = {}
        for layer in graph.every_layer():
            prefix = f"{layer.path}."
            inside[prefix] = sum(count for name, count in counts.items() if name.startswith(prefix))
        return cls(
            groups=tuple(tuple(counts[name] for name in names) for names in groups if names),
            unit=max([*inside.values(), *(count for count in counts.values())], default=0),
            stages=frozenset(stages),
            bucket=bucket_of(sum(counts.values()), most=most),
        )

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return sum(sum(group) for group in self.groups)

    def stored(self, *, stage: Literal[2, 3], ranks: int, value_bytes: int, pieces: int) -> Stored:
        """What the rank that holds most keeps, AdamW's state included. pieces: micro-batches of a step.

        `gathered` is the bucket, and what may stand beside it: an upper bound.
        """
        flat = [_padded(sum(group), ranks) // ranks for group in self.groups]
        if stage == 3:
            return self._third(ranks, value_bytes)
        gradients = SUM_BYTES * sum(flat)
        if value_bytes == SUM_BYTES:
            # Tensors that a part has anything of are kept whole, and those of a piece beside the sum.
            touched = sum(_touched(group, part, ranks) for group, part in zip(self.groups, flat, strict=True))
            gradients = value_bytes * touched * (1 if pieces == 1 else 2)
        return Stored(
            weights=value_bytes * ranks * sum(flat),
            gradients=gradients,
            optimizer=_STATE_BYTES * sum(flat),
            gathered=self._moving(value_bytes, max(flat)),
            parameters=self.parameters,
        )

    def _moving(self, value_bytes: int, part: int) -> int:
        """Under stage 2, in the backward pass: the bucket, its fp32 copy, and the gradient on its way there.

        A tensor that is larger than the bucket goes by itself. With fp32 weights the step copies a part of gradients.
        """
        largest = max(max(group) for group in self.groups)
        sent = max(largest, self.bucket)
        wide = 0 if value_bytes == SUM_BYTES else SUM_BYTES
        backward = value_bytes * (self.bucket + sent + largest) + wide * sent
        return max(backward, SUM_BYTES * part if value_bytes == SUM_BYTES else 0)

    def _third(self, ranks: int, value_bytes: int) -> Stored:
        parts = [sum(-(-count // ranks) for count in group) for group in self.groups]
        largest = max(max(group) for group in self.groups)
        whole = value_bytes * (self.unit + min(PREFETCH, self.parameters))
        backward = whole + value_bytes * largest + 2 * SUM_BYTES * max(largest, self.bucket)
        step = SUM_BYTES * max(parts)
        return Stored(
            weights=value_bytes * sum(parts),
            gradients=SUM_BYTES * sum(parts),
            optimizer=_STATE_BYTES * sum(parts),
            gathered=SUM_BYTES * self.bucket + max(backward, step),
            parameters=self.parameters,
        )


def _padded(elements: int, ranks: int) -> int:
    """A group laid end to end, with what is added so that all parts are equal and aligned."""
    each = _ALIGNED * ranks
    return -(-elements // each) * each


def _touched(group: Sequence[int], part: int, ranks: int) -> int:
    """Elements of the tensors that a part has anything of, in the part where they are most."""
    ends = list(accumulate(group))
    return max(
        sum(size for size, end in zip(group, ends, strict=True) if end > low and end - size < low + part)
        for low in range(0, part * ranks, part)
    )
