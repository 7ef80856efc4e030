"""What a run will cost, before it is started: the resolved settings and the bill. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data import TokenShards, use_of
from vitruvius.sizing import size
from vitruvius.spec.writing import flow
from vitruvius.training.config import batches_of, to_plain
from vitruvius.training.preprocessing import find_hooks
from vitruvius.training.room import copy_of_run, memory_of_run, room_here
from vitruvius.training.shaping.costs import flops_of_run, schedule_lines
from vitruvius.training.timing import bounded, counts_of
from vitruvius.training.vocabulary import ensure_vocabulary
from vitruvius.units import format_bytes, format_count

if TYPE_CHECKING:
    from vitruvius.data import DataUse
    from vitruvius.sizing.hardware import Device
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.request import Request
    from vitruvius.training.timing import Estimate

PLAN_SCHEMA = "vitruvius.train-plan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run on paper."""

    name: str
    data: str
    out: str
    config: TrainConfig
    parameters_total: int
    parameters_active: int
    data_tokens: int
    """Tokens of the training split."""
    tokens_per_step: int
    tokens: int
    """Tokens of the whole run."""
    epochs: float
    """How often the run sees the data."""
    use: DataUse
    """Whose text it reads how often, and how samples are packed."""
    schedule: tuple[str, ...]
    """What changes in the architecture on the way, a line for each field."""
    flops: float
    """Useful floating-point operations of the whole run, forward and backward, without validation."""
    weights_and_optimizer_bytes: int
    """Weights, gradients, masters and moments."""
    activations_bytes: int
    """What a step takes besides, at its highest moment."""
    peak_bytes: int
    """Both: what torch's allocator holds at that moment."""
    unsure_bytes: int
    """How much less it may be: masks of packed documents depend on where they end."""
    highest_moment: str
    """When in a step that is."""
    copy_bytes: int
    """Main memory besides, from the first checkpoint on, where checkpoints are written behind the run."""
    available_bytes: int | None
    """What this machine has; None where that is not known, and for runs on a GPU."""
    time: Estimate | None
    """How long it takes; None where nobody asked."""

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable plan, schema `vitruvius.train-plan/1`."""
        return {
            "schema": PLAN_SCHEMA,
            "name": self.name,
            "data": self.data,
            "out": self.out,
            "train": to_plain(self.config),
            "parameters": {"total": self.parameters_total, "active": self.parameters_active},
            "data_tokens": self.data_tokens,
            "tokens_per_step": self.tokens_per_step,
            "tokens": self.tokens,
            "epochs": self.epochs,
            "use": self.use.to_dict(),
            "schedule": list(self.schedule),
            "flops": self.flops,
            "memory": {
                "weights_and_optimizer_bytes": self.weights_and_optimizer_bytes,
                "activations_bytes": self.activations_bytes,
                "peak_bytes": self.peak_bytes,
                "unsure_bytes": self.unsure_bytes,
                "highest_moment": self.highest_moment,
                "copy_bytes": self.copy_bytes,
                "available_bytes": self.available_bytes,
            },
            "time": None if self.time is None else self.time.to_dict(),
        }

    def to_text(self) -> str:
        """The plan for people."""
        lines = [
            f"{self.name} on {self.data} into {self.out}",
            f"  parameters   {self.parameters_total:,} total, {self.parameters_active:,} active",
            f"  tokens       {self.tokens:,} ({self.tokens_per_step:,} a step, {self.config.steps:,} steps)",
            f"  data         {self.data_tokens:,} tokens, seen {self.epochs:.2f} times",
            *(f"               {line}" for line in self.use.lines()),
            f"  compute      {format_count(self.flops)}FLOP, validation not counted",
            *(f"  schedule     {line}" for line in self.schedule),
            f"  memory       {format_bytes(self.peak_bytes)} at the highest moment ({self.highest_moment})",
            f"               {format_bytes(self.weights_and_optimizer_bytes)} of weights, gradients and optimizer",
        ]
        if self.copy_bytes:
            held = f"{format_bytes(self.copy_bytes)} besides, of main memory, from the first checkpoint on"
            lines.append(f"               {held} (recovery.save: behind)")
        if self.available_bytes is not None:
            lines.append(f"  available    {format_bytes(self.available_bytes)} here")
        if self.time is None:
            lines.append("  time         not known: --measure does a few updates, --on HARDWARE gives a bound")
        else:
            first, *more = self.time.lines()
            lines += [f"  time         {first}", *(f"               {line}" for line in more)]
        lines.append("  train:")
        return "\n".join(lines + [f"    {line}" for line in settings_text(self.config)])


def plan(request: Request, *, on: Device | None = None, measured: bool = False) -> Plan:
    """What a request will cost.

    on: hardware to bound its time on. measured: do a few of its updates here, in a folder that is thrown away, to say
    how long it takes; that loads torch. Raises DataError when the data folder is none, or does not have what the
    settings ask for.
    """
    architecture, config = request.reading.architecture, request.config
    assert config.context is not None
    bill = size(architecture, context=config.context, mode="train", dtype=config.dtype)
    memory, room = memory_of_run(architecture, config), room_here(config.device)
    shards = TokenShards.open(request.data, "train", verify="sizes")
    ensure_vocabulary(shards, architecture, config)
    find_hooks(config.preprocess)
    use = use_of(batches_of(shards, config), steps=config.steps)
    time = None
    if measured:
        from vitruvius.training.measured_time import measured_estimate

        time = measured_estimate(request)
    elif on is not None:
        time = bounded(architecture, config, counts_of(config, request.data), on)
    per_step = config.batch * config.context
    tokens = per_step * config.steps
    return Plan(
        name=architecture.name,
        data=str(request.data),
        out=str(request.out),
        config=config,
        parameters_total=bill.parameters.total,
        parameters_active=bill.parameters.active,
        data_tokens=shards.tokens,
        tokens_per_step=per_step,
        tokens=tokens,
        epochs=tokens / shards.tokens,
        use=use,
        schedule=tuple(schedule_lines(architecture, config)),
        flops=flops_of_run(architecture, config),
        weights_and_optimizer_bytes=memory.weights + memory.buffers + memory.gradients + memory.optimizer,
        activations_bytes=memory.activations,
        peak_bytes=memory.peak,
        unsure_bytes=memory.unsure,
        highest_moment=memory.highest.name,
        copy_bytes=copy_of_run(architecture, config),
        available_bytes=None if room is None else room.size,
        time=time,
    )


def settings_text(config: TrainConfig) -> list[str]:
    """Every setting as a line of YAML, to be pasted under `train:` of a run file."""
    return [f"{name}: {flow(value)}" for name, value in to_plain(config).items()]
