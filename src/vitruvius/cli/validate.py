"""`vitruvius validate`: the one report about an architecture."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.lab.validate import Validation

FAILED = 1
FILES = ("report.md", "report.html", "report.json", "architecture.svg")


@click.command(
    cls=ExampleCommand,
    help="Check, size and bench SPEC (a file or a preset), and write one report: architecture tests, benchmark at "
    "4,096, 16,384, 65,536 and 102,400 tokens (or what its context takes), configuration, parameter counts.\n\n"
    "What does not fit into memory or time is predicted and marked so. An architecture too big for this machine is "
    "benched through a prototype with the same ratios and context. Leaves with 1 when a check fails.",
    examples=[
        "vitruvius validate longcontext",
        "vitruvius validate my-arch.yaml --out validation --on rtx-4090 --on h100-80gb",
        "vitruvius validate tiny-llama-moe --quick",
        "vitruvius validate my-arch.yaml --lengths 1k,8k --minutes 10 --json",
    ],
)
@spec_argument()
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for it. [default: NAME-validation]")
@click.option("--quick", is_flag=True, help="Few checks, short texts, few runs: to see what the report looks like.")
@click.option("--lengths", metavar="N,N,...", help="Tokens of context to bench at.")
@click.option("--minutes", type=float, help="Time for the bench, about. [default: 2, and 0.2 with --quick]")
@click.option(
    "--on", multiple=True, metavar="HARDWARE", help="Ask whether it fits there; repeatable. [default: h100-80gb]"
)
@click.option("--threads", type=click.IntRange(1, 4096), help="CPU threads; torch's own choice when not given.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Draws all that is drawn."
)
@overrides_option
@json_option
def command(
    *,
    spec: str,
    out: Path | None,
    quick: bool,
    lengths: str | None,
    minutes: float | None,
    on: tuple[str, ...],
    threads: int | None,
    seed: int,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Read the spec, examine it, write the report."""
    from vitruvius.cli.bench import quiet_profiler
    from vitruvius.spec import read_with_findings

    quiet_profiler()
    reading = read_with_findings(spec, overrides=overrides)
    say_findings(finding for finding in reading.findings if finding.severity == "warning")
    folder = _folder(Path(f"{reading.architecture.name}-validation") if out is None else out)
    from vitruvius.lab.validate import DEVICES, FULL, QUICK, validate

    found = validate(
        reading.architecture,
        effort=QUICK if quick else FULL,
        lengths=lengths,
        on=on or DEVICES,
        minutes=minutes,
        seed=seed,
        threads=threads,
        spec=spec,
        say=lambda text: say(clean(text)),
    )
    document = found.to_dict()
    try:
        _write(folder, found, document)
    finally:  # what took minutes to find out is shown even where it cannot be written
        if as_json:
            emit_json(document)
        else:
            emit(clean(_summary(document)))
    say(f"wrote {', '.join(clean(str(folder / name)) for name in FILES)}")
    say(clean(found.experiment.to_text()))
    next_step(found.experiment.command if found.passed else f"vitruvius check {shlex.quote(clean(spec))}")
    return 0 if found.passed else FAILED


def _folder(folder: Path) -> Path:
    """A folder that can be written to, found out before minutes are spent. Raises UsageError, or OSError."""
    from vitruvius.errors import UsageError

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder", where="--out", fix="name a folder")
    for name in FILES:
        if (folder / name).is_dir():
            raise UsageError(f"{folder / name} is a folder", where="--out", fix="name another folder")
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    if not os.access(nearest, os.W_OK):
        raise UsageError(f"{nearest} cannot be written", where="--out", fix="check its permissions, or name another")
    return folder


def _write(folder: Path, found: Validation, document: dict[str, Any]) -> None:
    """Every file whole or not at all, and none before all of them are made."""
    from vitruvius.report import svg_of
    from vitruvius.report.validate_page import validation_page
    from vitruvius.report.validate_text import validation_markdown
    from vitruvius.runs.files import json_text, write_atomically

    drawing = svg_of(found.architecture)
    texts = {
        "architecture.svg": drawing,
        "report.json": json_text(document),
        "report.html": validation_page(document, drawing=drawing),
        "report.md": validation_markdown(document, drawing="architecture.svg"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())


def _summary(document: dict[str, Any]) -> str:
    """The answers in short; the report has the rest."""
    from vitruvius.report.bench_text import bench_text
    from vitruvius.report.tables import columns
    from vitruvius.report.validate_text import (
        DEVICE_HEAD,
        FULL_HEAD,
        device_rows,
        failures,
        full_rows,
        questions,
        verdict,
    )

    blocks = [
        f"{document['name']}: {verdict(document)}",
        "\n".join(columns([row[:2] for row in questions(document)], align="<<")),
        "\n".join(f"✗ {one['name']}: {one['detail']}\n  look at: {one['look_at']}" for one in failures(document)),
        "\n".join(columns([DEVICE_HEAD, *device_rows(document)], align="<<<>>>>")),
        "\n".join(document["notes"]),
        bench_text(document["bench"]),
    ]
    if document["full_size"]:
        shown = columns([FULL_HEAD, *full_rows(document)], align="<>>>>>")
        blocks.append("\n".join([f"{document['name']} at full size, predicted", *shown]))
    return "\n\n".join(block for block in blocks if block)
