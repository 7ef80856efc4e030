"""`vitruvius check`: probe the built model of a spec."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import Tokens, json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step, say, wants_color
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.checks import Outcome, Report
    from vitruvius.sizing.experiment import Experiment
    from vitruvius.spec import Architecture

FAILED = 1
FOREIGN = ("hf:", "module:")
"""How a SPEC starts that names somebody else's model."""


def _list(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 (click calls it so)
    """Print the table of checks and leave, when asked for."""
    del param
    if not wanted or ctx.resilient_parsing:
        return
    from vitruvius.checks import PROBES

    width = max(len(probe.name) for probe in PROBES)
    emit("\n".join(f"{probe.name:<{width}}  {probe.about}" for probe in PROBES))
    ctx.exit()


@click.command(
    cls=ExampleCommand,
    help="Probe the model of SPEC (a file or a preset): leaks, cache, gradients, first loss, numerics, cost.\n\n"
    "SPEC may be somebody else's model: hf:FOLDER (config.json, safetensors), or module:path.to:factory (also "
    "module:./file.py:factory), which returns an nn.Module. Leaves with 1 when a check fails. A spec too big to run is "
    "probed through a smaller twin with the same kinds and proportions; parameters and cache are checked at "
    "full size all the same.",
    examples=[
        "vitruvius check my-arch.yaml",
        "vitruvius check llama-moe --only cached-decode --only gradients",
        "vitruvius check llama-moe --set blocks.dense.mixer.sees='causal & sliding(64)' --json",
        "vitruvius check llama-moe --html report.html",
        "vitruvius check hf:./SmolLM2-135M --random-weights",
        "vitruvius check module:./model.py:make --timeout 60",
        "vitruvius check tiny-simple-transformer --lengths 128,512,1024",
        "vitruvius check tiny-llama --mup --set init='{kind: mup, base_width: 64}'",
    ],
)
@spec_argument()
@click.option("--only", multiple=True, metavar="NAME", help="Run this check alone; repeatable.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Draws weights and tokens."
)
@overrides_option
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="List the checks and leave."
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the report as one page too, with charts layer by layer.",
)
@click.option(
    "--longest",
    type=Tokens(),
    metavar="N",
    help="Let length-stress run sequences of up to N tokens, however long it takes (128k is 131,072).",
)
@click.option("--lengths", metavar="N,N,...", help="Instead, run the full-size model at these lengths.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --lengths: write the reproducibility records to this file.",
)
@click.option(
    "--mup",
    is_flag=True,
    help="Instead, the coordinate check: does a learning rate hold across width (and depth, with init completep)?",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=86_400.0),
    metavar="SECONDS",
    help="For hf: and module: most time for each check (300 unless given).",
)
@click.option("--memory", metavar="BYTES", help="For hf: and module: most memory, e.g. 4GiB (3/4 of what is free).")
@click.option("--random-weights", is_flag=True, help="For hf: draw first weights instead of reading the folder's.")
@json_option
def command(
    spec: str,
    only: tuple[str, ...],
    seed: int,
    overrides: tuple[str, ...],
    html: Path | None,
    longest: int | None,
    lengths: str | None,
    record: Path | None,
    mup: bool,  # noqa: FBT001 (a flag of the command line)
    timeout: float | None,
    memory: str | None,
    random_weights: bool,  # noqa: FBT001 (a flag of the command line)
    as_json: bool,  # noqa: FBT001 (a flag of the command line)
) -> int:
    """Read the spec, run the probes, print the report."""
    if html is not None:
        _ensure_place(html)
    if spec.startswith(FOREIGN):
        if overrides or mup or longest is not None or lengths is not None or record is not None:
            what = "--set, --mup, --longest, --lengths and --record are for specs, not for hf: and module:"
            raise click.UsageError(what)
        found = _foreign(spec, only, seed, timeout=timeout, memory=memory, random_weights=random_weights)
        after = f"vitruvius check {shlex.quote(spec)} --seed {seed + 1}"
        return _tell(found, spec=spec, as_json=as_json, after=after, html=html)
    if timeout is not None or memory is not None or random_weights:
        raise click.UsageError("--timeout, --memory and --random-weights are for hf: and module:")
    from vitruvius.checks import check
    from vitruvius.spec import read_with_findings

    reading = read_with_findings(spec, overrides=overrides)
    say_findings(finding for finding in reading.findings if finding.severity == "warning")
    if mup:
        if only or html is not None or longest is not None or lengths is not None or record is not None:
            raise click.UsageError("--mup goes without --only, --html, --longest, --lengths and --record")
        return _coordinates(reading.architecture, seed=seed, as_json=as_json, spec=spec)
    if lengths is not None:
        if only or html is not None or longest is not None:
            raise click.UsageError("--lengths goes without --only, --html and --longest")
        return _grow(reading.architecture, _numbers(lengths), record, seed=seed, as_json=as_json, spec=spec)
    if record is not None:
        raise click.UsageError("--record goes with --lengths")
    report = check(reading.architecture, seed=seed, only=only or None, longest=longest)
    return _tell(
        report,
        spec=spec,
        as_json=as_json,
        after=f"vitruvius train {shlex.quote(spec)} --data DIR --out RUN --steps 500",
        html=html,
        experiment=_experiment(reading.architecture, spec) if report.passed else None,
    )


