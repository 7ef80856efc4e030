"""`vitruvius schema`: the JSON Schema of a spec file."""

from __future__ import annotations

from pathlib import Path

import click

from vitruvius.cli.output import emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius schema --out vitruvius.schema.json",
        "vitruvius schema > vitruvius.schema.json",
        "vitruvius schema | jq '.properties.layers'",
    ],
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write there instead of standard output.")
def command(*, out: Path | None) -> None:
    """Print the JSON Schema of a spec file, from which an editor checks and completes it as you type.

    Put this line at the top of a spec: # yaml-language-server: $schema=vitruvius.schema.json
    """
    from vitruvius.spec.schema import json_schema

    if out is None:
        emit_json(json_schema())
        return
    import json

    from vitruvius.runs.files import write_atomically

    write_atomically(out, (json.dumps(json_schema(), indent=2) + "\n").encode())
    emit(str(out))
    next_step(f"put `# yaml-language-server: $schema={out}` at the top of your spec")
