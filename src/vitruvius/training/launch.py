"""Who started this process, and beside which others: what torchrun says in the environment. No torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.settings import EngineSettings

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
VARIABLES = (*NUMBERS, "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets; a process that lacks one of them was started by something else."""
TORCHRUN = "torchrun --nproc-per-node 2 -m vitruvius train ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A process among those that were started together."""

    rank: int = 0
    """Its number, from 0."""
    ranks: int = 1
    """How many there are."""
    local_rank: int = 0
    """Its number on this machine, from 0."""
    local_ranks: int = 1
    """How many there are on this machine."""

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0


def launched() -> Launch | None:
    """What torchrun says about this process; None where it was not started by it.

    Raises UsageError when the variables contradict each other.
    """
    if any(name not in os.environ for name in VARIABLES):
        return None
    rank, ranks, local_rank, local_ranks = (_number(name) for name in NUMBERS)
    if not (rank < ranks and local_rank < local_ranks <= ranks):
        shown = ", ".join(f"{name}={os.environ[name]}" for name in NUMBERS)
        raise UsageError(f"{shown} cannot all be true", where="environment", fix=f"launch with {TORCHRUN}")
    return Launch(rank=rank, ranks=ranks, local_rank=local_rank, local_ranks=local_ranks)


def speaks_here() -> bool:
    """Whether this process prints results: the first of those started together, or the only one."""
    launch = launched()
    return launch is None or launch.is_main


def agreed_launch(settings: EngineSettings) -> Launch:
    """The launch, when it is what the settings ask for.

    Raises UsageError where one names several processes and the other does not.
    """
    launch = launched()
    if settings.kind == "local":
        if launch is not None and launch.ranks > 1:
            raise UsageError(
                f"{launch.ranks} processes were launched, and kind: local is for one",
                where="train.engine.kind",
                fix="add --set 'train.engine={kind: ddp}', or start without torchrun",
            )
        return Launch()
    if launch is None:
        missing = [name for name in VARIABLES if name not in os.environ]
        raise UsageError(
            f"kind: {settings.kind} needs processes that torchrun has started ({', '.join(missing)} not set)",
            where="train.engine.kind",
            fix=f"{TORCHRUN}; or leave train.engine.kind out for one process",
        )
    return launch


def as_launched(settings: EngineSettings) -> EngineSettings:
    """The settings for a run that goes on: its checkpoints fit any number of processes, so the launch decides.

    Fewer processes than divide the experts divide them as far as they can.
    """
    launch = launched()
    if launch is None:
        return replace(settings, kind="local", tensor_parallel=1, expert_parallel=1, zero=None)
    if settings.kind == "local":
        return replace(settings, kind="ddp")
    rows = max(1, launch.ranks // settings.tensor_parallel)
    return replace(settings, expert_parallel=math.gcd(settings.expert_parallel, rows))


def ensure_divides(config: TrainConfig, shares: int) -> None:
    """Raise UsageError unless every piece of a batch can be shared evenly."""
    each = config.accumulate * shares
    if config.batch % each:
        pieces = "" if config.accumulate == 1 else f", each in {config.accumulate} pieces,"
        near = max(each, config.batch // each * each)
        raise UsageError(
            f"{shares} processes{pieces} cannot share {config.batch} samples evenly",
            where="train.batch",
            fix=f"use a multiple of {each}, such as --batch {near}, or another number of processes",
        )


def _number(name: str) -> int:
    text = os.environ[name]
    # int() would take "+1", "1_0" and digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise UsageError(f"{text[:40]!r} is no number of a process", where=name, fix=f"launch with {TORCHRUN}")
    return int(text)
