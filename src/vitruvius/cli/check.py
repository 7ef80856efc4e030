"""`vitruvius check`: probe the built model of a spec."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.spec import Architecture

FAILED = 1


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
    "Leaves with 1 when a check fails. A spec too big to run is probed through a smaller twin with the same kinds and "
    "proportions; parameters and cache are checked at full size all the same.",
    examples=[
        "vitruvius check my-arch.yaml",
        "vitruvius check llama-moe --only cached-decode --only gradients",
        "vitruvius check llama-moe --set blocks.dense.mixer.sees='causal & sliding(64)' --json",
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
@json_option
def command(
    spec: str,
    only: tuple[str, ...],
    seed: int,
    overrides: tuple[str, ...],
    lengths: str | None,
    record: Path | None,
    mup: bool,  # noqa: FBT001 (a flag of the command line)
    as_json: bool,  # noqa: FBT001 (a flag of the command line)
) -> int:
    """Read the spec, run the probes, print the report."""
    from vitruvius.checks import check
    from vitruvius.spec import read_with_findings

    reading = read_with_findings(spec, overrides=overrides)
    say_findings(finding for finding in reading.findings if finding.severity == "warning")
    if mup:
        if only or lengths is not None or record is not None:
            raise click.UsageError("--mup goes without --only, --lengths and --record")
        return _coordinates(reading.architecture, seed=seed, as_json=as_json, spec=spec)
    if lengths is not None:
        return _grow(reading.architecture, _numbers(lengths), record, seed=seed, as_json=as_json, spec=spec)
    if record is not None:
        raise click.UsageError("--record goes with --lengths")
    report = check(reading.architecture, seed=seed, only=only or None)
    if as_json:
        emit_json(report.to_dict())
    else:
        emit(clean(str(report)))
    again = shlex.quote(spec)
    if report.passed:
        next_step(f"vitruvius train {again} --data DIR --out RUN --steps 500")
        return 0
    next_step(f"vitruvius check {again} --only {report.failures[0].name}")
    return FAILED


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
