"""The table of verbs, and the command that holds them."""

from __future__ import annotations

import click

import vitruvius
from vitruvius.cli.verbs import LazyGroup, Verb

VERBS = (
    Verb(stage="Design", name="new", help="Start an architecture from a preset."),
    Verb(stage="Design", name="presets", help="List the architectures that come with vitruvius."),
    Verb(stage="Design", name="show", help="Draw an architecture, in the terminal or as SVG."),
    Verb(stage="Design", name="diff", help="Say what differs between two architectures."),
    Verb(stage="Design", name="size", help="Count parameters, memory, FLOPs and cache; needs no GPU."),
    Verb(stage="Design", name="doc", help="Write its model card and configuration reference."),
    Verb(stage="Design", name="solve", help="Find shapes and layouts that meet your constraints."),
    Verb(stage="Design", name="scale-down", help="Make a prototype that keeps the ratios, and its run."),
    Verb(stage="Design", name="plan", help="Plan its training on many devices: memory, time and money."),
    Verb(stage="Design", name="hardware", help="List, choose and compare devices to run it on."),
    Verb(stage="Design", name="audit", help="Hold the numbers that others quote against the arithmetic."),
    Verb(stage="Design", name="schema", help="Print the JSON Schema of a spec, for your editor."),
    Verb(stage="Run", name="check", help="Test the built model: leaks, cache, gradients, numerics."),
    Verb(stage="Run", name="data", help="Turn documents into token shards."),
    Verb(stage="Run", name="config", help="Show every setting, and where each comes from."),
    Verb(stage="Run", name="find-batch", help="Find the batch size that is fast and fits."),
    Verb(stage="Run", name="train", help="Pretrain; resume bit for bit."),
    Verb(stage="Run", name="sweep", help="Train every combination of listed values; resumable."),
    Verb(stage="Run", name="runs", help="List, show, compare and prune runs."),
    Verb(stage="Run", name="upcycle", help="Make a mixture of experts of a trained dense model."),
    Verb(stage="Run", name="generate", help="Write text with a trained model."),
    Verb(stage="Run", name="score", help="Score an encoder-decoder on held-out pairs, beside baselines."),
    Verb(stage="Run", name="embed", help="Turn texts into vectors with a trained model."),
    Verb(stage="Run", name="inspect", help="Look inside: what heads, experts and gates do."),
    Verb(stage="Compare", name="bench", help="Time a model and its memory, or measure this machine."),
    Verb(stage="Compare", name="validate", help="Check, size and bench it: one report."),
    Verb(stage="Compare", name="lab", help="Many runs that answer one question: known results, reproduced."),
    Verb(stage="Help", name="demo", help="Take one small file through all of it, in about five minutes."),
    Verb(stage="Help", name="completion", help="Print the completion script for your shell."),
)
"""Every verb, in the order of the journey. `cli/<name>.py` defines it as `command`."""


@click.group(
    cls=LazyGroup,
    verbs=VERBS,
    help="Design a language-model architecture in one small file: draw it, size it, check it, train it, run it.",
    epilog="next: vitruvius new my-arch --from llama-moe",
)
@click.version_option(vitruvius.__version__, "-V", "--version", prog_name="vitruvius", message="%(prog)s %(version)s")
def front() -> None:
    """Hold the verbs; what each does is in its own file."""
