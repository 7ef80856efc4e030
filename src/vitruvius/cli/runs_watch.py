"""`vitruvius runs watch`: a run that another process trains, while it goes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean, emit, emit_json, say
from vitruvius.cli.runs_report import drawing_style
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.report.run_live import Live
    from vitruvius.runs import RunReader

GOOD_ENDS = frozenset({"running", "finished", "stopped"})


@click.command(
    "watch",
    cls=ExampleCommand,
    help="Watch RUN while another process trains it: how far it is, its loss as a curve, held-out text, speed, events, "
    "the newest checkpoint. It ends when the run does, with exit code 1 where that failed or died. Without a terminal "
    "it prints a line now and then. Nothing is written to the run.",
    examples=[
        "vitruvius runs watch runs/first",
        "vitruvius runs watch runs/first --once",
        "vitruvius runs watch runs/first --every 100 > log.txt",
        "vitruvius runs watch runs/first --json",
    ],
)
@click.argument("run")
@click.option("--once", is_flag=True, help="Print how it is now, and leave.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Without a terminal: steps between lines (default: a fiftieth of the run).",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between looks at the run.",
)
@json_option
def command(*, run: str, once: bool, every: int | None, interval: float, as_json: bool) -> int:
    """Look, show, wait."""
    watched = _Watched(run)
    watched.look()
    if as_json:
        emit_json(watched.live.to_dict(watched.status, watched.checkpoint))
    elif once or watched.status != "running":
        emit(watched.shown())
    elif sys.stdout.isatty():
        _live(watched, interval)
    else:
        _lines(watched, interval, every)
    return 0 if watched.status in GOOD_ENDS else 1


class _Watched:
    """A run folder, looked at now and then."""

    def __init__(self, run: str) -> None:
        from vitruvius.report.run_live import Live
        from vitruvius.runs import RunReader
        from vitruvius.runs.following import Following
        from vitruvius.runs.samples import SAMPLES_FILE
        from vitruvius.runs.summary import mapping_of

        self.reader: RunReader = RunReader(run)
        record = self.reader.record()
        spec = mapping_of(record["spec"].get("data"))
        train = mapping_of(record["config"].get("train"))
        steps = train.get("steps")
        name = spec.get("name")
        self.live: Live = Live(
            name=run,
            architecture=name if isinstance(name, str) else None,
            steps=steps if type(steps) is int else None,
        )
        self.status = "running"
        self._metrics = Following(self.reader.path / "metrics.jsonl")
        self._events = Following(self.reader.path / "events.jsonl")
        self._samples = Following(self.reader.path / SAMPLES_FILE)

    def look(self) -> None:
        """Take in what is new. The status is read first, so that the rows of a run that has ended are all seen."""
        from vitruvius.runs.samples import is_sample

        self.status = self._status()
        news = self._metrics.news()
        if news.is_anew:
            self.live.anew()
        self.live.add_rows(news.rows)
        self.live.add_events(self._events.news().rows)
        self.live.sample = next(filter(is_sample, reversed(self._samples.news().rows)), self.live.sample)

    def _status(self) -> str:
        from vitruvius.runs.lock import is_held

        status = str(self.reader.record()["status"])
        if status == "running" and not is_held(self.reader.path):
            # The lock goes a moment after the record is written: what the record says now is the last word.
            status = str(self.reader.record()["status"])
            return "died" if status == "running" else status
        return status

    @property
    def checkpoint(self) -> tuple[int, float] | None:
        """Step and age of the newest checkpoint."""
        for newest in reversed(self.reader.checkpoints()):
            try:
                return newest.step, max(0.0, time.time() - newest.path.stat().st_mtime)
            except FileNotFoundError:  # pruned since it was listed
                continue
        return None

    def shown(self, width: int = 64) -> str:
        """Several lines for a terminal."""
        text = self.live.text(self.status, style=drawing_style(), checkpoint=self.checkpoint, width=width)
        return clean(text)


def _live(watched: _Watched, interval: float) -> None:
    """In place, until the run ends; the last state stays."""
    from rich.console import Console
    from rich.live import Live as Screen
    from rich.text import Text

    console = Console(highlight=False)

    def drawn() -> Text:
        return Text(watched.shown(max(16, min(100, console.width - 16))), no_wrap=True, overflow="crop")

    with Screen(drawn(), console=console, auto_refresh=False) as screen:
        while watched.status == "running":
            time.sleep(interval)
            watched.look()
            screen.update(drawn(), refresh=True)


def _lines(watched: _Watched, interval: float, every: int | None) -> None:
    """A line each `every` steps, for every validation and bad event, and at the end."""
    live = watched.live
    every = every or max(1, (live.steps or 1000) // 50)
    last = (-1, 0, None)
    while True:
        scored = None if live.validation is None else live.validation["step"]
        due = live.step - last[0] >= every or live.step < last[0]
        if due or live.bad_events != last[1] or scored != last[2] or watched.status != "running":
            emit(clean(live.line(watched.status)))
            sys.stdout.flush()
            last = (live.step, live.bad_events, scored)
        if watched.status != "running":
            say(
                f"the run {'has' if watched.status in GOOD_ENDS | {'failed'} else ''} {watched.status}".replace(
                    "  ", " "
                )
            )
            return
        time.sleep(interval)
        watched.look()
