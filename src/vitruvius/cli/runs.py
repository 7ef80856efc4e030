"""`vitruvius runs`: the runs there are, what each came to, how they differ, and what they can let go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step, path_argument, say
from vitruvius.cli.runs_export import command as export_command
from vitruvius.cli.runs_report import command as report_command
from vitruvius.cli.runs_samples import command as samples_command
from vitruvius.cli.runs_watch import command as watch_command
from vitruvius.cli.verbs import ExampleGroup
from vitruvius.errors import RunError

if TYPE_CHECKING:
    from vitruvius.runs import Checkpoint
    from vitruvius.runs.pruning import Kept
    from vitruvius.runs.summary import RunSummary

LIST_EXAMPLES = ("vitruvius runs list", "vitruvius runs list experiments", "vitruvius runs list runs --json")
SHOW_EXAMPLES = (
    "vitruvius runs show runs/first",
    "vitruvius runs show runs/first --verify",
    "vitruvius runs show r --json",
)
COMPARE_EXAMPLES = (
    "vitruvius runs compare runs/a runs/b",
    "vitruvius runs compare runs/*",
    "vitruvius runs compare runs/a runs/b --json",
)
PRUNE_EXAMPLES = (
    "vitruvius runs prune runs/* --dry-run",
    "vitruvius runs prune runs/first --keep 1 --keep-best 1",
    "vitruvius runs prune runs/first --json",
)


@click.group(
    "runs",
    cls=ExampleGroup,
    help="List, show, watch, compare and report on training runs, and delete checkpoints that they no longer need.",
    examples=(LIST_EXAMPLES[0], COMPARE_EXAMPLES[0], PRUNE_EXAMPLES[0]),
)
def command() -> None:
    """Hold the verbs of runs."""


command.add_command(watch_command)
command.add_command(report_command)
command.add_command(export_command)
command.add_command(samples_command)


@command.command("list", examples=LIST_EXAMPLES, help="List the run folders in DIR and below (default: this folder).")
@click.argument("folder", metavar="[DIR]", default=".")
@json_option
def list_command(*, folder: str, as_json: bool) -> None:
    """Print a row for each run; damaged ones are named on stderr."""
    from vitruvius.report.runs_text import list_text
    from vitruvius.runs.summary import runs_below, summary_of

    found: list[RunSummary] = []
    broken: list[dict[str, str]] = []
    for path in runs_below(Path(folder)):
        try:
            found.append(summary_of(path))
        except RunError as error:
            broken.append({"path": str(path), "what": error.what})
            say(f"passed over {clean_line(str(path))}: {clean_line(error.what)}")
    found.sort(key=lambda run: (run.started, str(run.path)))
    if as_json:
        emit_json({"schema": "vitruvius.runs-list/1", "runs": [run.to_dict() for run in found], "damaged": broken})
    elif found:
        emit(clean(list_text(found)))
        next_step(f"vitruvius runs show {path_argument(found[-1].path)}")
    else:
        say(f"no run in {clean_line(folder)} or below")


@command.command("show", examples=SHOW_EXAMPLES, help="Show one run: progress, settings, data, machine, events.")
@click.argument("run")
@click.option("--verify", is_flag=True, help="Compare every checkpoint with its manifest; exit 1 on damage.")
@json_option
def show_command(*, run: str, verify: bool, as_json: bool) -> int:
    """Print what a run folder says."""
    from vitruvius.report.run_samples import samples_text
    from vitruvius.report.runs_text import show_text
    from vitruvius.runs import RunReader
    from vitruvius.runs.pruning import kept_by, rules_of
    from vitruvius.runs.samples import newest, samples_of
    from vitruvius.runs.summary import mapping_of, summary_of

    summary, reader = summary_of(run), RunReader(run)
    record = reader.record()
    kept = kept_by(reader, rules_of(reader))
    damage: dict[int, str | None] | None = None
    if verify:
        damage = {checkpoint.step: _damage(checkpoint) for checkpoint in reader.checkpoints()}
    changed = changed_settings(mapping_of(record["config"].get("train")))
    written = newest(samples_of(reader.path))
    if as_json:
        verified = None if damage is None else {str(step): what for step, what in damage.items()}
        told = {"schema": "vitruvius.runs-show/1", **summary.to_dict(), "settings_changed": changed, "samples": written}
        emit_json({**told, "record": record, "checkpoint_damage": verified, "kept": [_kept(each) for each in kept]})
    else:
        emit(clean("\n\n".join(filter(None, (show_text(summary, record, changed, kept), samples_text(written))))))
        for step, what in (damage or {}).items():
            emit(f"step {step:,}: {'whole' if what is None else clean_line(what)}")
        run_name = path_argument(run)
        done = summary.status == "finished"
        next_step(f"vitruvius generate {run_name} --prompt 'Once'" if done else f"vitruvius train --resume {run_name}")
    return 1 if damage and any(damage.values()) else 0


@command.command("compare", examples=COMPARE_EXAMPLES, help="Put runs side by side, and say what differs.")
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True)
@json_option
def compare_command(*, runs: tuple[str, ...], as_json: bool) -> None:
    """Print results and differences."""
    from vitruvius.report.runs_text import compare_text
    from vitruvius.runs import RunReader
    from vitruvius.runs.summary import differences, summary_of

    unique = tuple(dict.fromkeys(str(Path(run)) for run in runs))
    if len(unique) < 2:
        raise click.UsageError("name at least two different runs")
    found = [summary_of(run) for run in unique]
    differing = differences({run: RunReader(run).record() for run in unique})
    if as_json:
        told = [summary.to_dict() for summary in found]
        emit_json({"schema": "vitruvius.runs-compare/1", "runs": told, "differences": differing})
    else:
        emit(clean(compare_text(found, differing)))
        say("a verdict needs matched compute and several seeds: vitruvius lab")


@command.command(
    "prune", examples=PRUNE_EXAMPLES, help="Delete checkpoints that no rule keeps; the newest whole one stays."
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--keep", default=1, show_default=True, help="Checkpoints to keep, the newest.")
@click.option(
    "--keep-every", type=int, metavar="N", help="And those whose step N divides (default: the run's own rule)."
)
@click.option(
    "--keep-best", type=int, metavar="K", help="And K with the lowest val_loss (default: the run's own rule)."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@json_option
def prune_command(
    *, runs: tuple[str, ...], keep: int, keep_every: int | None, keep_best: int | None, dry_run: bool, as_json: bool
) -> None:
    """Delete, say why the others stay, and how much room that made."""
    from vitruvius.runs.pruning import prune_run, pruning_of
    from vitruvius.units import format_bytes

    prune = pruning_of if dry_run else prune_run
    plans = [(run, prune(run, keep=keep, every=keep_every, best=keep_best)) for run in runs]
    total = sum(folder.bytes for _, plan in plans for folder in plan.doomed)
    if as_json:
        gone = [
            {"run": run, "path": str(each.path), "why": each.why, "bytes": each.bytes}
            for run, plan in plans
            for each in plan.doomed
        ]
        kept = [{"run": run, **_kept(each)} for run, plan in plans for each in plan.kept]
        told = {"schema": "vitruvius.runs-prune/1", "deleted": not dry_run, "folders": gone, "kept": kept}
        emit_json({**told, "bytes": total})
        return
    for _, plan in plans:
        for folder in plan.doomed:
            emit(f"{format_bytes(folder.bytes):>12}  {folder.why:8}  {clean_line(str(folder.path))}")
        for each in plan.kept:
            emit(f"{format_bytes(each.bytes):>12}  stays     {clean_line(str(each.path))}: {', '.join(each.why)}")
    say(f"{format_bytes(total)} {'would be' if dry_run else 'were'} freed")


def _kept(each: Kept) -> dict[str, Any]:
    return {
        "step": each.step,
        "path": str(each.path),
        "why": list(each.why),
        "bytes": each.bytes,
        "val_loss": each.val_loss,
    }


def _damage(checkpoint: Checkpoint) -> str | None:
    try:
        checkpoint.verify()
    except RunError as error:
        return f"{error.where}: {error.what}"
    return None


def changed_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that differ from the default, by dotted name."""
    from vitruvius.runs.summary import leaves
    from vitruvius.training.config import TrainConfig, to_plain

    default = dict(leaves("", to_plain(TrainConfig())))
    return {name: value for name, value in leaves("", settings) if default.get(name, ...) != value}
