"""What a run folder comes to, in one value: for lists, comparisons and reports. Files only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import RunError
from vitruvius.runs.folder import RunReader
from vitruvius.runs.lock import is_held
from vitruvius.runs.shapes import COUNT, NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEEPEST = 6
"""How far below the folder that is asked for runs are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run at a glance. Numbers that the run does not have are None."""

    path: Path
    """Its folder."""
    status: str
    """`running`, `finished`, `stopped`, `failed`; `died` where the record says `running` and nobody holds the lock."""
    architecture: str | None
    """The name in its spec."""
    started: str
    """UTC."""
    step: int
    """Updates whose row is in the metrics."""
    steps: int | None
    """Updates that the run is to have."""
    tokens: int
    """Tokens read by them."""
    loss: float | None
    """Training loss of the last row, nats per token."""
    val_loss: float | None
    """The last validation."""
    val_bits_per_byte: float | None
    """The same in bits per byte of text."""
    tokens_per_second: float | None
    """Median over the last rows, at most 100."""
    checkpoints: tuple[int, ...]
    """Steps of the checkpoints that are there."""
    bytes: int
    """Size of the folder on disk."""
    events: Mapping[str, int]
    """Kind of event -> how many."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {"path": str(self.path), "checkpoints": list(self.checkpoints), "events": dict(self.events)}


def summary_of(run: Path | str) -> RunSummary:
    """The summary of a run folder.

    Raises RunError when it is none, or its record is damaged.
    """
    reader = RunReader(run)
    record, rows = reader.record(), reader.metrics()
    last: dict[str, Any] = rows[-1] if rows else {}
    none: dict[str, Any] = {}
    scored = next((row for row in reversed(rows) if number_of(row.get("val_loss")) is not None), none)
    speeds = sorted(speed for row in rows[-100:] if (speed := number_of(row.get("tokens_per_second"))))
    kinds: dict[str, int] = {}
    for event in reader.events():
        kind = str(event.get("kind"))
        kinds[kind] = kinds.get(kind, 0) + 1
    status = record["status"]
    if status == "running" and not is_held(reader.path):
        status = "died"
    name, steps = (
        mapping_of(record["spec"].get("data")).get("name"),
        mapping_of(record["config"].get("train")).get("steps"),
    )
    return RunSummary(
        path=reader.path,
        status=status,
        architecture=name if isinstance(name, str) else None,
        started=record["started"],
        step=_count(last.get("step")),
        steps=cast("int", steps) if COUNT.fits(steps) else None,
        tokens=_count(last.get("tokens")),
        loss=number_of(last.get("loss")),
        val_loss=number_of(scored.get("val_loss")),
        val_bits_per_byte=number_of(scored.get("val_bits_per_byte")),
        tokens_per_second=speeds[len(speeds) // 2] if speeds else None,
        checkpoints=tuple(checkpoint.step for checkpoint in reader.checkpoints()),
        bytes=size_of(reader.path),
        events=kinds,
    )


def mapping_of(value: object) -> dict[str, Any]:
    """A mapping in a record that others may have changed; an empty one where it is something else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def number_of(value: object) -> float | None:
    """A number in a row that others may have changed; None where it is something else, or not finite."""
    return cast("float", value) if NUMBER.fits(value) else None


def _count(value: object) -> int:
    return cast("int", value) if COUNT.fits(value) else 0


def runs_below(folder: Path) -> Iterator[Path]:
    """The run folders in `folder` and below, by name; a run is not looked into, links are not followed.

    Raises RunError when there is no such folder.
    """
    if not folder.is_dir():
        what = "this is no folder" if folder.exists() else "there is no such folder"
        raise RunError(what, where=str(folder), fix="name the folder that your runs are in")
    depth = len(folder.parts)
    for parent, folders, files in os.walk(folder):
        if "run.json" in files:
            folders.clear()
            yield Path(parent)
        elif len(Path(parent).parts) - depth >= DEEPEST:
            folders.clear()
        else:
            folders[:] = sorted(name for name in folders if not name.startswith("."))


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder and below; files that go away meanwhile are not counted."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 (os.walk gives text)
            except OSError:
                continue
    return total


def differences(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What differs between records: dotted field -> name of the run -> value, `...` where it has none.

    Of settings, spec and data; never of when and where they ran.
    """
    flat = {name: _flat(record) for name, record in records.items()}
    fields = sorted({field for found in flat.values() for field in found})
    table = {field: {name: found.get(field, "...") for name, found in flat.items()} for field in fields}
    return {field: row for field, row in table.items() if len({repr(value) for value in row.values()}) > 1}


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    data = mapping_of(record["data"])
    wanted: dict[str, Any] = {
        "train": mapping_of(record["config"].get("train")),
        "spec": mapping_of(record["spec"].get("data")),
        "data": {key: data.get(key) for key in ("fingerprint", "vocab_size", "tokens")},
    }
    return dict(leaves("", wanted))


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted names."""
    if isinstance(value, dict) and value:
        for key, child in cast("dict[str, Any]", value).items():
            yield from leaves(f"{path}.{key}" if path else key, child)
    else:
        yield path, value
