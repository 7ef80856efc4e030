"""The plan of a job: plain data, the same for every order of the inputs, so that a later run knows whether to go on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import vitruvius
from vitruvius.data.options import PrepareOptions
from vitruvius.data.reading.units import Unit
from vitruvius.errors import DataError
from vitruvius.runs.files import read_json, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

PLAN = "plan.json"
PLAN_SCHEMA = "vitruvius.job/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRecord:
    """An input file, as reports name it."""

    source: str
    """The source it belongs to."""
    name: str
    """As the arguments spell it."""
    kind: str
    """How it is read."""
    size_bytes: int
    """When the job was planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job is to do."""

    out: str
    """The folder that the data will have."""
    options: PrepareOptions
    """Everything that changes the output."""
    units: tuple[Unit, ...]
    """The pieces of the inputs, by source, then in the order of their names."""
    sources: tuple[str, ...]
    """The source of each unit."""
    tokenizer_sha256: str | None
    """Of the tokenizer that was named; None when one is trained."""
    eos: str | None
    """Its separator."""
    files: tuple[InputRecord, ...]
    """Every input file, by source, then by name."""
    passed_over: dict[str, int]
    """Files in folders that were not taken: suffix -> count."""

    def as_json(self) -> dict[str, Any]:
        """Plain data with a fingerprint of all of it."""
        content: dict[str, Any] = {
            "schema": PLAN_SCHEMA,
            "version": vitruvius.__version__,
            "out": self.out,
            "options": self.options.as_json(),
            "units": [unit.as_json() for unit in self.units],
            "sources": list(self.sources),
            "tokenizer_sha256": self.tokenizer_sha256,
            "eos": self.eos,
            "files": [asdict(file) for file in self.files],
            "passed_over": self.passed_over,
        }
        return content | {"fingerprint": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan, atomically."""
    # In ASCII, because the path of an input need not be UTF-8.
    write_atomically(path, json.dumps(plan.as_json(), indent=1, sort_keys=True).encode("ascii") + b"\n")


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise DataError(
            "there is no plan.json, so this is no job folder",
            where=str(path.parent),
            fix="name the folder OUT.work that `vitruvius data prepare` made",
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"the plan cannot be read: {error}", where=str(path), fix="prepare again") from None
    try:
        if (content["schema"], content["version"]) != (PLAN_SCHEMA, vitruvius.__version__):
            what = (
                f"the job is of version {content['version']!r} ({content['schema']!r}), this is {vitruvius.__version__}"
            )
            raise DataError(what, where=str(path), fix="prepare again")
        return Plan(
            out=content["out"],
            options=PrepareOptions.from_json(content["options"]),
            units=tuple(Unit.from_json(unit) for unit in content["units"]),
            sources=tuple(content["sources"]),
            tokenizer_sha256=content["tokenizer_sha256"],
            eos=content["eos"],
            files=tuple(InputRecord(**file) for file in content["files"]),
            passed_over=content["passed_over"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the plan is damaged: {error}", where=str(path), fix="prepare again") from None
