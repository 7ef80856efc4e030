"""`vitruvius runs report`: the curves of runs over one another, what happened, what they were told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step, path_argument, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.report.run_report import Reported


@click.command(
    "report",
    cls=ExampleCommand,
    help="Report on runs, their curves over one another: loss, held-out text, learning rate, gradient norm, speed and "
    "what was watched, with events marked, settings that are not the default, and the machine.",
    examples=[
        "vitruvius runs report runs/first",
        "vitruvius runs report runs/first --html report.html",
        "vitruvius runs report runs/a runs/b --html both.html",
        "vitruvius runs report runs/first --json",
    ],
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write it as a page, with all curves.")
@json_option
def command(*, runs: tuple[str, ...], html: Path | None, as_json: bool) -> None:
    """Print or write the report."""
    from vitruvius.report.run_report import report_data, report_page, report_text
    from vitruvius.runs.files import replacing

    found = [_reported(run) for run in dict.fromkeys(str(Path(run)) for run in runs)]
    if html is not None:
        with replacing(html) as file:
            file.write(report_page(found).encode("utf-8", "backslashreplace"))
        say(f"wrote {clean_line(str(html))}")
    if as_json:
        emit_json(report_data(found))
    elif html is None:
        emit(clean(report_text(found, style=drawing_style())))
        next_step(f"vitruvius runs report {' '.join(map(_quoted, runs))} --html report.html")


def drawing_style() -> str:
    """What curves may be drawn with on stdout: `blocks`, or `ascii` where its encoding has none."""
    return "blocks" if (sys.stdout.encoding or "").lower().startswith("utf") else "ascii"


def _reported(run: str) -> Reported:
    from vitruvius.cli.runs import changed_settings
    from vitruvius.report.run_report import Reported
    from vitruvius.runs import RunReader
    from vitruvius.runs.samples import samples_of
    from vitruvius.runs.summary import mapping_of, summary_of

    reader = RunReader(run)
    record = reader.record()
    changed = changed_settings(mapping_of(record["config"].get("train")))
    written = samples_of(reader.path)
    return Reported.of(summary_of(run), record, changed, reader.metrics(), reader.events(), written)


def _quoted(run: str) -> str:
    return path_argument(run)