def _ensure_place(path: Path) -> None:
    """Refuse a page that cannot be written before the checks take their time. Raises UsageError."""
    from vitruvius.errors import UsageError

    name = clean_line(str(path))
    if not path.parent.is_dir():
        raise UsageError(f"{clean_line(str(path.parent))} is no folder", where=f"--html {name}", fix="make it first")
    if path.exists() and not path.is_file():
        raise UsageError("there is something that is no file", where=f"--html {name}", fix="choose another name")


def _experiment(architecture: Architecture, spec: str) -> Experiment:
    from vitruvius.sizing.experiment import next_experiment

    return next_experiment(architecture, after="check", spec=spec)


def _tell(
    report: Report,
    *,
    spec: str,
    as_json: bool,
    after: str,
    html: Path | None = None,
    experiment: Experiment | None = None,
) -> int:
    """Print the report, write its page, and say what comes next; the exit code."""
    data = report.to_dict()
    bill = None if experiment is None else experiment.to_dict()
    if as_json:
        emit_json({**data, "next_experiment": bill})
    else:
        emit(clean(str(report)))
    if html is not None:
        from vitruvius.report.check_page import check_page
        from vitruvius.runs.files import write_atomically

        write_atomically(html, check_page(data, experiment=bill).encode("utf-8", "backslashreplace"))
        say(f"wrote {clean_line(str(html))}")
    if report.passed:
        if experiment is not None:
            say(clean(experiment.to_text()))
        next_step(after)
        return 0
    next_step(f"vitruvius check {shlex.quote(spec)} --only {report.failures[0].name}")
    return FAILED


def _foreign(
    spec: str, only: tuple[str, ...], seed: int, *, timeout: float | None, memory: str | None, random_weights: bool
) -> Report:
    from vitruvius.checks.foreign import TIMEOUT, check_foreign
    from vitruvius.units import parse_bytes

    return check_foreign(
        spec,
        seed=seed,
        only=only or None,
        timeout=TIMEOUT if timeout is None else timeout,
        memory=None if memory is None else parse_bytes(memory),
        values="random" if random_weights else "given",
        heard=_show if wants_color(sys.stderr) else None,
    )


def _show(outcome: Outcome) -> None:
    """A line for each outcome as it comes, for somebody who waits at a terminal."""
    say(clean_line(f"{outcome.mark} {outcome.name} ({outcome.seconds:.1f} s)"))


def _coordinates(architecture: Architecture, *, seed: int, as_json: bool, spec: str) -> int:
    from vitruvius.checks.coordinates import coordinates
    from vitruvius.checks.coordinates_text import to_dict, to_text

    found = coordinates(architecture, seed=seed)
    if as_json:
        emit_json(to_dict(found))
    else:
        emit(clean(to_text(found)))
    again = shlex.quote(spec)
    if found.passed:
        next_step(f"vitruvius train {again} --data DIR --out RUN --steps 500")
        return 0
    if architecture.init.kind in {"mup", "completep"}:
        next_step(f"vitruvius show {again}")
    else:
        base = f"init={{kind: mup, base_width: {architecture.width}}}"
        next_step(f"vitruvius check {again} --mup --set {shlex.quote(base)}")
    return FAILED


def _grow(
    architecture: Architecture, lengths: list[int], record: Path | None, *, seed: int, as_json: bool, spec: str
) -> int:
    from vitruvius.checks.growth import at_length, records_page

    found = [at_length(architecture, length, seed=seed) for length in lengths]
    if as_json:
        emit_json({"schema": "vitruvius.growth/1", "lengths": [run.to_dict() for run in found]})
    else:
        emit("\n".join(str(run) for run in found))
    if record is not None:
        record.write_text(records_page(architecture, found, spec=spec, seed=seed), encoding="utf-8")
        say(f"wrote {record}")
    passed = all(run.passed for run in found)
    next_step(f"vitruvius check {shlex.quote(spec)}")
    return 0 if passed else FAILED


def _numbers(text: str) -> list[int]:
    """`128,512,1024` as numbers; units such as 1k are read too."""
    from vitruvius.units import parse_tokens

    return [parse_tokens(part.strip()) for part in text.split(",")]
