"""`vitruvius presets`: the architectures that come with the package."""

from __future__ import annotations

from typing import Any

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand

SCHEMA = "vitruvius.presets/1"


@click.command(
    cls=ExampleCommand,
    examples=["vitruvius presets", "vitruvius presets --json", "vitruvius presets | grep moe"],
)
@json_option
def command(*, as_json: bool) -> None:
    """List the architectures that come with vitruvius: start from one, or size it as it is."""
    rows = _rows()
    if as_json:
        emit_json({"schema": SCHEMA, "presets": rows})
        return
    emit(_table(rows))
    next_step("vitruvius new my-arch --from llama-moe")


def _rows() -> list[dict[str, Any]]:
    from vitruvius.sizing import count_parameters
    from vitruvius.spec import preset, preset_names, resolve

    rows: list[dict[str, Any]] = []
    for name in preset_names():
        architecture = preset(name)
        parameters = count_parameters(resolve(architecture))
        rows.append(
            {
                "name": name,
                "parameters": parameters.total,
                "active_parameters": parameters.active,
                "context": architecture.context,
                "description": architecture.description,
            }
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    from vitruvius.report.tables import columns
    from vitruvius.units import format_count

    head = ("name", "parameters", "active", "context", "what it is")
    lines = [
        (
            row["name"],
            format_count(row["parameters"]),
            format_count(row["active_parameters"]) if row["active_parameters"] != row["parameters"] else "",
            f"{row['context']:,}",
            row["description"],
        )
        for row in rows
    ]
    return "\n".join(columns([head, *lines], align="<>>><"))
