"""`vitruvius show`: an architecture, drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step, wants_color
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.report.diagram import Diagram
    from vitruvius.report.diagram_text import Look

SCHEMA = "vitruvius.show/1"
_DRAWN = "┌─╮╌╎│⊕▲■□█▀▄·×→…"
"""Characters of a drawing; where stdout cannot print them it is drawn in ASCII."""


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius show llama-moe",
        "vitruvius show my-arch.yaml --svg my-arch.svg",
        "vitruvius show my-arch.yaml --svg - > my-arch.svg",
        "vitruvius show longcontext --set layers='(local*3 full)*8'",
    ],
)
@spec_argument()
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="Write it there as SVG; - is stdout.")
@overrides_option
@json_option
def command(*, spec: str, svg: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Draw SPEC, a file or a preset: the stack from tokens up to logits, and the inside of each block.

    With --svg the drawing is one self-contained file, fit for a paper or a web page.
    """
    from vitruvius.errors import UsageError
    from vitruvius.report.diagram import diagram_of
    from vitruvius.spec.reading import read_with_findings

    reading = read_with_findings(spec, overrides=overrides)
    diagram = diagram_of(reading.architecture)
    if svg is not None and as_json and str(svg) == "-":
        raise UsageError("both --json and --svg - would write to standard output", fix="name a file: --svg FILE")
    if svg is not None:
        _write_svg(diagram, svg)
    if as_json:
        emit_json({"schema": SCHEMA, "svg": None if svg is None else str(svg), **_data(diagram)})
        return
    if svg is not None:
        if str(svg) != "-":
            emit(clean(str(svg)))
    else:
        from vitruvius.report.diagram_text import draw_text

        emit(draw_text(diagram, _look()))
    say_findings(reading.findings)
    next_step(f"vitruvius size {clean(spec)}")


def _write_svg(diagram: Diagram, path: Path) -> None:
    from vitruvius.report.diagram_svg import draw_svg
    from vitruvius.runs.files import write_atomically

    if str(path) == "-":
        emit(draw_svg(diagram).rstrip("\n"))
    else:
        write_atomically(path, draw_svg(diagram).encode())


def _data(diagram: Diagram) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(diagram), "layer_line": diagram.layer_line}


def _look() -> Look:
    import shutil

    from vitruvius.report.diagram_text import Look

    try:
        _DRAWN.encode(sys.stdout.encoding or "ascii")
        ascii_only = False
    except UnicodeEncodeError:
        ascii_only = True
    return Look(width=shutil.get_terminal_size((100, 24)).columns, color=wants_color(), ascii_only=ascii_only)
