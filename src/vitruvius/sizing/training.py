"""What a training step takes of a device's allocator, moment by moment; no torch.

    memory = training_memory(resolve(architecture), Workload(mode="train", batch=4, context=1024))
    memory.peak, memory.highest.name

It follows `vitruvius train`: weights in the workload's format, fp32 masters and moments, gradients in the weights'
format, activations as docs/adr/0014-activation-memory.md has them. Held against the allocator by bench/memory.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError
from vitruvius.sizing.formats import BYTES_PER_VALUE, weight_format
from vitruvius.sizing.fragmentation import margin_of
from vitruvius.sizing.levels import Levels, levels_of
from vitruvius.sizing.parts import Part
from vitruvius.sizing.updates import OptimizerMemory, optimizer_memory
from vitruvius.spec.costs import Work
from vitruvius.spec.tracing.activity import steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.costs import Documents
    from vitruvius.spec.graph import Graph

__all__ = ["Part", "StepMoment", "TrainingMemory", "training_memory"]

_FP32 = 4
_STEP = 8
"""Bytes of the count of updates, which a checkpoint has too."""
_IDS = 8
"""Bytes of a token's id, and of its target's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMoment:
    """One moment of a step, in bytes: what is there at its highest point."""

    name: str
    """`forward of layer 3`, `loss`, `backward of layer 3`, `adding gradients`, `update`."""
    held: int
    """Weights, masters, moments, buffers: what stays from step to step."""
    gradients: int
    """Of weights, in their format, and the fp32 sums over micro-batches."""
    saved: int
    """Kept between forward and backward pass."""
    transient: int
    """What else exists at that point."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.held + self.gradients + self.saved + self.transient


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """What one update takes, in bytes."""

    weights: int
    buffers: int
    """What is saved beside the parameters, in fp32: balancing biases of routers."""
    masters: int
    """fp32 copies of weights in a narrower format."""
    states: int
    """Moments of the optimizer, and the average of the weights where one is kept."""
    gradients: int
    """Of all weights in their format, and the fp32 sums over micro-batches where there are several."""
    saved: int
    """What is kept at the end of a forward pass, ids and tables that layers share included."""
    transient: int
    """The most that exists besides what is saved, held and accumulated, at the highest moment of the step."""
    activations: int
    """What the peak is above weights, buffers, masters, states and gradients: saved and transient, less gradients that
    do not exist yet at that moment."""
    peak: int
    """At the highest moment of a step, as the allocator counts it."""
    margin: int
    """What fragmentation may add, stated apart (`sizing.fragmentation`)."""
    unsure: int
    """How far `saved` may be off, for kinds without an account of their own."""
    moments: tuple[StepMoment, ...]
    """Of a step, in order of time."""
    source: _Step = field(repr=False, compare=False)
    """What it was read off."""

    @property
    def parts(self) -> Part:
        """Where the peak comes from: numbers with their formulas, and what they are made of."""
        return self.source.parts(self.highest)

    @property
    def optimizer(self) -> int:
        """Masters and moments."""
        return self.masters + self.states

    @property
    def checkpoint(self) -> int:
        """Bytes of the tensors in a checkpoint, and of the copy of them while it is written behind the run.

        An average is saved as a model of its own, with the buffers of this one.
        """
        averaged = self.source.workload.average != "none"
        return self.weights + self.buffers + self.masters + self.states + (self.buffers if averaged else 0) + _STEP

    @property
    def highest(self) -> StepMoment:
        """The moment of the peak."""
        return max(self.moments, key=lambda moment: moment.total)


def training_memory(
    graph: Graph, workload: Workload, *, threads: int = 1, documents: Documents = "joined"
) -> TrainingMemory:
    """What one update of a workload takes on a device that holds the whole model.

    threads: that compute, of a CPU. documents: `separate` where rows are packed with documents that do not see each
    other, whose masks depend on where they end: at most what is said, and `unsure` of it. In the modes `lora` and
    `qlora` the weights are frozen and no gradients, masters or states of theirs are counted, nor anything of the
    adapters. Raises UsageError when a quantised format is to be trained as it is, and for numbers below 1.
    """
    form = weight_format(workload.weights)
    if workload.mode == "train" and form.is_quantised:
        what = f"weights in {form.name} cannot be trained: they have no gradients"
        raise UsageError(what, fix=f"use bf16 or fp32, or train adapters beside them: mode qlora with {form.name}")
    _check(workload)
    trains = workload.mode in {"train", "inference"}
    value = BYTES_PER_VALUE[form.rest]
    work = Work(
        batch=workload.batch,
        tokens=graph.scope.context if workload.context is None else workload.context,
        value_bytes=value,
        attention=workload.attention,
        threads=threads,
        documents=documents,
        weights="trained" if trains else "frozen",
        half="fp16" if form.rest == "fp16" else "bf16",
        z_loss=workload.z_loss,
    )
    levels = levels_of(steps(graph, work, loss=workload.loss), checkpointing=workload.checkpointing)
    summed = workload.accumulate > 1
    optimizer = optimizer_memory(graph, workload.optimizer, value, is_summed=summed) if trains else _NONE
    if trains and workload.average == "fp32":
        optimizer = optimizer.with_average(sum(tensor.count for tensor in graph.tensors().values()))
    return _Step(graph, workload, work, levels, optimizer).memory()


_NONE = OptimizerMemory(masters=0, states=0, scratch=0, formula="none of frozen weights")


def _check(workload: Workload) -> None:
    for name, number in (("batch", workload.batch), ("context", workload.context), ("accumulate", workload.accumulate)):
        if number is not None and number < 1:
            raise UsageError(f"{name}={number} is out of range", fix="use a whole number from 1 on")


class _Step:
    """Puts the levels of a micro-batch on top of what stays, and the optimizer's step after them."""

    def __init__(
        self, graph: Graph, workload: Workload, work: Work, levels: Levels, optimizer: OptimizerMemory
    ) -> None:
        self.workload, self.work, self.levels, self.optimizer = workload, work, levels, optimizer
        tensors = graph.tensors()
        self.count = sum(tensor.count for tensor in tensors.values())
        self.largest = max((tensor.count for tensor in tensors.values()), default=0)
        self.weights = self.count * work.value_bytes
        self.buffers = 4 * sum(tensor.count for tensor in graph.buffers().values())
        self.held = self.weights + self.buffers + optimizer.total
        self.ids = _IDS * work.positions * (3 if graph.encoder else 1)
        """Targets, and the source beside the tokens, which are counted where they are kept."""
        self.sums = _FP32 * self.count if workload.accumulate > 1 and work.weights == "trained" else 0

    def moments(self) -> Iterator[StepMoment]:
        """Of the last micro-batch, when sums over those before are there, and of the update."""
        levels = self.levels
        for moment in levels.moments:
            yield StepMoment(
                name=moment.name,
                held=self.held,
                gradients=moment.gradients + self.sums,
                saved=moment.saved + self.ids,
                transient=moment.transient,
            )
        stays = levels.shared + self.ids
        if self.sums:
            cast = _FP32 * self.largest if self.work.value_bytes < _FP32 else 0
            both = levels.gradients + self.sums
            yield StepMoment(name="adding gradients", held=self.held, gradients=both, saved=stays, transient=cast)
        if levels.gradients:
            yield StepMoment(
                name="update",
                held=self.held,
                gradients=self.sums or levels.gradients,
                saved=stays,
                transient=self.optimizer.scratch,
            )

    def memory(self) -> TrainingMemory:
        """All of it."""
        moments = tuple(self.moments())
        highest = max(moments, key=lambda moment: moment.total)
        gradients = self.levels.gradients + self.sums
        passing = highest.total - self.held
        return TrainingMemory(
            weights=self.weights,
            buffers=self.buffers,
            masters=self.optimizer.masters,
            states=self.optimizer.states,
            gradients=gradients,
            saved=self.levels.saved + self.ids,
            transient=highest.transient,
            activations=max(0, passing - gradients),
            peak=highest.total,
            margin=margin_of(passing),
            unsure=self.levels.unsure,
            moments=moments,
            source=self,
        )

    def parts(self, highest: StepMoment) -> Part:
        """Where the level of a moment comes from."""
        n, value = f"{self.count:,}", self.work.value_bytes
        at = next((moment for moment in self.levels.moments if moment.name == highest.name), None)
        ids = Part(name="ids besides those kept", size=self.ids, formula=f"8 bytes x {self.work.positions:,} tokens")
        kept = () if at is None else (ids, *self.levels.parts_of(at))
        return Part(
            name="peak",
            size=highest.total,
            formula=f"at the moment: {highest.name}",
            parts=(
                Part(name="weights", size=self.weights, formula=f"{n} parameters x {value} bytes"),
                Part(name="buffers", size=self.buffers, formula="balancing biases in fp32"),
                Part(name="optimizer", size=self.optimizer.total, formula=self.optimizer.formula),
                Part(
                    name="gradients",
                    size=highest.gradients,
                    formula=f"of the weights whose part is done, x {value} bytes"
                    + (f"; fp32 sums over micro-batches, {n} x 4 bytes" if self.sums else ""),
                ),
                Part(
                    name="saved",
                    size=highest.saved,
                    formula="kept between forward and backward pass",
                    parts=kept,
                ),
                Part(name="transient", size=highest.transient, formula=f"the highest point of: {highest.name}"),
            ),
        )
