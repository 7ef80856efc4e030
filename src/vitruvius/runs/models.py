"""What a folder with a trained model is: a run, one of its checkpoints, or a model that was exported from one.

model.safetensors        the weights, by the names of the model's parameters
model.json               what they are: spec, settings, data, versions, from which step of which run
spec.yaml                the architecture, for people and for `vitruvius`
tokenizer.json           what turns text into their tokens
README.md                the card; may be edited
manifest.json            SHA-256 of the others but the card, written last
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias, cast, final

from vitruvius.errors import RunError
from vitruvius.runs.checkpoints import latest_checkpoint
from vitruvius.runs.files import read_json
from vitruvius.runs.folder import Checkpoint, RunReader
from vitruvius.runs.shapes import COUNT, MAPPING, MAPPING_OR_NULL, TEXT, TEXT_OR_NULL, Shape, first_misfit

MODEL_RECORD, SPEC_FILE, CARD_FILE = "model.json", "spec.yaml", "README.md"
MODEL_SCHEMA = "vitruvius.model/1"

_RECORD: Shape = {
    "config": MAPPING,
    "spec": {"text": TEXT_OR_NULL, "data": MAPPING},
    "data": MAPPING_OR_NULL,
    "environment": MAPPING,
    "weights": {"step": COUNT, "kind": TEXT, "dtype": TEXT},
}
"""What `model.json` holds besides its schema; the first four as in a run's record."""


@final
class ExportedModel:
    """A folder that `vitruvius runs export` wrote."""

    __slots__ = ("path",)

    def __init__(self, path: Path | str) -> None:
        """Raise RunError when it is none."""
        self.path = Path(path)
        if not is_exported(self.path):
            raise RunError(
                "there is no model.json, so this is no exported model",
                where=str(self.path),
                fix="name a folder that `vitruvius runs export` wrote",
            )

    def record(self) -> dict[str, Any]:
        """What `model.json` holds. Raises RunError when it is damaged or of another version."""
        file = self.path / MODEL_RECORD
        try:
            value: object = read_json(file)
        except ValueError as error:
            raise RunError(f"the file is not JSON ({error})", where=str(file), fix="export the model again") from None
        schema = cast("dict[str, Any]", value).get("schema") if isinstance(value, dict) else None
        if schema != MODEL_SCHEMA:
            raise RunError(
                f"the schema is {schema!r}, this version reads {MODEL_SCHEMA!r}",
                where=str(file),
                fix="read it with the version of vitruvius that wrote it",
            )
        misfit = first_misfit(_RECORD, cast("object", value))
        if misfit is not None:
            raise RunError(f"the record is damaged: {misfit}", where=str(file), fix="export the model again")
        return cast("dict[str, Any]", value)

    @property
    def checkpoint(self) -> Checkpoint:
        """Its weights, and what of the folder is to be verified."""
        return Checkpoint(step=self.record()["weights"]["step"], path=self.path, beside="anything")


ModelReader: TypeAlias = RunReader | ExportedModel
"""What a model is read from; both have a `path` and a `record()` with spec, config and data."""


def is_exported(folder: Path | str) -> bool:
    """Whether a folder is an exported model."""
    return (Path(folder) / MODEL_RECORD).is_file()


def find_checkpoint(folder: Path | str) -> tuple[ModelReader, Checkpoint]:
    """Where the weights are that a folder means: a run's newest checkpoint, the one that is named, an exported model's.

    Raises RunError when the folder is none of them.
    """
    reader = reader_of(folder)
    if isinstance(reader, ExportedModel):
        return reader, reader.checkpoint
    path = Path(folder).resolve()
    if path.parent.name != "checkpoints" or reader.path.resolve() == path:
        return reader, latest_checkpoint(reader.path)
    named = [checkpoint for checkpoint in reader.checkpoints() if checkpoint.path.name == path.name]
    if not named:
        raise RunError("this is not a whole checkpoint", where=str(folder), fix="name a folder step-N beside it")
    return reader, named[0]


def reader_of(folder: Path | str) -> ModelReader:
    """What says of which architecture and data the weights in a folder are: a run, for its checkpoints too.

    Raises RunError when the folder has none.
    """
    path = Path(folder)
    if (path / "run.json").is_file():
        return RunReader(path)
    if is_exported(path):
        return ExportedModel(path)
    above = path.resolve().parent
    if above.name == "checkpoints" and (above.parent / "run.json").is_file():
        return RunReader(above.parent)
    return RunReader(path)
