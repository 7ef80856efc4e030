"""`vitruvius upcycle`: a mixture of experts that starts where a trained dense model is."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import complete_preset, json_option, say_findings
from vitruvius.cli.output import clean, emit, emit_json, next_step
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.nn import Model
    from vitruvius.runs import Checkpoint

SCHEMA = "vitruvius.upcycle/1"
_NOT_INHERITED = frozenset({"threads", "device", "warmup", "checkpoint_every", "eval_every"})
"""Settings that follow from the machine or from the number of steps; the new run settles them by itself."""


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius upcycle runs/dense --to my-moe.yaml --out runs/moe",
        "vitruvius upcycle runs/dense --to my-moe.yaml --out runs/moe --steps 2000 --lr 1e-3",
        "vitruvius upcycle runs/dense/checkpoints/step-500 --to my-moe.yaml --out runs/moe --json",
    ],
    help="Copy the dense networks of RUN's newest checkpoint into the experts of SPEC, so that the model computes the "
    "same at first, and leave a run folder to go on with. SPEC is the dense model's, with mixtures in place of ffns.",
    epilog="Settings are those of RUN, unless a flag or --set train.NAME=VALUE says otherwise.",
)
@click.argument("run")
@click.option("--to", "spec", required=True, metavar="SPEC", shell_complete=complete_preset, help="What to make of it.")
@click.option("--out", required=True, metavar="DIR", help="Run folder to make.")
@click.option("--data", metavar="DIR", help="Prepared data to go on with; RUN's own when not given.")
@click.option("--steps", type=int, help="Optimizer steps of the new run.")
@click.option("--lr", type=float, help="Learning rate at the top of the schedule.")
@click.option("--seed", type=int, help="Draws the routers and the order of the samples.")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change the spec, or train.NAME.")
@json_option
def command(
    *,
    run: str,
    spec: str,
    out: str,
    data: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Read both, copy, write the new run, and say how to go on."""
    from vitruvius.nn.weights import find_checkpoint, load_model
    from vitruvius.training import begin
    from vitruvius.training.request import read_request
    from vitruvius.transforms import upcycle

    reader, checkpoint = find_checkpoint(run)
    record = reader.record()
    inherited = _inherited(record)
    given = {name: value for name, value in flags.items() if value is not None}
    request = read_request(
        spec,
        data=data or _recorded_data(record),
        out=out,
        flags={**inherited, **given},
        settings=settings,
    )
    say_findings(request.reading.findings)
    dense = load_model(run)
    model = upcycle(dense, request.reading.architecture, seed=request.config.seed)
    begun = begin(
        model,
        data=request.data,
        out=request.out,
        made_from=f"{run}, step {checkpoint.step}, upcycled",
        config=request.config,
        spec_text=request.reading.text,
        command=["vitruvius", *sys.argv[1:]],
    )
    result = _result(dense, model, checkpoint, begun, run=run, out=out)
    if as_json:
        emit_json(result)
    else:
        emit(clean(_text(result)))
    next_step(f"vitruvius train --resume {shlex.quote(out)}")


def _inherited(record: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = record["config"].get("train") or {}
    return {name: value for name, value in settings.items() if value is not None and name not in _NOT_INHERITED}


def _recorded_data(record: dict[str, Any]) -> str | None:
    recorded: dict[str, Any] = record["data"] or {}
    path = recorded.get("path")
    return None if path is None else str(path)


def _result(
    dense: Model, model: Model, checkpoint: Checkpoint, begun: Checkpoint, *, run: str, out: str
) -> dict[str, Any]:
    from vitruvius.sizing import size

    before, after = (size(m.architecture).parameters for m in (dense, model))
    pairs = zip(dense.graph.every_layer(), model.graph.every_layer(), strict=True)
    return {
        "schema": SCHEMA,
        "from": run,
        "step": checkpoint.step,
        "run": out,
        "checkpoint": str(begun.path),
        "layers": sum(old.ffn != new.ffn for old, new in pairs),
        "parameters_before": before.total,
        "parameters": after.total,
        "active": after.active,
    }


def _text(result: dict[str, Any]) -> str:
    layers = "1 layer" if result["layers"] == 1 else f"{result['layers']:,} layers"
    return (
        f"{result['run']}: {layers} of {result['from']} (step {result['step']:,}) made mixtures of experts\n"
        f"{result['parameters_before']:,} parameters before, {result['parameters']:,} now, "
        f"{result['active']:,} of them active\n"
        f"model: {result['checkpoint']}"
    )
