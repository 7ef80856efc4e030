"""`vitruvius audit`: what others claim, held against the arithmetic."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import json_option
from vitruvius.cli.output import clean, emit, emit_json, next_step, wants_color
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from vitruvius.sizing.audit import Audit

_COLORS = {"true": "32", "false": "31", "unverifiable": "33"}


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shipped files that start like this, and files."""
    del ctx, param
    from click.shell_completion import CompletionItem

    from vitruvius.sizing.audit import SHIPPED

    named = [CompletionItem(name) for name in SHIPPED if name.startswith(incomplete)]
    return [*named, CompletionItem(incomplete, type="file")]


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius audit documents",
        "vitruvius audit claims.yaml",
        "vitruvius audit claims.yaml --only false --json",
    ],
)
@click.argument("file", metavar="FILE", shell_complete=_complete)
@click.option(
    "--only",
    type=click.Choice(["true", "false", "unverifiable"]),
    help="Show the claims that came out so; the counts and the exit code are of all.",
)
@json_option
def command(*, file: str, only: str | None, as_json: bool) -> int:
    """Judge the claims in FILE: true, false or unverifiable, each with the arithmetic.

    FILE holds claims beside a spec (docs/audit.md), or is `documents`, the claims that this project started from. The
    exit code is 1 where a claim is false, and 2 where the file cannot be understood.
    """
    from vitruvius.sizing.audit import audit

    found = audit(file)
    shown = _only(found, only)
    if as_json:
        emit_json(shown.to_dict() | {name: found.count(name) for name in ("true", "false", "unverifiable")})
        return _code(found)
    from vitruvius.report.audit import audit_text

    emit(_printed(clean(audit_text(shown))))
    if only is not None:
        counts = ", ".join(f"{found.count(name)} {name}" for name in ("true", "false", "unverifiable"))
        emit(f"of all {len(found.judgements)}: {counts}")
    next_step(
        f"vitruvius audit {shlex.quote(clean(file))} --only false" if only is None else "vitruvius size SPEC --explain"
    )
    return _code(found)


def _code(found: Audit) -> int:
    return 1 if found.count("false") else 0


def _only(found: Audit, verdict: str | None) -> Audit:
    from dataclasses import replace

    if verdict is None:
        return found
    return replace(found, judgements=tuple(each for each in found.judgements if each.verdict == verdict))


def _printed(text: str) -> str:
    """The text with marks that stdout can show, in colour where it is a terminal."""
    from vitruvius.report.bill import RIGHT, WRONG

    try:
        (RIGHT + WRONG).encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        text = text.replace(f"{RIGHT} ", "").replace(f"{WRONG} ", "")
    if not wants_color():
        return text
    return "\n".join(_colored(line) for line in text.split("\n"))


def _colored(line: str) -> str:
    for verdict, color in _COLORS.items():
        if line[2:].startswith(f"{verdict}: "):
            return f"\x1b[{color}m{line}\x1b[0m"
    return line
