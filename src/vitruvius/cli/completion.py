"""`vitruvius completion`: the script that makes Tab complete verbs, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from vitruvius.cli.output import emit, say
from vitruvius.cli.verbs import ExampleCommand

VARIABLE = "_VITRUVIUS_COMPLETE"
"""Set by the completion script: the shell asks `vitruvius` for candidates through it."""

_INSTALL = {
    "bash": "vitruvius completion bash > ~/.vitruvius-complete.bash && "
    "echo 'source ~/.vitruvius-complete.bash' >> ~/.bashrc",
    "zsh": "vitruvius completion zsh > ~/.vitruvius-complete.zsh && "
    "echo 'source ~/.vitruvius-complete.zsh' >> ~/.zshrc",
    "fish": "vitruvius completion fish > ~/.config/fish/completions/vitruvius.fish",
}


@click.command(
    cls=ExampleCommand,
    help="Print the completion script for SHELL on stdout.",
    examples=list(_INSTALL.values()),
)
@click.argument("shell", type=click.Choice(list(_INSTALL)))
def command(shell: str) -> None:
    """Print the script, and on stderr the line that installs it."""
    from vitruvius.cli.front import front

    completer = get_completion_class(shell)
    assert completer is not None, f"click knows no {shell}"
    emit(completer(front, {}, "vitruvius", VARIABLE).source().rstrip())
    say(f"install: {_INSTALL[shell]}")
