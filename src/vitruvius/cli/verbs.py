"""How a verb looks: its help with examples, and the group that loads a verb's file only when it is called."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from click.shell_completion import CompletionItem

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Context settings of every command: both help flags, and room for a line of YAML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A line of the table of verbs: enough for `--help`, without importing the verb."""

    name: str
    """What the user types."""

    help: str
    """One line."""

    stage: str
    """The part of the journey under which help lists it."""

    group: str = ""
    """The verb it belongs to (`data` of `data prepare`); empty at the top."""

    @property
    def module(self) -> str:
        """The file that defines the verb, as `command`."""
        name = f"{self.group}_{self.name}" if self.group else self.name
        return f"vitruvius.cli.{name.replace('-', '_')}"


def _write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    if not examples:
        return
    with formatter.section("Examples"):
        for example in examples:
            formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class _WithExamples(click.Command):
    """A command whose help ends with commands that can be copied."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", HELP)
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples verbatim, then the epilog."""
        _write_examples(formatter, self.examples)
        super().format_epilog(ctx, formatter)


class ExampleCommand(_WithExamples):
    """A verb: `@click.command(cls=ExampleCommand, examples=[...])`."""


class ExampleGroup(_WithExamples, click.Group):
    """A verb with verbs of its own (`data prepare`)."""

    command_class = ExampleCommand


class LazyGroup(click.Group):
    """The top command: knows its verbs from a table and imports a verb's file only to run it or to show its help."""

    def __init__(self, *args: Any, verbs: Iterable[Verb], **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", HELP)
        super().__init__(*args, **kwargs)
        self.verbs = {verb.name: verb for verb in verbs}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in journey order."""
        del ctx
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's `command`, imported now, or None where there is no such verb."""
        del ctx
        if cmd_name not in self.verbs:
            return None
        command: click.Command = importlib.import_module(self.verbs[cmd_name].module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb named first in `args`; an unknown one is answered with its nearest neighbours."""
        name = args[0]
        if name not in self.verbs and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.exceptions.NoSuchCommand(name, possibilities=self.verbs, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs by stage of the journey."""
        del ctx
        width = max(len(name) for name in self.verbs)
        for stage in dict.fromkeys(verb.stage for verb in self.verbs.values()):
            with formatter.section(stage):
                rows = [(verb.name.ljust(width), verb.help) for verb in self.verbs.values() if verb.stage == stage]
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete verbs from the table, so that a Tab imports nothing."""
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(verb.name, help=verb.help)
            for verb in self.verbs.values()
            if verb.name.startswith(incomplete)
        ]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]


class LazyExampleGroup(_WithExamples, LazyGroup):
    """A verb with verbs of its own, each in a file of its own (`cli/data_prepare.py`)."""
