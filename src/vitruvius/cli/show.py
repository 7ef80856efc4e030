"""`vitruvius show`: an architecture, drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step, wants_color
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.nn.backends.survey import BlockBackends
    from vitruvius.report.diagram import Diagram
    from vitruvius.report.diagram_text import Look
    from vitruvius.spec import Architecture

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
        "vitruvius show longcontext --backends",
    ],
)
@spec_argument()
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="Write it there as SVG; - is stdout.")
@click.option("--backends", is_flag=True, help="Say what computes each block's attention, and why. Needs torch.")
@overrides_option
@json_option
def command(*, spec: str, svg: Path | None, backends: bool, overrides: tuple[str, ...], as_json: bool) -> None:
    """Draw SPEC, a file or a preset: the stack from tokens up to logits, and the inside of each block.

    With --svg the drawing is one self-contained file, fit for a paper or a web page. With --backends a table says which
    kernel each block gets to train and to infer, on CPU and CUDA, and to decode token by token.
    """
    from vitruvius.errors import UsageError
    from vitruvius.report.diagram import diagram_of
    from vitruvius.spec.reading import read_with_findings

    reading = read_with_findings(spec, overrides=overrides)
    diagram = diagram_of(reading.architecture)
    if svg is not None and (as_json or backends) and str(svg) == "-":
        other = "--json" if as_json else "--backends"
        raise UsageError(f"both {other} and --svg - would write to standard output", fix="name a file: --svg FILE")
    if svg is not None:
        _write_svg(diagram, svg)
    found = _survey(reading.architecture) if backends else None
    if as_json:
        told = None if found is None else [_backend_data(block) for block in found]
        emit_json({"schema": SCHEMA, "svg": None if svg is None else str(svg), "backends": told, **_data(diagram)})
        return
    if found is not None:
        emit(_backend_table(found))
    elif svg is not None:
        if str(svg) != "-":
            emit(clean(str(svg)))
    else:
        from vitruvius.report.diagram_text import draw_text

        emit(draw_text(diagram, _look()))
    say_findings(reading.findings)
    next_step(f"vitruvius size {clean(spec)}")


def _survey(architecture: Architecture) -> tuple[BlockBackends, ...]:
    from vitruvius.nn.backends.survey import survey

    return survey(architecture)


def _backend_data(block: BlockBackends) -> dict[str, Any]:
    rows = {
        occasion: None if row is None else {"backend": row.backend, "why": row.why}
        for occasion, row in block.rows.items()
    }
    return {"block": block.block, "sublayer": block.sublayer, "sees": block.sees, "terms": list(block.terms), **rows}


def _backend_table(blocks: Sequence[BlockBackends]) -> str:
    """A line for each block, then why each backend is taken."""
    occasions = {occasion: occasion.replace("_", " ") for occasion in blocks[0].rows}
    lines = [("block", "sublayer", *occasions.values(), "terms", "sees")]
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for block in blocks:
        names: list[str] = []
        for occasion, row in block.rows.items():
            names.append("-" if row is None else row.backend)
            if row is not None:
                reasons.setdefault((row.backend, row.why), {})[occasions[occasion]] = None
        lines.append((block.block, block.sublayer, *names, ", ".join(block.terms) or "-", block.sees or "-"))
    lines = [tuple(clean_line(cell) for cell in line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    longest = max((len(name) for name, _ in reasons), default=0)
    said = [f"{name.ljust(longest)}  {', '.join(when)}: {why}" for (name, why), when in reasons.items()]
    return "\n".join([*table, "", *said])


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
