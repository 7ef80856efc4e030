"""A run's state on disk and back: whole or not at all, verified before an older one goes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from vitruvius.errors import CorruptCheckpointError, RunError
from vitruvius.nn.weights import weights_of, write_tensors
from vitruvius.runs import Checkpoint
from vitruvius.runs.checkpoints import MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, no_room, prune, require_room
from vitruvius.runs.files import NO_ROOM, json_text, not_written, read_json, write_json
from vitruvius.runs.shapes import COUNT, MAPPING, NUMBER, TEXT, Shape, first_misfit
from vitruvius.training.determinism import random_state, restore_random_state
from vitruvius.training.engines.local import LocalEngine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from vitruvius.nn import Model
    from vitruvius.runs import RunFolder
    from vitruvius.runs.retention import Retention
    from vitruvius.training.companions import Companion
    from vitruvius.training.engines.base import Engine
    from vitruvius.training.master import MasterOptimizer

STATE_SCHEMA = "vitruvius.checkpoint/3"
SLACK = 1 << 20
"""Room for headers, state and manifest beside the tensors."""
_ANOTHER = "use another checkpoint, or copy this one again"
_STATE: Shape = {
    "step": COUNT,
    "tokens": COUNT,
    "sample_digest": TEXT,
    "belongs_to": TEXT,
    "batches": COUNT,
    "lr_factor": NUMBER,
    "retries": COUNT,
    "random": {"cpu": TEXT, "cuda": [TEXT]},
    "companions": MAPPING,
}
"""What `state.json` holds besides its schema."""


@dataclass(slots=True, kw_only=True)
class TrainState:
    """How far a run is. Together with the weights, the optimizer's state and torch's random state it is all of it."""

    step: int = 0
    """Updates done."""
    tokens: int = 0
    """Tokens read by them."""
    sample_digest: str = "0" * 16
    """Chain over the samples of every step, in order: equal streams have equal digests."""
    batches: int = 0
    """Batches drawn; more than `step` once a run has gone back and on with later ones."""
    lr_factor: float = 1.0
    """What the guard has lowered the learning rate by."""
    retries: int = 0
    """How often the guard has skipped an update, lowered the learning rate or gone back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a checkpoint will hold, at one moment of a run."""

    step: int
    files: Mapping[str, Mapping[str, Tensor]]
    """Name of a safetensors file -> name -> tensor. They are the run's own memory: `copied` makes them a copy."""
    state: dict[str, Any]
    """What stands in `state.json`."""


def contents_of(
    state: TrainState,
    model: Model,
    optimizer: MasterOptimizer,
    *,
    belongs_to: str,
    companions: Sequence[Companion] = (),
) -> Contents:
    """All of a run, as it is now. belongs_to: hash of config, spec and data.

    A companion's tensors stand in a file of its name.
    """
    kept = {f"{companion.name}.safetensors": tensors for companion in companions if (tensors := companion.tensors())}
    return Contents(
        step=state.step,
        files={MODEL_FILE: weights_of(model), OPTIMIZER_FILE: optimizer.tensors(), **kept},
        # As text and back: from here on it is nobody else's.
        state=json.loads(json_text(_state_data(state, belongs_to, companions))),
    )


def size_of(contents: Contents) -> int:
    """Bytes of its tensors."""
    return sum(each.numel() * each.element_size() for tensors in contents.files.values() for each in tensors.values())


