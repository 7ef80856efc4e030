"""Which processes share the work of training, and how their parts come together.

    with joined(settings, device="cpu") as engine:
        ...

An engine is chosen by `train.engine.kind`; the loop talks to all of them as `Engine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.training.engines.base import Engine
from vitruvius.training.engines.ddp import DdpEngine
from vitruvius.training.engines.deepspeed_engine import DeepSpeedEngine
from vitruvius.training.engines.following import held
from vitruvius.training.engines.local import LocalEngine
from vitruvius.training.engines.sharded import ShardedEngine
from vitruvius.training.launch import agreed_launch

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from vitruvius.training.settings import EngineSettings

ENGINES: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "local": LocalEngine.joined,
    "ddp": DdpEngine.joined,
    "fsdp2": ShardedEngine.joined,
    "deepspeed": DeepSpeedEngine.joined,
}
"""Kind in `train.engine.kind` -> how to join its processes."""


def joined(settings: EngineSettings, *, device: str) -> AbstractContextManager[Engine]:
    """The engine that the settings name, joined until the block ends. device: `cpu` or `cuda`.

    Raises UsageError where the launch and the settings disagree, RunError when other processes do not come.
    """
    # Where processes have different experts, a model is in parts, whatever becomes of its other weights.
    kind = "fsdp2" if settings.kind == "ddp" and settings.expert_parallel > 1 else settings.kind
    return ENGINES[kind](agreed_launch(settings), settings, device)


__all__ = ["ENGINES", "DdpEngine", "DeepSpeedEngine", "Engine", "LocalEngine", "ShardedEngine", "held", "joined"]
