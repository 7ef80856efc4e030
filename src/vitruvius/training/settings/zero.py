"""DeepSpeed: whether it is installed, and what its ZeRO does not go with, found before anything starts. No torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING

from vitruvius.errors import Finding, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig

_OTHER = "or use kind: fsdp2"
VERSION = "0.19"
"""What the engine is written against: it reads where DeepSpeed keeps a process's runs, which no interface says."""
INSTALL = "pip install 'vitruvius[deepspeed]'; or use kind: fsdp2, which divides as much and needs no package"


def require_deepspeed() -> None:
    """Raise UsageError where DeepSpeed is not installed, or in another version than this is written against."""
    where = "train.engine.kind"
    if importlib.util.find_spec("deepspeed") is None:
        raise UsageError("kind: deepspeed needs a package that is not installed: deepspeed", where=where, fix=INSTALL)
    try:
        found = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        found = "of unknown version"
    if found.split(".")[:2] != VERSION.split("."):
        what = f"deepspeed {found} is installed, and this works with {VERSION}"
        raise UsageError(what, where=where, fix=INSTALL)


def zero_findings(config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
    """Whatever needs whole tensors, or an update that is not DeepSpeed's own; each with the way out."""
    if config.optimizer != "adamw":
        what = f"{config.optimizer} needs tensors as they are, and kind: deepspeed lays them end to end and cuts that"
        other = "kind: ddp" if config.optimizer.startswith("adamw-8bit") else "kind: fsdp2"
        yield Finding(path="train.optimizer", what=what, fix=f"use optimizer: adamw, or {other}")
    if config.dtype == "fp16":
        what = "the scale of an fp16 loss is kept here, and kind: deepspeed would scale by one of its own"
        yield Finding(path="train.dtype", what=what, fix=f"use dtype: bf16, {_OTHER}")
    if config.compile != "none":
        what = "the compiled loss does not pass the hooks that gather and sum under kind: deepspeed"
        yield Finding(path="train.compile", what=what, fix="use compile: none, or kind: ddp")
    if config.ema is not None:
        what = "the average is put in the place of whole weights, and under kind: deepspeed a process has runs of them"
        yield Finding(path="train.ema", what=what, fix=f"leave it out, {_OTHER}")
    if config.samples.every is not None:
        what = "one process writes the samples, and under kind: deepspeed all enter the model together"
        fix = "leave train.samples out and read checkpoints with vitruvius generate, or use kind: ddp"
        yield Finding(path="train.samples.every", what=what, fix=fix)
    if architecture is not None and architecture.mtp is not None:
        what = "a process whose rows have no token so far ahead has no gradient there, for which DeepSpeed would wait"
        yield Finding(path="train.engine.kind", what=what, fix="use kind: fsdp2 or kind: ddp, or leave mtp out")