def copied(contents: Contents, into: dict[str, Tensor]) -> Contents:
    """The same in memory of its own, on the CPU. `into` keeps that memory, for the next copy of the same run."""
    files: dict[str, dict[str, Tensor]] = {}
    for file, tensors in contents.files.items():
        files[file] = {}
        for name, tensor in tensors.items():
            key = f"{file}/{name}"
            memory = into.get(key)
            if memory is None or memory.shape != tensor.shape or memory.dtype != tensor.dtype:
                memory = into[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            files[file][name] = memory.copy_(tensor.detach(), non_blocking=True)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return replace(contents, files=files)


def write(run: RunFolder, contents: Contents, *, retention: Retention) -> Checkpoint:
    """Write `checkpoints/step-N`, verify it, and only then let older ones go.

    Raises RunError with bytes needed and free when it does not fit, CorruptCheckpointError when what was read back is
    not what was written; older checkpoints are intact either way.
    """
    folder = run.path / "checkpoints"
    needed = size_of(contents) + SLACK
    require_room(folder, needed)
    try:
        with run.checkpoint(contents.step) as partial:
            for file, tensors in contents.files.items():
                write_tensors(partial / file, tensors)
            write_json(partial / STATE_FILE, contents.state)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room(folder, needed) from None
        raise not_written(Path(error.filename or folder), error) from None
    checkpoint = Checkpoint(step=contents.step, path=folder / f"step-{contents.step}")
    checkpoint.verify()
    prune(run.reader, retention=retention, verified=checkpoint)
    return checkpoint


def restore(
    checkpoint: Checkpoint,
    model: Model,
    optimizer: MasterOptimizer,
    *,
    belongs_to: str,
    companions: Sequence[Companion] = (),
    engine: Engine | None = None,
) -> TrainState:
    """Put a verified checkpoint's state into the model, the optimizer, the companions and torch; how far it is.

    Raises RunError when it belongs to another run or does not fit the model.
    """
    path = checkpoint.path / STATE_FILE
    data = _read_state(checkpoint)
    if data["belongs_to"] != belongs_to:
        raise RunError(
            "this checkpoint was written with another config, spec or data",
            where=str(path),
            fix="run.json was changed after it was written: put it back, or train into a new folder",
        )
    engine = engine or LocalEngine()
    engine.load(model, checkpoint.path)
    optimizer.load_tensors(engine.read(checkpoint.path / OPTIMIZER_FILE))
    try:
        restore_random_state(data["random"])
    except (ValueError, RuntimeError) as error:
        what = f"the random state is damaged: {error}"
        raise CorruptCheckpointError(what, where=str(path), fix=_ANOTHER) from None
    for companion in companions:
        _restore_companion(companion, checkpoint, data["companions"].get(companion.name), engine)
    kept = ("step", "tokens", "sample_digest", "batches", "lr_factor", "retries")
    return TrainState(**{name: data[name] for name in kept})


def _restore_companion(companion: Companion, checkpoint: Checkpoint, state: object, engine: Engine) -> None:
    path, file = checkpoint.path / STATE_FILE, checkpoint.path / f"{companion.name}.safetensors"
    if state is None:
        # Every byte of it is as it was written, so nothing was lost: whoever wrote it knew of no such state.
        what = f"the checkpoint has no state of {companion.name}, which this version keeps"
        fix = "resume with the version of vitruvius that wrote it, or train into a new folder"
        raise CorruptCheckpointError(what, where=str(path), fix=fix)
    if not isinstance(state, dict):
        what = f"the state of {companion.name} is damaged: it is no mapping"
        raise CorruptCheckpointError(what, where=str(path), fix=_ANOTHER)
    try:
        companion.restore(cast("dict[str, Any]", state))
        companion.load_tensors(engine.read(file) if file.exists() else {})
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        what = f"the state of {companion.name} is damaged: {error}"
        raise CorruptCheckpointError(what, where=str(path), fix=_ANOTHER) from None


def _state_data(state: TrainState, belongs_to: str, companions: Sequence[Companion]) -> dict[str, Any]:
    return {
        "schema": STATE_SCHEMA,
        "step": state.step,
        "tokens": state.tokens,
        "sample_digest": state.sample_digest,
        "batches": state.batches,
        "lr_factor": state.lr_factor,
        "retries": state.retries,
        "belongs_to": belongs_to,
        "random": random_state(),
        "companions": {companion.name: companion.state() for companion in companions},
    }


def _read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.path / STATE_FILE
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(f"the state cannot be read: {error}", where=str(path), fix=_ANOTHER) from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != STATE_SCHEMA or data.get("step") != checkpoint.step:
        raise CorruptCheckpointError(
            f"the state has the schema {schema!r}, this version reads {STATE_SCHEMA!r} at step {checkpoint.step}",
            where=str(path),
            fix="resume with the version of vitruvius that wrote it",
        )
    misfit = first_misfit(_STATE, data)
    if misfit is not None:
        raise CorruptCheckpointError(f"the state is damaged: {misfit}", where=str(path), fix=_ANOTHER)
    return data
