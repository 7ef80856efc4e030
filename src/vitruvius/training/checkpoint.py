"""A run's state on disk and back: whole or not at all, verified before an older one goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import CorruptCheckpointError, RunError
from vitruvius.nn.weights import load_weights, read_tensors, weights_of, write_tensors
from vitruvius.runs import Checkpoint
from vitruvius.runs.checkpoints import MODEL_FILE, NO_ROOM, OPTIMIZER_FILE, STATE_FILE, no_room, prune, require_room
from vitruvius.runs.files import read_json, write_json
from vitruvius.runs.shapes import COUNT, MAPPING, NUMBER, TEXT, Shape, first_misfit
from vitruvius.training.determinism import random_state, restore_random_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from vitruvius.nn import Model
    from vitruvius.runs import RunFolder
    from vitruvius.training.companions import Companion
    from vitruvius.training.master import MasterOptimizer

STATE_SCHEMA = "vitruvius.checkpoint/3"
_SLACK = 1 << 20
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


def save(
    run: RunFolder,
    state: TrainState,
    model: Model,
    optimizer: MasterOptimizer,
    *,
    belongs_to: str,
    keep: int,
    companions: Sequence[Companion] = (),
) -> Checkpoint:
    """Write `checkpoints/step-N`, verify it, and only then let older ones go.

    belongs_to: hash of config, spec and data. A companion's tensors stand in a file of its name.
    Raises RunError with bytes needed and free when it does not fit, CorruptCheckpointError when what was read back is
    not what was written; older checkpoints are intact either way.
    """
    folder = run.path / "checkpoints"
    weights, moments = weights_of(model), optimizer.tensors()
    kept = {companion.name: tensors for companion in companions if (tensors := companion.tensors())}
    needed = sum(_bytes(each.values()) for each in (weights, moments, *kept.values())) + _SLACK
    require_room(folder, needed)
    try:
        with run.checkpoint(state.step) as partial:
            write_tensors(partial / MODEL_FILE, weights)
            write_tensors(partial / OPTIMIZER_FILE, moments)
            for name, tensors in kept.items():
                write_tensors(partial / f"{name}.safetensors", tensors)
            write_json(partial / STATE_FILE, _state_data(state, belongs_to, companions))
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room(folder, needed) from None
        raise
    checkpoint = Checkpoint(step=state.step, path=folder / f"step-{state.step}")
    checkpoint.verify()
    prune(run.reader.checkpoints(), keep=keep, verified=checkpoint)
    return checkpoint


def restore(
    checkpoint: Checkpoint,
    model: Model,
    optimizer: MasterOptimizer,
    *,
    belongs_to: str,
    companions: Sequence[Companion] = (),
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
    load_weights(model, checkpoint.path)
    optimizer.load_tensors(read_tensors(checkpoint.path / OPTIMIZER_FILE))
    try:
        restore_random_state(data["random"])
    except (ValueError, RuntimeError) as error:
        what = f"the random state is damaged: {error}"
        raise CorruptCheckpointError(what, where=str(path), fix=_ANOTHER) from None
    for companion in companions:
        _restore_companion(companion, checkpoint, data["companions"].get(companion.name))
    kept = ("step", "tokens", "sample_digest", "batches", "lr_factor", "retries")
    return TrainState(**{name: data[name] for name in kept})


def _restore_companion(companion: Companion, checkpoint: Checkpoint, state: object) -> None:
    path, file = checkpoint.path / STATE_FILE, checkpoint.path / f"{companion.name}.safetensors"
    if not isinstance(state, dict):
        what = f"the state of {companion.name} is missing"
        raise CorruptCheckpointError(what, where=str(path), fix=_ANOTHER)
    try:
        companion.restore(cast("dict[str, Any]", state))
        companion.load_tensors(read_tensors(file) if file.exists() else {})
    except (ValueError, TypeError, KeyError) as error:
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


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
