"""Memory and time of one parallel plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from vitruvius.errors import UsageError
from vitruvius.sizing.communication import step_seconds
from vitruvius.sizing.formats import weight_format
from vitruvius.sizing.fragmentation import margin_of
from vitruvius.sizing.parallel.messages import Messages
from vitruvius.sizing.parallel.ranks import Shelf, Stored, Storing
from vitruvius.sizing.parallel.sharding import outside
from vitruvius.sizing.parallel.stages import Layers, Shares, balanced, crossing
from vitruvius.sizing.training import training_memory
from vitruvius.spec.recomputing import share_again
from vitruvius.spec.widen import weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.sizing.communication import Message, Network
    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.parallel.deepspeed import DeepSpeed
    from vitruvius.sizing.parallel.degrees import Degrees, Schedule
    from vitruvius.sizing.training import TrainingMemory
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.layer import Layer

BACKWARD = 2
"""Operations of a backward pass for each of the forward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes on the rank that holds most."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    """Layers that FSDP puts together for the moment, and gradients of one until they are divided."""
    activations: int
    margin: int
    """What fragmentation may add to what comes and goes."""
    unsure: int
    """How far `activations` may be off, for kinds without an account of their own."""

    @property
    def peak(self) -> int:
        """At the highest moment."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations

    @property
    def total(self) -> int:
        """What the device must have free."""
        return self.peak + self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to train on a number of devices."""

    degrees: Degrees
    schedule: Schedule
    stages: tuple[tuple[int, int], ...]
    """First layer and the layer after the last, of each stage."""
    fullest: int
    """The stage whose ranks hold most."""
    memory: RankMemory
    """Of a rank of that stage."""
    available_bytes: int
    traffic: tuple[Message, ...]
    """Of a rank of the stage that sends longest; not counted where the plan does not fit."""
    computing_seconds: float
    """Of a step: the slowest stage, waiting of the pipeline included, and the optimizer."""
    waiting_seconds: float
    """For messages that are always waited for."""
    beside_seconds: float
    """Of messages that may run beside computing."""
    model_flops: float
    """Useful operations of a step, all devices together, without what checkpointing repeats."""
    tokens: int
    """Of a step: whole micro-batches on every rank."""
    peak_flops: float
    """Of all devices together."""

    @property
    def fits(self) -> bool:
        """Whether the fullest rank has room."""
        return self.memory.total <= self.available_bytes

    @property
    def step_seconds(self) -> float:
        """What to expect: messages that may run beside computing cost only what they take longer than it."""
        return self.computing_seconds + self.waiting_seconds + max(0.0, self.beside_seconds - self.computing_seconds)

    @property
    def best_seconds(self) -> float:
        """With every message beside computing."""
        return max(self.computing_seconds, self.waiting_seconds + self.beside_seconds)

    @property
    def worst_seconds(self) -> float:
        """With nothing beside anything."""
        return self.computing_seconds + self.waiting_seconds + self.beside_seconds

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together."""
        return self.tokens / self.step_seconds

    @property
    def utilisation(self) -> float:
        """Useful operations over the peak of all devices (model FLOPs utilisation)."""
        return self.model_flops / self.step_seconds / self.peak_flops

    @property
    def rank(self) -> tuple[float, int, int, int]:
        """What plans are sorted by: time of a token to the percent, then how simple they are, then memory."""
        each = self.step_seconds / self.tokens
        return (float(f"{each:.2e}"), self.degrees.kinds, int(self.degrees.zero), self.memory.total)


class _Cut(NamedTuple):
    ranges: tuple[range, ...]
    """Layers of each stage."""
    slowest: float
    """Forward operations of the slowest stage, one sequence."""


