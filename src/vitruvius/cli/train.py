"""`vitruvius train`: pretrain an architecture on prepared data, or go on with a run."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import Count, Tokens, complete_preset, json_option, say_findings
from vitruvius.cli.output import abandon, clean, emit, emit_json, next_step, path_argument, say, wants_color
from vitruvius.cli.verbs import ExampleCommand
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from vitruvius.training.loop import Listener
    from vitruvius.training.request import Request
    from vitruvius.training.session import TrainResult

EXAMPLES = (
    "vitruvius train tiny-llama --data data/books --out runs/first --steps 500",
    "vitruvius train run.yaml --set train.lr=1e-3 --set width=256 --dry-run",
    "vitruvius train run.yaml --dry-run --measure",
    "vitruvius train run.yaml --plan --on h100-80gb --gpus 8",
    "vitruvius train --resume runs/first",
)

_ANYWHERE = "runs/first"
"""The run folder of a dry run that names none: nothing is made."""


@click.command(
    cls=ExampleCommand,
    examples=EXAMPLES,
    help="Train SPEC (a file, a preset, or a run file with spec, data and train sections) on prepared data. "
    "Ctrl-C, SIGTERM and a closed terminal save a checkpoint and leave; --resume goes on bit for bit.",
    epilog="Every other setting: --set train.NAME=VALUE, listed in docs/training.md.",
)
@click.argument("spec", required=False, metavar="SPEC", shell_complete=complete_preset)
@click.option("--data", metavar="DIR", help="Folder that `vitruvius data prepare` wrote.")
@click.option("--out", metavar="DIR", help="Run folder to make.")
@click.option("--resume", metavar="RUN", help="Go on with the run in this folder.")
@click.option("--steps", type=int, help="Optimizer steps of the whole run.")
@click.option("--seed", type=int, help="Draws the first weights and the order of the samples.")
@click.option("--batch", type=int, help="Samples per step.")
@click.option("--context", type=Tokens(), metavar="N", help="Tokens per sample: 4096, 128k.")
@click.option("--lr", type=float, help="Learning rate at the top of the schedule.")
@click.option("--checkpoint-every", type=int, metavar="K", help="Steps between checkpoints.")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change the spec, or train.NAME.")
@click.option("--dry-run", is_flag=True, help="Print the resolved settings, the bill and the time; train nothing.")
@click.option("--measure", is_flag=True, help="With --dry-run: do a few updates, to say how long it takes here.")
@click.option(
    "--on", metavar="HARDWARE", help="With --dry-run: bound the time there. With --plan: spread it over those."
)
@click.option("--plan", "placing", is_flag=True, help="Print how sizing spreads the run over devices; train nothing.")
@click.option("--gpus", type=Count(), metavar="N", help="With --plan: how many devices.")
@json_option
def command(
    *,
    spec: str | None,
    data: str | None,
    out: str | None,
    resume: str | None,
    settings: tuple[str, ...],
    dry_run: bool,
    measure: bool,
    on: str | None,
    placing: bool,
    gpus: int | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Train, and return the exit code: 0, 75 after SIGTERM, 130 after Ctrl-C."""
    _ensure_together(dry_run=dry_run, measure=measure, on=on, placing=placing, gpus=gpus, resuming=resume is not None)
    if resume is not None:
        named = {"SPEC": spec, "--out": out, **_named(flags)}
        given = [name for name, value in named.items() if value]
        if given or dry_run:
            raise UsageError(
                f"a resumed run keeps its settings, so {', '.join(given) or '--dry-run'} cannot be given",
                where="--resume",
                fix=f"vitruvius train --resume {path_argument(resume)}, or train into a new folder",
            )
        return _resume(resume, data, settings, as_json=as_json)
    if spec is None:
        raise UsageError("name a SPEC to train, or a run to go on with", fix=f"for example: {EXAMPLES[0]}")
    if placing:
        from vitruvius.cli.train_plan import place_run

        return place_run(
            spec,
            data=data,
            out=out,
            flags=flags,
            settings=settings,
            on=on,
            count=1 if gpus is None else gpus,
            as_json=as_json,
        )
    from vitruvius.training.launch import speaks_here
    from vitruvius.training.request import read_request

    anywhere = _ANYWHERE if dry_run else None
    request = read_request(spec, data=data, out=out, flags=flags, settings=settings, default_out=anywhere)
    if speaks_here():
        say_findings(request.reading.findings)
        if request.sweep is not None:
            say("note: the sweep section is for `vitruvius sweep`; this trains the values outside it")
    return _plan(request, on, measured=measure, as_json=as_json) if dry_run else _train(request, as_json=as_json)


