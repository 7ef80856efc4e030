"""`vitruvius config`: what a spec or a run file comes to, value by value, and where each value comes from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import Tokens, json_option
from vitruvius.cli.output import clean, emit, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleGroup

if TYPE_CHECKING:
    from vitruvius.spec.origins import Setting

EXAMPLES = (
    "vitruvius config show my-arch.yaml --origin",
    "vitruvius config show run.yaml --lr 1e-3 --set train.batch=16 --origin",
    "vitruvius config show llama-moe --changed --json",
)


_LONGEST = 60


@click.group(
    "config",
    cls=ExampleGroup,
    help="Show every value of a spec or a run file, and where it comes from.",
    examples=EXAMPLES,
)
def command() -> None:
    """Hold the verbs of configuration."""


@command.command(
    "show",
    examples=EXAMPLES,
    help="""Show every value of a SPEC or RUN.yaml as it will be used.

    Precedence: --set, then flags, then the file, then what a block extends, then defaults. With --origin each value
    has its place beside it: file:line:column, the argument, `default`, or `rule` where it follows from others.""",
)
@click.argument("spec", metavar="SPEC|RUN.yaml")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--changed", is_flag=True, help="Leave out defaults.")
@click.option("--steps", type=int, help="As in train.")
@click.option("--seed", type=int, help="As in train.")
@click.option("--batch", type=int, help="As in train.")
@click.option("--context", type=Tokens(), metavar="N", help="As in train.")
@click.option("--lr", type=float, help="As in train.")
@click.option("--checkpoint-every", type=int, metavar="K", help="As in train.")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change the spec, or train.NAME.")
@json_option
def show_command(
    *, spec: str, origin: bool, changed: bool, settings: tuple[str, ...], as_json: bool, **flags: Any
) -> None:
    """Print the values."""
    from vitruvius.report.tables import columns
    from vitruvius.training.origins import settings_of_run

    found = settings_of_run(spec, flags=flags, settings=settings)
    if changed:
        found = [each for each in found if each.origin in {"file", "argument"}]
    if as_json:
        emit_json({"schema": "vitruvius.config-show/1", "settings": [each.to_dict() for each in found]})
        return
    rows: list[tuple[str, ...]] = [(each.path, _value(each)) for each in found]
    if origin:
        rows = [(*row, each.where or each.origin) for row, each in zip(rows, found, strict=True)]
    emit(clean("\n".join(columns(rows, align="<<<"[: 3 if origin else 2]))))
    if not origin:
        say("--origin says where each value comes from")
    next_step("vitruvius train with the same arguments, --data DIR and --out RUN")


def _value(setting: Setting) -> str:
    """A value as JSON, cut where it is long; --json has all of it."""
    text = json.dumps(setting.value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
