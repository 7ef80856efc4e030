"""`vitruvius runs export`: the model of a run as a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean_line, emit, emit_json, next_step, path_argument, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from vitruvius.training.exporting import Exported, Format, Weights

SCHEMA = "vitruvius.runs-export/1"


@click.command(
    "export",
    cls=ExampleCommand,
    help="Write the model of RUN into the new folder DIR: model.safetensors, the architecture (spec.yaml), "
    "tokenizer.json, a card (README.md), what it is (model.json) and the hashes of all that (manifest.json). Verbs "
    "that read a run's model read this folder too. DIR takes its name when it is whole; nothing is overwritten.",
    examples=[
        "vitruvius runs export runs/first --out models/first",
        "vitruvius runs export runs/first --out models/best --weights best --dtype fp32",
        "vitruvius runs export runs/first --out models/step-400 --checkpoint 400 --json",
    ],
)
@click.argument("run")
@click.option("--out", required=True, metavar="DIR", help="The folder to make.")
@click.option(
    "--checkpoint", type=click.IntRange(min=0), metavar="N", help="Of this step (default: the newest that is whole)."
)
@click.option(
    "--weights",
    type=click.Choice(["last", "ema", "best"]),
    default="last",
    show_default=True,
    help="As trained, their moving average, or those of the checkpoint with the lowest val_loss.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "fp16", "fp32"]),
    help="Number format (default: that of training); fp32 are the optimizer's masters.",
)
@json_option
def command(
    *, run: str, out: str, checkpoint: int | None, weights: Weights, dtype: Format | None, as_json: bool
) -> None:
    """Export, and say what was written."""
    from vitruvius.training.exporting import export

    done = export(
        run, out, checkpoint=checkpoint, weights=weights, dtype=dtype, note=lambda text: say(clean_line(text))
    )
    if as_json:
        emit_json(_document(run, done))
    else:
        for name, file in done.files.items():
            emit(f"{file['bytes']:>15,} bytes  {clean_line(name)}")
        say(f"step {done.step:,}, {done.parameters:,} parameters in {done.dtype}")
    next_step(f"vitruvius generate {path_argument(out)} --prompt TEXT")


def _document(run: str, done: Exported) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run": run,
        "folder": str(done.folder),
        "step": done.step,
        "weights": done.weights,
        "dtype": done.dtype,
        "parameters": done.parameters,
        "val_loss": done.val_loss,
        "files": dict(done.files),
    }