def _ensure_together(
    *, dry_run: bool, measure: bool, on: str | None, placing: bool, gpus: int | None, resuming: bool
) -> None:
    """Refuse options that say nothing beside the others."""
    wrong = ""
    if placing and (dry_run or measure or resuming):
        wrong, fix = "--plan", "give --plan with SPEC, --on and --gpus alone"
    elif gpus is not None and not placing:
        wrong, fix = "--gpus", "add --plan; a run of several processes is started by torchrun (docs/distributed.md)"
    elif on is not None and not (placing or dry_run):
        wrong, fix = "--on", "add --dry-run or --plan; train.device says where a run computes"
    elif measure and not dry_run:
        wrong, fix = "--measure", "add --dry-run"
    elif measure and on is not None:
        wrong, fix = "--measure", "measure here, or bound the time on other hardware: leave one out"
    else:
        return
    raise UsageError("this option says nothing beside the others", where=wrong, fix=fix)


def _named(flags: dict[str, Any]) -> dict[str, bool]:
    return {f"--{name.replace('_', '-')}": value is not None for name, value in flags.items()}


def _train(request: Request, *, as_json: bool) -> int:
    from vitruvius.training import train
    from vitruvius.training.stopping import stop_on_signals

    with stop_on_signals() as stop:
        result = train(
            request.reading.architecture,
            data=request.data,
            out=request.out,
            config=request.config,
            spec_text=request.reading.text,
            command=["vitruvius", *sys.argv[1:]],
            listener=_listener(),
            stop=stop,
        )
    return _report(result, as_json=as_json)


def _resume(run: str, data: str | None, settings: tuple[str, ...], *, as_json: bool) -> int:
    from vitruvius.training import resume
    from vitruvius.training.changing import changes_of
    from vitruvius.training.stopping import stop_on_signals

    with stop_on_signals() as stop:
        result = resume(run, data=data, changes=changes_of(run, settings), listener=_listener(), stop=stop)
    return _report(result, as_json=as_json)


def _plan(request: Request, on: str | None, *, measured: bool, as_json: bool) -> int:
    from vitruvius.training.launch import speaks_here
    from vitruvius.training.plan import plan

    if not speaks_here():
        return 0
    device = None
    if on is not None:
        from vitruvius.sizing.hardware import device_named

        device = device_named(on)
    if measured:
        say("a few updates are done in a folder that is thrown away")
    planned = plan(request, on=device, measured=measured)
    if as_json:
        emit_json(planned.to_dict())
    else:
        emit(clean(planned.to_text()))
    suggested = f", with --out {_ANYWHERE}" if os.fspath(request.out) == _ANYWHERE else ""
    next_step(f"the same command without --dry-run{suggested}")
    return 0


def _listener() -> Listener:
    from vitruvius.training.progress import LiveProgress, PlainProgress

    return LiveProgress() if wants_color(sys.stderr) else PlainProgress()


def _report(result: TrainResult, *, as_json: bool) -> int:
    """The summary on stdout, and what to do next on stderr; of several processes, by the first."""
    from vitruvius.training.launch import speaks_here

    if not speaks_here():
        return result.exit_code
    try:
        if as_json:
            emit_json(result.to_dict())
        else:
            emit(clean(_summary(result)))
        sys.stdout.flush()
    except OSError as error:
        # The run is what counts, and its code says how it ended, whoever is still there to read of it.
        if error.errno not in {errno.EPIPE, errno.EIO}:
            raise
        abandon(sys.stdout)
    run = path_argument(result.run)
    if result.status == "stopped":
        say(f"stopped at step {result.step:,} of {result.steps:,} with a checkpoint; nothing is lost")
        next_step(f"vitruvius train --resume {run}")
    else:
        start = "Once [MASK] a time" if result.objective == "masked-lm" else "Once"
        next_step(f"vitruvius generate {run} --prompt '{start}'")
    return result.exit_code


def _summary(result: TrainResult) -> str:
    lines = [f"{result.run}: {result.status} at step {result.step:,} of {result.steps:,}, {result.tokens:,} tokens"]
    if result.loss is not None:
        lines.append(f"training loss {result.loss:.4f} nats/token")
    if result.val_loss is not None:
        per_byte = "" if result.val_bits_per_byte is None else f", {result.val_bits_per_byte:.4f} bits/byte"
        lines.append(f"held-out loss {result.val_loss:.4f} nats/token{per_byte}")
    if result.tokens_per_second is not None:
        lines.append(f"{result.tokens_per_second:,.0f} tokens/s over {result.seconds:,.1f} s")
    return "\n".join([*lines, f"model: {result.checkpoint}"])
