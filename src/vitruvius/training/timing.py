"""How long a run will take: what it does how often, and what each takes, measured here or bounded. No torch.

seconds = updates x each + windows of held-out text x each + checkpoints x each + texts that it writes x each
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data import PackedBatches, TokenShards, read_index
from vitruvius.report.durations import duration
from vitruvius.sizing.speed import speed_of
from vitruvius.spec import resolve
from vitruvius.training.workload import tokens_read, workload_of
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitruvius.sizing.hardware import Device
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a run does how often: exact, unless it is stopped or goes back."""

    updates: int
    validations: int
    """The one after the last step included."""
    windows: int
    """Held-out windows that they score, all together."""
    checkpoints: int
    samples: int
    """Times that the model writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of a few real updates, in seconds."""

    updates: tuple[float, ...]
    """Of each update, the first ones left out."""
    window: float
    """Of a window of held-out text; 0 where nothing is held out."""
    checkpoint: float
    sample: float
    """Of all prompts at one step; 0 where none are asked for."""
    left_out: int
    """Updates that came first, and are slower than the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How long a run takes."""

    source: str
    """`measured`, or `bound`: no software on this hardware is faster."""
    on: str
    """`this machine`, or a device."""
    counts: Counts
    update_seconds: float
    """The median; of a bound, at best."""
    seconds: float
    """Of the whole run."""
    seconds_low: float
    """With each update as fast as the fastest that was measured; of a bound, the bound."""
    seconds_high: float | None
    """With each as slow as the slowest; of a bound, none."""
    seconds_expected: float | None
    """Of a bound: with the share of the peak that good software reaches there."""
    updates_seconds: float
    validation_seconds: float
    checkpoint_seconds: float | None
    """None where the disk is not known."""
    sample_seconds: float | None
    """None where that was not measured."""
    updates_measured: int
    notes: tuple[str, ...]
    """How far off it can be."""

    def to_dict(self) -> dict[str, Any]:
        """The `time` of `vitruvius.train-plan/1`."""
        return asdict(self) | {"notes": list(self.notes)}

    def lines(self) -> list[str]:
        """For people: the whole, what it is made of, how far off it can be."""
        if self.source == "measured":
            assert self.seconds_high is not None
            low, high = duration(self.seconds_low), duration(self.seconds_high)
            head = f"{duration(self.seconds)} ({low} to {high}), from {self.updates_measured} updates measured here"
        else:
            expected = "" if self.seconds_expected is None else f", {duration(self.seconds_expected)} expected"
            head = f"at least {duration(self.seconds)} on {self.on}{expected}"
        parts = [
            f"{duration(self.updates_seconds)} for {self.counts.updates:,} updates of {self.update_seconds:.3g} s",
            f"{duration(self.validation_seconds)} for {self.counts.validations:,} validations",
        ]
        if self.checkpoint_seconds is not None:
            parts.append(f"{duration(self.checkpoint_seconds)} for {self.counts.checkpoints:,} checkpoints")
        if self.sample_seconds:
            parts.append(f"{duration(self.sample_seconds)} for {self.counts.samples:,} times of writing")
        return [head, ", ".join(parts), *self.notes]


def counts_of(config: TrainConfig, data: Path) -> Counts:
    """What a run on prepared data does how often; `config` is resolved.

    Raises DataError when the data folder is none.
    """
    assert config.context is not None
    assert config.checkpoint_every is not None
    assert config.eval_every is not None
    held_out = _windows(config, data)
    steps = config.steps
    regular = 0 if config.eval_every == 0 else (steps - 1) // config.eval_every
    whole = min(held_out, _limit(config.final_eval_batches, config, held_out))
    each = min(held_out, _limit(config.eval_batches, config, held_out))
    every = config.samples.every
    return Counts(
        updates=steps,
        validations=regular + 1 if held_out else 0,
        windows=regular * each + whole,
        checkpoints=_times(steps, config.checkpoint_every),
        samples=0 if every is None else _times(steps, every),
    )


def _times(steps: int, every: int) -> int:
    """How often something happens that is done every so many steps, and after the last one."""
    return -(-steps // every)


def _limit(batches: int | None, config: TrainConfig, held_out: int) -> int:
    return held_out if batches is None else batches * config.batch


def _windows(config: TrainConfig, data: Path) -> int:
    """Windows of held-out text, as validation cuts them."""
    entry = read_index(data)["splits"]["validation"]
    if entry["documents"] == 0 or entry["tokens"] < 2:
        return 0
    shards = TokenShards.open(data, "validation", verify="sizes")
    assert config.context is not None
    context = max(1, min(config.context, shards.tokens - 1))
    return PackedBatches(shards, batch=1, context=context, seed=0, sources="together").windows


def extrapolated(measured: Measured, counts: Counts, *, notes: Sequence[str] = ()) -> Estimate:
    """The whole run, from a few updates of it."""
    ordered = sorted(measured.updates)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    validation = counts.windows * measured.window
    checkpoints = counts.checkpoints * measured.checkpoint
    samples = counts.samples * measured.sample
    rest = validation + checkpoints + samples
    return Estimate(
        source="measured",
        on="this machine",
        counts=counts,
        update_seconds=median,
        seconds=counts.updates * median + rest,
        seconds_low=counts.updates * ordered[0] + rest,
        seconds_high=counts.updates * ordered[-1] + rest,
        seconds_expected=None,
        updates_seconds=counts.updates * median,
        validation_seconds=validation,
        checkpoint_seconds=checkpoints,
        sample_seconds=samples,
        updates_measured=len(ordered),
        notes=(
            (
                f"from the fastest to the slowest of the measured updates ({ordered[0]:.3g} to {ordered[-1]:.3g} s); "
                "another load on the machine is not in it"
            ),
            *notes,
        ),
    )


def bounded(architecture: Architecture, config: TrainConfig, counts: Counts, device: Device) -> Estimate:
    """The roofline of a run on a device: what its arithmetic and its memory traffic take at least.

    `config` is resolved. Source: `vitruvius.sizing.speed`. Raises UsageError for formats that there are not.
    """
    graph = resolve(architecture)
    speed = speed_of(graph, workload_of(config), device)
    assert speed.train_step_seconds is not None
    assert speed.expected_train_step_seconds is not None
    forward = graph.flops(tokens_read(config)).useful / device.peak(config.dtype)
    validation = counts.windows * forward
    expected = validation / device.efficiency.compute + counts.updates * speed.expected_train_step_seconds
    updates = counts.updates * speed.train_step_seconds
    size = checkpoint_bytes(architecture, config)
    notes = [
        (
            f"a bound: no software is faster; expected is {device.efficiency.compute:.0%} of the peak "
            f"({device.efficiency.source})"
        ),
        f"{counts.checkpoints:,} checkpoints of {format_bytes(size)} are not in it: that is up to the disk",
    ]
    if counts.samples:
        notes.append("what it takes to write samples is not in it: --measure says so")
    return Estimate(
        source="bound",
        on=device.name,
        counts=counts,
        update_seconds=speed.train_step_seconds,
        seconds=updates + validation,
        seconds_low=updates + validation,
        seconds_high=None,
        seconds_expected=expected,
        updates_seconds=updates,
        validation_seconds=validation,
        checkpoint_seconds=None,
        sample_seconds=None,
        updates_measured=0,
        notes=tuple(notes),
    )


def checkpoint_bytes(architecture: Architecture, config: TrainConfig) -> int:
    """Weights, masters and moments: the tensors of a checkpoint."""
    from vitruvius.training.room import memory_of_run

    memory = memory_of_run(architecture, config)
    return memory.weights + memory.buffers + memory.optimizer
