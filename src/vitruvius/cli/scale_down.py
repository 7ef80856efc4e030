"""`vitruvius scale-down`: a prototype that is cheap to train and as much like its spec as it can be."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import Count, Tokens, json_option, overrides_option, say_findings, spec_argument
from vitruvius.cli.output import clean, emit, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.sizing.prototype import Prototype


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius scale-down longcontext --parameters 15M",
        "vitruvius scale-down my-arch.yaml --parameters 60M --context 16k --out prototypes --data data/books",
        "vitruvius scale-down llama-moe --parameters 30M --vocab 8192 --json",
    ],
)
@spec_argument()
@click.option("--parameters", type=Count(), required=True, metavar="N", help="Parameters of the prototype, e.g. 15M.")
@click.option("--context", type=Tokens(), metavar="N", help="Tokens; 2,048, or the spec's own where that is less.")
@click.option("--vocab", type=Count(), metavar="N", help="Words; by default as many as leave the layers 3/4 of it all.")
@overrides_option
@click.option("--out", metavar="DIR", help="Folder to write the spec and the run file into.")
@click.option("--data", metavar="DIR", help="Data folder that the run file names.")
@click.option("--force", is_flag=True, help="Overwrite files that are already there.")
@json_option
def command(
    *,
    spec: str,
    parameters: int,
    context: int | None,
    vocab: int | None,
    overrides: tuple[str, ...],
    out: str | None,
    data: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Scale SPEC down to a prototype that keeps its ratios, and write the run that trains it.

    Kept as nearly as whole numbers allow: depth to width, heads to key heads, inner width to width, windows and
    wavelengths to the context, experts, the period of the layers. Every deviation is listed, and with it what the
    prototype can no longer catch.
    """
    from vitruvius.sizing.prototype import scale_down
    from vitruvius.spec.reading import read_with_findings

    reading = read_with_findings(spec, overrides=overrides)
    made = scale_down(reading.architecture, parameters, context=context, vocab=vocab)
    files = _write(made, Path(out), data=data, force=force) if out is not None else None
    if as_json:
        emit_json(made.to_dict() | {"files": None if files is None else {k: str(v) for k, v in files.items()}})
        return
    from vitruvius.report.prototype import prototype_text

    emit(clean(prototype_text(made)))
    say_findings(reading.findings)
    if files is None:
        next_step(f"vitruvius scale-down {shlex.quote(clean(spec))} --parameters {parameters} --out prototypes")
        return
    for path in files.values():
        say(f"wrote {clean(str(path))}")
    next_step(f"vitruvius train {shlex.quote(clean(str(files['run'])))}" + ("" if data else " --data DIR"))


def _write(made: Prototype, folder: Path, *, data: str | None, force: bool) -> dict[str, Path]:
    """The spec and the run file. Raises UsageError where they are already there."""
    from vitruvius.errors import UsageError
    from vitruvius.spec import write

    name = made.architecture.name
    spec, run = folder / f"{name}.yaml", folder / f"{name}-run.yaml"
    for path in (spec, run):
        if (path.exists() or path.is_symlink()) and not force:
            raise UsageError(f"{path} is already there", where="--out", fix="name another folder, or add --force")
    folder.mkdir(parents=True, exist_ok=True)
    write(made.architecture, spec)
    place = None if data is None else str(Path(data).absolute())
    run.write_text(made.run.to_yaml(spec=spec.name, name=name, data=place), encoding="utf-8")
    return {"spec": spec, "run": run}
