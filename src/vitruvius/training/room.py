"""Whether a run fits into memory, before anything is built; and the cheapest changes that make it fit. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError
from vitruvius.runs.available import Available, available_memory
from vitruvius.sizing.training import TrainingMemory, training_memory
from vitruvius.spec import resolve
from vitruvius.training.rules import divisors
from vitruvius.training.shaping.costs import costly_shapes
from vitruvius.training.workload import workload_of
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig

MOST_CHANGES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A way to run with less memory."""

    setting: str
    """As it is written on the command line."""
    peak: int
    """Bytes that the run takes with it, at least."""


def memory_of_run(architecture: Architecture, config: TrainConfig) -> TrainingMemory:
    """What a step of a run takes, the largest one where its architecture changes; `config` is resolved."""
    steps = [_memory_of_step(shape, config) for shape in costly_shapes(architecture, config)]
    return max(steps, key=lambda memory: memory.peak)


def _memory_of_step(architecture: Architecture, config: TrainConfig) -> TrainingMemory:
    workload, threads = workload_of(config), config.threads or 1
    # A continuation reads a sample as one text, whatever documents are in it.
    documents = "joined" if config.objective == "continuation" else config.documents
    return training_memory(resolve(architecture), workload, threads=threads, documents=documents)


def copy_of_run(architecture: Architecture, config: TrainConfig) -> int:
    """Bytes of main memory that `recovery.save: behind` takes besides a step, from the first checkpoint on; else 0.

    About 14 for each parameter in bf16 with AdamW: weights, masters and moments. Of a GPU it takes none.
    """
    return memory_of_run(architecture, config).checkpoint if config.recovery.save == "behind" else 0


def ensure_room(
    architecture: Architecture, config: TrainConfig, available: Available | None, *, parts: int = 1
) -> str | None:
    """Refuse a run that surely will not fit; returns a note where it is to be tried all the same, else None.

    parts: processes that share weights, gradients and the optimizer's state, each with an equal part at the least.
    Raises UsageError with both numbers and the cheapest changes. What is available is unknown where it is None.
    """
    if available is None:
        return None
    memory = memory_of_run(architecture, config)
    shared = memory.weights + memory.gradients + memory.masters + memory.states
    certain = memory.peak - memory.unsure - shared * (parts - 1) // parts
    if certain <= available.size:
        return _note_on_copy(architecture, config, certain, available)
    what = (
        f"a step of this run takes {format_bytes(certain)} at its highest moment ({memory.highest.name}), "
        f"and there is {format_bytes(available.size)}: {available.limit}"
    )
    if config.memory_check == "warn":
        return f"warning: {what}"
    raise UsageError(what, where="train", fix=_fix(architecture, config, available))


def _note_on_copy(architecture: Architecture, config: TrainConfig, step: int, available: Available) -> str | None:
    """Where a step fits and the copy beside it does not: nothing is refused, as saving then waits."""
    copy = copy_of_run(architecture, config)
    if step + copy <= available.size or not copy:
        return None
    return (
        f"recovery.save=behind holds a copy of {format_bytes(copy)} from the first checkpoint on, besides the "
        f"{format_bytes(step)} of a step, and there is {format_bytes(available.size)} ({available.limit}): "
        "where it does not fit then, training waits for each checkpoint instead"
    )


def room_here(device: str) -> Available | None:
    """What this machine has for a run on a device; None for a GPU, whose memory nobody knows before torch is there."""
    return None if device == "cuda" else available_memory()


def _fix(architecture: Architecture, config: TrainConfig, available: Available) -> str:
    found = [change for change in changes(architecture, config) if change.peak <= available.size][:MOST_CHANGES]
    anyway = "or try anyway: --set train.memory_check=warn"
    if not found:
        least = min(changes(architecture, config), key=lambda change: change.peak, default=None)
        if least is None:
            return f"train a smaller architecture, or on a machine with more memory; {anyway}"
        return f"even {least.setting} takes {format_bytes(least.peak)}: train a smaller architecture; {anyway}"
    ways = "; ".join(f"{change.setting} takes {format_bytes(change.peak)}" for change in found)
    return f"{ways}; {anyway}"


def changes(architecture: Architecture, config: TrainConfig) -> Iterator[Change]:
    """Ways to take less memory that leave what is learned as it is, then shorter samples; cheapest first."""
    pieces = [n for n in divisors(config.batch) if n > config.accumulate]
    chosen = pieces if len(pieces) <= 4 else [*pieces[:2], *pieces[-2:]]
    tried: list[tuple[str, TrainConfig]] = []
    again = replace(config, checkpointing="layers")
    tried += [(f"--set train.accumulate={n}", replace(config, accumulate=n)) for n in chosen]
    if config.checkpointing == "none":
        tried.append(("--set train.checkpointing=layers", again))
        tried += [
            (f"--set train.accumulate={n} --set train.checkpointing=layers", replace(again, accumulate=n))
            for n in chosen
        ]
    assert config.context is not None
    if config.context > 1:
        half = config.context // 2
        tried.append((f"--context {half}", replace(config, context=half)))
    for setting, changed in tried:
        memory = memory_of_run(architecture, changed)
        yield Change(setting=setting, peak=memory.peak - memory.unsure)