class Evaluation:
    """Counts plans of one architecture on one kind of device, and remembers what they have in common."""

    def __init__(
        self,
        graph: Graph,
        workload: Workload,
        device: Device,
        network: Network,
        *,
        deepspeed: DeepSpeed | None = None,
    ) -> None:
        """deepspeed: how its own stages are counted, where data ranks alone divide; all else is as in the paper.

        Raises UsageError for weights in a format that is not trained.
        """
        form = weight_format(workload.weights)
        if form.is_quantised:
            raise UsageError(f"{form.name} weights are not trained", fix="use bf16, fp16 or fp32")
        self.graph, self.workload, self.device, self.network = graph, workload, device, network
        self.deepspeed = deepspeed
        self._value_bytes = form.bits // 8
        self.tokens = workload.context or graph.scope.context
        self._peak = device.peak(form.name)
        self._layers: dict[int, Layers] = {}
        self._shelves: dict[tuple[object, ...], Shelf] = {}
        self._cuts: dict[tuple[object, ...], tuple[_Cut, ...]] = {}
        self._stored: dict[tuple[object, ...], list[Stored]] = {}
        self._held: dict[tuple[object, ...], list[int]] = {}
        self._bills: dict[tuple[object, ...], TrainingMemory] = {}
        self._matrices = frozenset(name for name, weight in weights(graph).items() if weight.is_hidden_matrix)
        self._ends = outside(graph)
        self._inner: dict[str, int] = {}
        self._buffers = 4 * sum(tensor.count for tensor in graph.buffers().values())
        self._forward = (graph.flops(self.tokens) + graph.mtp_flops(self.tokens)).useful

    def plan(self, degrees: Degrees, schedule: Schedule) -> Plan | None:
        """The plan of a schedule, cut by work, or by what layers store where only that fits; None without a cut."""
        first: Plan | None = None
        for cut in self._cut(degrees):
            plan = self._plan(degrees, schedule, cut)
            if first is None or (plan.fits and not first.fits):
                first = plan
        return first

    def verified(self, plan: Plan) -> Plan:
        """The plan, with what it stores counted once more from its tensors; AssertionError where that differs."""
        shelf = self._new_shelf(plan.degrees, _sums(plan.schedule))
        ranges = [range(start, stop) for start, stop in plan.stages]
        layers, last = self._on_stage(ranges, plan.fullest), len(ranges) - 1
        kept = self._by_deepspeed(plan.degrees, plan.schedule) or shelf.stage(
            layers, is_first=plan.fullest == 0, is_last=plan.fullest == last
        )
        m = plan.memory
        counted = (m.weights - self._buffers, m.gradients, m.optimizer, m.gathered)
        assert counted == (kept.weights, kept.gradients, kept.optimizer, kept.gathered), plan.degrees
        return plan

    # ------------------------------------------------------------------------------------------------------- cutting

    def _cut(self, degrees: Degrees) -> tuple[_Cut, ...]:
        """Stages of equal work, and stages of equal storage where those differ; none where layers cannot be parted."""
        key = (degrees.pipeline, degrees.tensor, degrees.context)
        if key not in self._cuts:
            self._cuts[key] = tuple(self._cuts_of(degrees))
        return self._cuts[key]

    def _cuts_of(self, degrees: Degrees) -> Iterator[_Cut]:
        layers, costs, p, t = self.graph.layers, self._costs(degrees.context), degrees.pipeline, degrees.tensor
        if p == 1:
            yield self._measured((range(len(layers)),), costs, t)
            return
        work = [costs.computing(layer).of(t) / degrees.context for layer in layers]
        ends = (costs.forward((), t, is_first=True, is_last=False), costs.forward((), t, is_first=False, is_last=True))
        shelf = self._shelf(replace(degrees, data=1, zero=0, expert=1, context=1), sums="none")
        kept = [float(shelf.layer(layer).total) for layer in layers]
        around = [float(shelf.stage((), is_first=first, is_last=not first).total) for first in (True, False)]
        known: set[tuple[range, ...]] = set()
        for each, (first, last) in ((work, ends), (kept, (around[0], around[1]))):
            ranges = tuple(balanced(each, p, first=first, last=last))
            if ranges not in known and not crossing(layers, ranges):
                known.add(ranges)
                yield self._measured(ranges, costs, t)

    def _measured(self, ranges: tuple[range, ...], costs: Layers, tensor: int) -> _Cut:
        p = len(ranges)
        times = [
            costs.forward(self._on_stage(ranges, stage), tensor, is_first=stage == 0, is_last=stage == p - 1)
            for stage in range(p)
        ]
        return _Cut(ranges=ranges, slowest=max(times))

    def _on_stage(self, ranges: Sequence[range], stage: int) -> list[Layer]:
        """Layers of the main stack on a stage, with those of the encoder on the first; MTP's are counted at the end."""
        layers = [self.graph.layers[index] for index in ranges[stage]]
        if stage == 0:
            layers = [*self.graph.encoder, *layers]
        return [*layers, *self.graph.mtp] if stage == len(ranges) - 1 else layers

    # -------------------------------------------------------------------------------------------------------- memory

    def _costs(self, context: int) -> Layers:
        if context not in self._layers:
            self._layers[context] = Layers(
                self.graph, self.workload, context_ranks=context, value_bytes=self._value_bytes
            )
        return self._layers[context]

    def _shelf(self, degrees: Degrees, sums: Literal["none", "fp32"]) -> Shelf:
        key = (replace(degrees, pipeline=1), sums)
        if key not in self._shelves:
            self._shelves[key] = self._new_shelf(degrees, sums)
        return self._shelves[key]

    def _new_shelf(self, degrees: Degrees, sums: Literal["none", "fp32"]) -> Shelf:
        copies = degrees.data * degrees.context
        how = Storing(
            dense=copies,
            experts=copies // degrees.expert,
            zero=degrees.zero,
            optimizer=self.workload.optimizer,
            value_bytes=self._value_bytes,
            sums=sums,
            average=self.workload.average,
        )
        return Shelf(self.graph, how, self._matrices, tensor=degrees.tensor, expert=degrees.expert, ends=self._ends)

    def _storage(self, degrees: Degrees, schedule: Schedule, cut: _Cut) -> list[Stored]:
        """What a rank of each stage keeps from step to step."""
        kept = self._by_deepspeed(degrees, schedule)
        if kept is not None:
            return [kept]
        sums = _sums(schedule)
        key = (degrees, sums, cut.ranges)
        if key not in self._stored:
            shelf, last = self._shelf(degrees, sums), len(cut.ranges) - 1
            self._stored[key] = [
                shelf.stage(self._on_stage(cut.ranges, stage), is_first=stage == 0, is_last=stage == last)
                for stage in range(last + 1)
            ]
        return self._stored[key]

    def is_deepspeeds(self, degrees: Degrees) -> bool:
        """Whether an arrangement is counted as DeepSpeed's."""
        alone = degrees.tensor == degrees.pipeline == degrees.expert == degrees.context == 1
        return self.deepspeed is not None and alone and degrees.data > 1 and degrees.zero in self.deepspeed.stages

    def _by_deepspeed(self, degrees: Degrees, schedule: Schedule) -> Stored | None:
        if not self.is_deepspeeds(degrees):
            return None
        assert self.deepspeed is not None
        return self.deepspeed.stored(
            stage=2 if degrees.zero == 2 else 3,
            ranks=degrees.data,
            value_bytes=self._value_bytes,
            pieces=schedule.micro_batches,
        )

    def _activations(self, degrees: Degrees, schedule: Schedule, cut: _Cut) -> list[int]:
        """What a rank of each stage holds for the micro-batches on their way, at its highest moment."""
        s, last = schedule, len(cut.ranges) - 1
        if self._is_whole(degrees):
            return [self._bill(schedule).activations]
        in_flight = tuple(min(last + 1 - stage, s.micro_batches) for stage in range(last + 1))
        growing = last == 0 and degrees.zero <= 1  # under 1F1B gradients are there from the first backward pass on
        divided = (degrees.tensor, degrees.context, s.sequence_parallel, growing)
        key = (cut.ranges, divided, s.micro_batch, s.checkpointing, in_flight)
        if key not in self._held:
            costs = self._costs(degrees.context)
            held: list[int] = []
            for stage, layers in enumerate(cut.ranges):
                saved, passing = costs.shares(
                    self._on_stage(cut.ranges, stage), degrees.tensor, s.sequence_parallel, s.checkpointing
                )
                shares = Shares(saved, passing, 1 / degrees.tensor if growing else None)
                held.append(
                    max(0, costs.held(layers, s.micro_batch, s.checkpointing).at_most(in_flight[stage], shares))
                )
            self._held[key] = held
        return self._held[key]

    @staticmethod
    def _is_whole(degrees: Degrees) -> bool:
        """Whether each rank takes what one device would: it has the whole model, gradients and all."""
        return degrees.tensor == degrees.pipeline == degrees.context == 1 and degrees.zero <= 1

    def _bill(self, schedule: Schedule) -> TrainingMemory:
        """Of one device that holds the whole model and the same micro-batch."""
        accumulate = 1 if schedule.micro_batches == 1 else 2
        key = (schedule.micro_batch, schedule.checkpointing, accumulate)
        if key not in self._bills:
            workload = replace(
                self.workload,
                context=self.tokens,
                batch=schedule.micro_batch,
                checkpointing=schedule.checkpointing,
                accumulate=accumulate,
            )
            self._bills[key] = training_memory(self.graph, workload)
        return self._bills[key]

    # ---------------------------------------------------------------------------------------------------------- plan

    def _plan(self, degrees: Degrees, schedule: Schedule, cut: _Cut) -> Plan:
        storage, held = self._storage(degrees, schedule, cut), self._activations(degrees, schedule, cut)
        unsure = self._costs(degrees.context).unsure(schedule.micro_batch)
        ranks = [self._rank(kept, active, unsure) for kept, active in zip(storage, held, strict=True)]
        fullest = max(range(len(ranks)), key=lambda stage: ranks[stage].total)
        fits = ranks[fullest].total <= self.device.usable_bytes
        traffic = self._traffic(degrees, schedule, cut, storage) if fits else ()
        waiting, beside = step_seconds(traffic, self.network)
        each = schedule.sequences(degrees)
        return Plan(
            degrees=degrees,
            schedule=schedule,
            stages=tuple((cut_.start, cut_.stop) for cut_ in cut.ranges),
            fullest=fullest,
            memory=ranks[fullest],
            available_bytes=self.device.usable_bytes,
            traffic=traffic,
            computing_seconds=self._computing(schedule, cut, storage, held),
            waiting_seconds=waiting,
            beside_seconds=beside,
            model_flops=float(self._forward) * (1 + BACKWARD) * each,
            tokens=each * self.tokens,
            peak_flops=self._peak * degrees.devices,
        )

    def _rank(self, kept: Stored, active: int, unsure: int) -> RankMemory:
        passing = active + kept.gradients + kept.gathered
        return RankMemory(
            weights=kept.weights + self._buffers,
            gradients=kept.gradients,
            optimizer=kept.optimizer,
            gathered=kept.gathered,
            activations=active,
            margin=margin_of(passing),
            unsure=unsure,
        )

    def _computing(self, schedule: Schedule, cut: _Cut, storage: list[Stored], held: list[int]) -> float:
        """Of the slowest stage: what its operations take, or the bytes they move; then the optimizer's bytes."""
        device = self.device
        again = share_again(schedule.checkpointing, len(self.graph.layers), len(self.graph.encoder))
        passes = 1 + BACKWARD + again
        most = max(range(len(storage)), key=lambda stage: storage[stage].parameters)
        kept = storage[most]
        moved = (2 + again) * kept.parameters * self._value_bytes + 2 * kept.gradients + 2 * held[most]
        flops_seconds = passes * cut.slowest * schedule.micro_batch / (self._peak * device.efficiency.compute)
        bytes_seconds = moved / (device.bandwidth * device.efficiency.bandwidth)
        turns = schedule.micro_batches + len(storage) - 1
        update = (2 * kept.optimizer + kept.gradients + kept.weights) / (device.bandwidth * device.efficiency.bandwidth)
        return max(flops_seconds, bytes_seconds) * turns + update

    def _traffic(self, degrees: Degrees, schedule: Schedule, cut: _Cut, storage: list[Stored]) -> tuple[Message, ...]:
        """The messages of the stage that sends longest: the first, the last, or the largest of those between."""
        last = len(storage) - 1
        inner = max(range(last + 1), key=lambda stage: storage[stage].parameters)
        found: list[tuple[float, tuple[Message, ...]]] = []
        for stage in sorted({0, last, inner, min(1, last)}):
            layers = self._on_stage(cut.ranges, stage)
            messages = Messages(
                self.graph,
                layers,
                degrees,
                schedule,
                stage=stage,
                per_node=self.network.per_node,
                value_bytes=self._value_bytes,
                inner=self._inner,
                by_deepspeed=self.is_deepspeeds(degrees),
            )
            kept = storage[stage]
            traffic = messages.all(kept.parameters - kept.experts, kept.experts)
            found.append((sum(step_seconds(traffic, self.network)), traffic))
        return max(found, key=lambda pair: pair[0])[1]


def _sums(schedule: Schedule) -> Literal["none", "fp32"]:
    """Gradients of several micro-batches are added up in fp32, as in the bill of one device."""
    return "fp32" if schedule.micro_batches > 1 else "none"
