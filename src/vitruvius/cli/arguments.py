"""What several verbs take: a SPEC, values that replace its fields, a number of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    from click.shell_completion import CompletionItem

    from vitruvius.errors import Finding


class Tokens(click.ParamType[int]):
    """A number of tokens: `4096`, `128k`, `1m` (k = 1,024)."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The whole number that the text says. Raises UsageError."""
        del param, ctx
        from vitruvius.units import parse_tokens

        return value if isinstance(value, int) else parse_tokens(str(value))


class Count(click.ParamType[int]):
    """A whole number of things: `4`, `1k` (1,000)."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The whole number that the text says. Raises UsageError."""
        del param, ctx
        from vitruvius.units import parse_count

        return value if isinstance(value, int) else parse_count(str(value))


def _complete_spec(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets that start like this, and files."""
    del ctx, param
    from click.shell_completion import CompletionItem

    from vitruvius.spec.reading import preset_names

    named = [CompletionItem(name) for name in preset_names() if name.startswith(incomplete)]
    return [*named, CompletionItem(incomplete, type="file")]


def complete_preset(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets that start like this."""
    return [item for item in _complete_spec(ctx, param, incomplete) if item.type == "plain"]


def spec_argument(name: str = "spec") -> Any:
    """An argument that names a spec file or a preset."""
    return click.argument(name, metavar=name.upper(), shell_complete=_complete_spec)


overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Replace a field of the spec, e.g. context=8192 or blocks.dense.ffn.hidden=8192; may be repeated.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")


def say_findings(findings: Iterable[Finding]) -> None:
    """Print warnings and notes on stderr."""
    from vitruvius.cli.output import clean, say

    for finding in findings:
        say(clean(str(finding)) + "\n")
