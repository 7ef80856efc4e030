"""Which engine runs an arrangement of devices, and why none does. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from vitruvius.errors import UsageError
from vitruvius.sizing.parallel.search import Refused
from vitruvius.training.settings import EngineSettings
from vitruvius.training.settings.zero import require_deepspeed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from typing import Literal

    from vitruvius.sizing.parallel.degrees import Degrees, Schedule
    from vitruvius.training.config import TrainConfig

KINDS = ("local", "ddp", "fsdp2", "deepspeed")
_DIVIDES = {
    "local": frozenset[str](),
    "ddp": frozenset({"data", "experts"}),
    "fsdp2": frozenset({"data", "experts", "tensor"}),
    "deepspeed": frozenset({"data"}),
}
"""Kind -> what its processes divide, by the first word of a direction that is refused."""


def stages_of(config: TrainConfig, kind: str | None) -> Collection[Literal[2, 3]]:
    """The stages of ZeRO that DeepSpeed is asked for; where no kind is named, FSDP2 is what divides weights."""
    if kind != "deepspeed":
        return (2,)
    return (2, 3) if config.engine.zero is None else (config.engine.zero,)


def kind_of(degrees: Degrees, *, kind: str | None) -> str | None:
    """The engine of an arrangement; None where none divides so. kind: the one that is named, where one is."""
    if degrees.pipeline > 1 or degrees.context > 1 or degrees.zero == 1:
        return None
    if degrees.devices == 1:
        return "local"
    if degrees.zero == 2 or (degrees.zero == 3 and kind == "deepspeed"):
        return "deepspeed" if degrees.tensor == degrees.expert == 1 else None
    if degrees.zero == 0 and degrees.tensor == 1:
        return "ddp"
    return "fsdp2" if degrees.zero == 3 or degrees.data == 1 else None


def is_planned(degrees: Degrees, config: TrainConfig, *, kind: str | None) -> bool:
    """Whether an arrangement is looked at: all where no kind is named, else those of that kind."""
    if kind is None:
        return True
    mine = kind_of(degrees, kind=kind) == kind
    return mine and (kind != "deepspeed" or degrees.zero in stages_of(config, kind))


def name_of(degrees: Degrees, *, kind: str | None) -> str:
    """`FSDP 8 x tensor 2`; what is named after its stage where DeepSpeed has it."""
    return str(degrees).replace("FSDP", "ZeRO-3") if kind == "deepspeed" else str(degrees)


def why_not(degrees: Degrees, schedule: Schedule, config: TrainConfig, *, kind: str | None) -> str:
    """Why there is no engine for an arrangement; empty where there is one."""
    apart = {"pipeline stages": degrees.pipeline, "sequences divided": degrees.context}
    for what, degree in apart.items():
        if degree > 1:
            return f"no engine here has {what} among processes"
    if degrees.zero == 1:
        return "no engine here divides optimizer states alone (ZeRO-1); FSDP divides gradients and weights too"
    if degrees.zero == 2 and (degrees.tensor > 1 or degrees.expert > 1):
        return "DeepSpeed's ZeRO-2 divides neither layers nor experts here; FSDP does, and the weights too"
    if degrees.tensor > 1 and degrees.zero == 0 and degrees.data > 1:
        return "tensor parallelism here goes with divided weights (fsdp2)"
    if schedule.sequence_parallel == "on":
        return "the engine does not divide sequences between tensor-parallel sublayers"
    if schedule.sequences(degrees) != config.batch:
        return f"{degrees.data} data ranks do not deal out a batch of {config.batch} evenly"
    mine = kind_of(degrees, kind=kind)
    kinds = set(get_args(EngineSettings.__dataclass_fields__["kind"].type)) or set(KINDS)
    if mine not in kinds:
        return f"there is no engine {mine}"
    if mine == "deepspeed":
        try:
            require_deepspeed()
        except UsageError as error:
            return f"{error.what} ({error.fix})"
    return ""


def refused_of(found: Iterable[Refused], *, kind: str | None) -> Iterator[Refused]:
    """What a search has refused, without directions that a named kind does not have."""
    for each in found:
        if kind is None or each.what.partition(" ")[0] in _DIVIDES[kind]:
            yield each


def nothing_of(kind: str, count: int) -> Refused:
    """Why a named kind has no arrangement of so many devices."""
    if kind == "local":
        why = f"is one process with one device, and there are {count}: --gpus 1, or leave train.engine.kind out"
    elif count == 1:
        why = "is for several processes, and there is one device: --gpus 2, or leave train.engine.kind out"
    else:
        why = f"does not deal out this batch to {count} devices: see above, or leave train.engine.kind out"
    return Refused(what=f"kind: {kind}", why=why)
