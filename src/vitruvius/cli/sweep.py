"""`vitruvius sweep`: many runs by listing values, with one record, a table and a page."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING, Any, final

import click

from vitruvius.cli.arguments import Tokens, complete_preset, json_option, say_findings
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step, path_argument, say
from vitruvius.cli.verbs import ExampleCommand
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from vitruvius.lab.sweeping import SweepResult
    from vitruvius.lab.sweeping_plan import SweepPlan
    from vitruvius.lab.sweeping_record import RunState

SECONDS_BETWEEN_LINES = 10.0

EXAMPLES = (
    "vitruvius sweep run.yaml --set train.lr=[1e-3,3e-3] --set width=[128,256] --seeds 2 --out sweeps/a",
    "vitruvius sweep tiny-llama --data data/books --set train.optimizer=[adamw,muon] --seeds 3 --out sweeps/b --jobs 2",
    "vitruvius sweep run.yaml --out sweeps/a --dry-run --measure",
)


@click.command(
    cls=ExampleCommand,
    examples=EXAMPLES,
    help="Train SPEC (a file, a preset, or a run file) with every combination of the values that --set or its `sweep` "
    "section lists. Each arm is an ordinary run folder. The same command goes on where it was stopped; what is "
    "finished is kept. Leaves with 1 when a run failed.",
    epilog="Lists in a run file, groups that go together, ranges and samples: docs/training/sweeps.md.",
)
@click.argument("spec", metavar="SPEC", shell_complete=complete_preset)
@click.option("--data", metavar="DIR", help="Folder that `vitruvius data prepare` wrote.")
@click.option("--out", metavar="DIR", help="Folder of the sweep, with a run folder for each arm and seed.")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="As in train; a list lists values.")
@click.option("--seeds", type=int, metavar="N", help="Runs of each arm, with the same seeds for all.")
@click.option("--sample", type=int, metavar="N", help="Draw so many arms of the grid, or from ranges.")
@click.option("--jobs", type=int, default=1, show_default=True, metavar="N", help="Runs at a time, a process each.")
@click.option("--steps", type=int, help="As in train.")
@click.option("--seed", type=int, help="The first seed.")
@click.option("--batch", type=int, help="As in train.")
@click.option("--context", type=Tokens(), metavar="N", help="As in train.")
@click.option("--lr", type=float, help="As in train.")
@click.option("--checkpoint-every", type=int, metavar="K", help="As in train.")
@click.option("--dry-run", is_flag=True, help="Print every arm with its bill, and the total; train nothing.")
@click.option("--measure", is_flag=True, help="With --dry-run: do a few updates of each arm, to say how long it takes.")
@click.option("--on", metavar="HARDWARE", help="With --dry-run: bound the time on this hardware.")
@json_option
def command(
    *,
    spec: str,
    data: str | None,
    out: str | None,
    settings: tuple[str, ...],
    seeds: int | None,
    sample: int | None,
    jobs: int,
    dry_run: bool,
    measure: bool,
    on: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Plan, check and train; 0, 1 where a run failed, 75 after SIGTERM, 130 after Ctrl-C."""
    if (measure or on is not None) and (not dry_run or (measure and on is not None)):
        what = "--measure and --on are for --dry-run, one at a time"
        raise UsageError(what, where="--measure" if measure else "--on", fix="add --dry-run, and leave one of them out")
    from vitruvius.lab.sweeping_plan import plan_sweep

    plan = plan_sweep(spec, data=data, out=out, flags=flags, settings=settings, sample=sample, seeds=seeds, jobs=jobs)
    shown: set[str] = set()
    for arm in plan.arms:
        new = [finding for finding in arm.request.reading.findings if str(finding) not in shown]
        say_findings(new)
        shown.update(map(str, new))
    if dry_run:
        return _dry(plan, on, measured=measure, as_json=as_json)
    return _sweep(plan, as_json=as_json)


def _dry(plan: SweepPlan, on: str | None, *, measured: bool, as_json: bool) -> int:
    from vitruvius.lab.sweeping_bill import bill_of
    from vitruvius.report.sweep_bill import bill_text

    device = None
    if on is not None:
        from vitruvius.sizing.hardware import device_named

        device = device_named(on)
    if measured:
        say(f"a few updates of each of {len(plan.arms):,} arms are done in a folder that is thrown away")
    bill = bill_of(plan, on=device, measured=measured)
    if as_json:
        emit_json(bill)
    else:
        emit(clean(bill_text(bill)))
    next_step("the same command without --dry-run")
    return 0


def _sweep(plan: SweepPlan, *, as_json: bool) -> int:
    from vitruvius.lab.sweeping import sweep
    from vitruvius.report.sweep_text import sweep_text
    from vitruvius.training.stopping import stop_on_signals

    with stop_on_signals() as stop:
        result = sweep(plan, command=["vitruvius", *sys.argv[1:]], listener=_Talk(plan), stop=stop)
    if as_json:
        emit_json(result.document)
    else:
        emit(clean(sweep_text(result.document)))
    _say_ending(result)
    return result.exit_code


def _say_ending(result: SweepResult) -> None:
    counts = result.document["runs"]
    left = counts["stopped"] + counts["waiting"]
    if left:
        say(f"{left:,} runs are left; the same command goes on with them, and nothing is lost")
        next_step(clean(shlex.join(result.document["command"])))
        return
    if counts["failed"]:
        say(f"{counts['failed']:,} runs failed; the same command tries them again")
    say(f"report: {clean_line(str(result.page))}")
    best = result.document["verdict"]["best"]
    runs = [arm["runs"][0]["folder"] for arm in result.document["arms"] if arm["name"] == best]
    if runs:
        next_step(f"vitruvius runs show {path_argument(result.path / runs[0])}")


@final
class _Talk:
    """Says when runs begin and end, and now and then how far all of it is."""

    def __init__(self, plan: SweepPlan) -> None:
        self._total = len(plan.runs)
        self._done = 0
        self._running: dict[str, RunState] = {}
        self._last = time.monotonic()

    def kept(self, state: RunState) -> None:
        """A finished run."""
        self._done += 1
        say(clean_line(f"{state.planned.name}: finished before"))

    def began(self, state: RunState) -> None:
        """One more is being trained."""
        self._running[state.planned.folder] = state
        how = f"going on after step {state.step:,}" if state.step else "training"
        say(clean_line(f"{state.planned.name}: {how}"))

    def stepped(self, state: RunState) -> None:
        """A line about all of them, when it is time."""
        del state
        if time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        told = [
            f"{one.planned.name} at {one.step:,} of {one.planned.config.steps:,}"
            + ("" if one.loss is None else f", loss {one.loss:.3f}")
            for one in self._running.values()
        ]
        say(clean_line(f"{self._done:,} of {self._total:,} runs done; {'; '.join(told)}"))

    def noted(self, state: RunState, text: str) -> None:
        """A warning."""
        say(clean_line(f"{state.planned.name}: {text}"))

    def ended(self, state: RunState) -> None:
        """One is done, for now."""
        self._running.pop(state.planned.folder, None)
        self._done += state.status == "finished"
        what = {
            "finished": "finished" if state.val_loss is None else f"finished, held-out loss {state.val_loss:.4f}",
            "failed": f"failed: {state.error}",
        }.get(state.status, f"stopped at step {state.step:,}")
        say(clean(f"{state.planned.name}: {what}"))
