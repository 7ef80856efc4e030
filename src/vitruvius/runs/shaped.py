"""The architecture of a checkpoint: the run's spec, with what `train.shape` had made of it by then.

spec_of(RunReader("runs/first"), checkpoint)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from vitruvius.errors import RunError, SpecError, UsageError
from vitruvius.runs.files import read_json
from vitruvius.spec import ensure, from_plain
from vitruvius.spec.fields import with_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.runs.folder import Checkpoint
    from vitruvius.runs.models import ModelReader
    from vitruvius.spec import Architecture
    from vitruvius.spec.fields import Value

COMPANION: Final = "shape"
"""Under which name a checkpoint has the state of the schedules."""
VALUES: Final = "values"
"""In it: field -> value of the last update."""


def values_of(checkpoint: Checkpoint) -> dict[str, Value]:
    """Field -> value that it had in the last update before a checkpoint; empty where no schedule had a say.

    Raises RunError when the checkpoint's state cannot be read.
    """
    path = checkpoint.path / "state.json"
    try:
        state = read_json(path)
    except FileNotFoundError:
        return {}  # weights alone, as others write them
    except (OSError, ValueError) as error:
        raise RunError(f"the state cannot be read: {error}", where=str(path), fix="use another checkpoint") from None
    values: object = state
    for key in ("companions", COMPANION, VALUES):
        values = cast("Mapping[str, object]", values).get(key, {}) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        raise RunError("the state of the schedules is damaged", where=str(path), fix="use another checkpoint")
    return cast("dict[str, Value]", values)


def spec_of(run: ModelReader, checkpoint: Checkpoint) -> Architecture:
    """The architecture whose weights a checkpoint holds.

    Raises RunError when the record has no architecture or the checkpoint's values do not fit it, SpecError when what
    the record has is none.
    """
    data = run.record()["spec"]["data"]
    if data is None:
        raise RunError("run.json has no architecture", where=str(run.path), fix="name a folder that `train` wrote")
    architecture = from_plain(data)
    values = values_of(checkpoint)
    if not values:
        return architecture
    try:
        architecture = with_values(architecture, values)
        ensure(architecture)
    except (SpecError, UsageError) as error:
        where, fix = str(checkpoint.path / "state.json"), "use another checkpoint, or copy this one again"
        raise RunError(f"the values of the schedules do not fit the spec: {error}", where=where, fix=fix) from None
    return architecture
