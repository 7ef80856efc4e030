"""`vitruvius new`: an architecture of one's own, started from a preset."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import complete_preset, json_option
from vitruvius.cli.output import emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.spec import Reading

DEFAULT = "tiny-llama"
SCHEMA = "vitruvius.new/1"
_NAME_LINE = re.compile(r"^name:.*$", re.MULTILINE)


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius new my-arch",
        "vitruvius new my-arch --from llama-moe",
        "vitruvius new long --from longcontext --out designs",
    ],
)
@click.argument("name", metavar="NAME")
@click.option(
    "--from",
    "source",
    default=DEFAULT,
    show_default=True,
    metavar="PRESET",
    shell_complete=complete_preset,
    help="What to start from; `vitruvius presets` lists them.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path(), metavar="DIR", help="Folder to write into.")
@click.option("--force", is_flag=True, help="Replace a file that is already there.")
@json_option
def command(*, name: str, source: str, out: Path, force: bool, as_json: bool) -> None:
    """Write NAME.yaml: a preset's text, comments included, under a name of your own."""
    from vitruvius.spec.reading import SUFFIXES, preset, presets_folder, read_with_findings

    if name.endswith(SUFFIXES):
        name = name.rpartition(".")[0]
    preset(source)  # raises, naming close ones, where there is none
    reading = read_with_findings(presets_folder() / f"{source}.yaml")
    _refuse_bad_name(name, reading)
    path = out / f"{name}.yaml"
    _write(path, _text(name, source, reading, path), force=force)
    if as_json:
        emit_json({"schema": SCHEMA, "name": name, "from": source, "file": str(path)})
    else:
        emit(str(path))
    next_step(f"vitruvius show {_quoted(path)}")


def _refuse_bad_name(name: str, reading: Reading) -> None:
    """Raise UsageError where the name breaks the rule that every architecture's name is under."""
    from dataclasses import replace

    from vitruvius.errors import UsageError
    from vitruvius.spec.rules import findings

    for finding in findings(replace(reading.architecture, name=name)):
        if finding.path == "name":
            raise UsageError(finding.what, where="NAME", fix=finding.fix)


def _text(name: str, source: str, reading: Reading, path: Path) -> str:
    """The preset's text with the new name, below a line that says where it comes from and how to go on."""
    head = f"# {name}, from the preset {source}. What it costs: vitruvius size {_quoted(path)}\n"
    return head + _NAME_LINE.sub(f"name: {_scalar(name)}", reading.text, count=1)


def _scalar(name: str) -> str:
    """The name as YAML text; one that reads as a number or a word such as `null` is quoted."""
    from vitruvius.spec.scalars import ScalarError, read_scalar

    try:
        return name if read_scalar(name) == name else f'"{name}"'
    except ScalarError:
        return f'"{name}"'


def _write(path: Path, text: str, *, force: bool) -> None:
    from vitruvius.errors import UsageError
    from vitruvius.runs.files import write_atomically

    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} is already there", fix="choose another name, or replace it with --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
