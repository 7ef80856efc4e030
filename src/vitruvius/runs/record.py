"""The reproducibility record: what a result needs beside it so that someone else can get it again."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vitruvius.runs.environment import environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RECORD_SCHEMA = "vitruvius.record/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproducibilityRecord:
    """Versions, runtime, data path, observed output and constraints of one result."""

    title: str
    """What was done, in a line."""
    command: tuple[str, ...]
    """The command that gave the result, word by word."""
    data: dict[str, Any]
    """Where the data lay and its fingerprint; empty when the result needs none."""
    observed: dict[str, Any]
    """What came out: name to value."""
    constraints: tuple[str, ...]
    """What the result depends on or does not promise, a sentence each."""
    seeds: dict[str, int]
    """Every seed that was set."""
    environment: dict[str, Any] = field(default_factory=environment)
    """As `environment()` found it."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON data, with its schema."""
        plain = asdict(self)
        return {"schema": RECORD_SCHEMA, **plain, "command": list(self.command), "constraints": list(self.constraints)}

    def to_markdown(self) -> str:
        """The record as a block of markdown, for reports, model cards and lab logs."""
        machine = self.environment
        memory = machine.get("memory_bytes")
        runtime = {
            "Platform": machine.get("platform"),
            "CPU": machine.get("cpu"),
            "Cores": machine.get("cores_usable"),
            "Memory": None if memory is None else f"{memory / 1e9:.1f} GB",
            "GPUs": ", ".join(machine.get("gpus", ())) or "none",
            "Date (UTC)": machine.get("time_utc"),
        }
        runtime |= {name: value for name, value in machine.get("variables", {}).items() if value is not None}
        versions = {
            "vitruvius": machine.get("vitruvius"),
            "Python": machine.get("python"),
            **machine.get("packages", {}),
        }
        sections = [f"### {self.title}"]
        if self.command:
            sections.append("```sh\n" + shlex.join(self.command) + "\n```")
        tables = {
            "Observed": self.observed,
            "Data": self.data,
            "Seeds": self.seeds,
            "Versions": versions,
            "Runtime": runtime,
        }
        sections += [_table(name, rows) for name, rows in tables.items() if rows]
        if self.constraints:
            sections.append("Constraints:\n\n" + "\n".join(f"- {line}" for line in self.constraints))
        return "\n\n".join(sections) + "\n"


def reproducibility_record(
    title: str,
    *,
    command: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    observed: Mapping[str, Any] | None = None,
    constraints: Sequence[str] = (),
    seeds: Mapping[str, int] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> ReproducibilityRecord:
    """The record of a result; the environment is looked up unless given (as read from a run folder)."""
    found = {} if environment is None else {"environment": dict(environment)}
    return ReproducibilityRecord(
        title=title,
        command=tuple(command),
        data=dict(data or {}),
        observed=dict(observed or {}),
        constraints=tuple(constraints),
        seeds=dict(seeds or {}),
        **found,
    )


def _table(name: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | |", "|---|---|"]
    lines += [f"| {_cell(key)} | {_cell(_plain(value))} |" for key, value in rows.items()]
    return "\n".join(lines)


def _plain(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
