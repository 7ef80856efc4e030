"""`vitruvius doc`: the model card and the configuration reference of a spec or a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.report.model_card import Training
    from vitruvius.spec import Architecture

SCHEMA = "vitruvius.doc/1"
CARD, CONFIGURATION, DRAWING = "model-card.md", "configuration.md", "architecture.svg"


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius doc my-arch.yaml --out docs/my-arch",
        "vitruvius doc llama-moe > model-card.md",
        "vitruvius doc longcontext --page configuration",
        "vitruvius doc runs/first --out runs/first/docs",
    ],
)
@spec_argument()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the card, the configuration reference and the drawing into this folder.",
)
@click.option(
    "--page",
    type=click.Choice(["card", "configuration"]),
    default="card",
    show_default=True,
    help="Without --out: which page to print.",
)
@overrides_option
@json_option
def command(*, spec: str, out: Path | None, page: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Write what others should read about SPEC, a file, a preset or a run folder.

    The model card says what it is, costs and can do, with the claims of others held against the arithmetic; of a run
    also how it was trained and how to get it again. The configuration reference has every field with its value and
    what it means.
    """
    from vitruvius.report import svg_of
    from vitruvius.report.configuration import configuration_page
    from vitruvius.report.model_card import model_card

    architecture, training = _read(spec, overrides)
    drawing = None if out is None else DRAWING
    pages = {
        CARD: model_card(architecture, training, drawing=drawing),
        CONFIGURATION: configuration_page(architecture),
    }
    if out is not None:
        from vitruvius.runs.files import write_atomically

        out.mkdir(parents=True, exist_ok=True)
        for name, text in {**pages, DRAWING: svg_of(architecture)}.items():
            write_atomically(out / name, text.encode())
    if as_json:
        written = None if out is None else {name: str(out / name) for name in (*pages, DRAWING)}
        emit_json({"schema": SCHEMA, "name": architecture.name, "trained": training is not None, "files": written})
    elif out is not None:
        emit(clean("\n".join(str(out / name) for name in (*pages, DRAWING))))
    else:
        emit(clean(pages[CARD if page == "card" else CONFIGURATION]).rstrip("\n"))
    again = shlex.quote(clean(spec))
    next_step(f"vitruvius check {again}" if training is None else f"vitruvius generate {again} --prompt TEXT")


def _read(spec: str, overrides: tuple[str, ...]) -> tuple[Architecture, Training | None]:
    """The architecture, and its training where SPEC is a run folder."""
    from vitruvius.errors import RunError, UsageError
    from vitruvius.report.model_card import Training
    from vitruvius.spec.reading import read_text, read_with_findings

    if not Path(spec).is_dir():
        reading = read_with_findings(spec, overrides=overrides)
        say_findings(reading.findings)
        return reading.architecture, None
    if overrides:
        raise UsageError("a run is documented as it was", where=spec, fix="leave out --set, or name the spec")
    from vitruvius.runs import RunReader

    run = RunReader(spec)
    record = run.record()
    text = record["spec"]["text"]
    if text is None:
        raise RunError("the run has no spec", where=str(run.path / "run.json"), fix="name the spec itself")
    reading = read_text(text, file=str(run.path / "run.json"))
    return reading.architecture, Training(record=record, metrics=run.metrics())
