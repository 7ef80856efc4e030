"""`vitruvius inspect`: look into a trained model while it reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vitruvius.cli.arguments import Tokens, complete_preset, json_option, overrides_option
from vitruvius.cli.output import clean, clean_line, emit, emit_json, next_step, path_argument, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_BYTES = 4 << 20


@click.command(
    cls=ExampleCommand,
    help="Look into the model of RUN (its newest whole checkpoint), or a fresh one of SPEC, while it reads: attention "
    "maps and the role of each head, which tokens go to which expert and what that says, position gates, the stream "
    "from layer to layer. It reads held-out text of the run's data unless a text is given.",
    examples=[
        "vitruvius inspect runs/first",
        "vitruvius inspect runs/first --html inside.html",
        "vitruvius inspect runs/first --prompt 'the cat saw the cat' --layer 2 --head 0 --json",
        "vitruvius inspect runs/first --step 400 --text chapter.txt --tokens 128 --role previous=0.4",
        "vitruvius inspect tiny-llama --tokens 32",
    ],
    epilog="What every score means, and who defined it: docs/inspect.md.",
)
@click.argument("target", metavar="RUN|SPEC", shell_complete=complete_preset)
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="Read this text (its first 4 MiB).")
@click.option("--prompt", metavar="TEXT", help="Read this text.")
@click.option("--source", metavar="TEXT", help="What the encoder of an encoder-decoder reads (half of the text).")
@click.option("--layer", type=int, metavar="N", help="Only this layer of each stack, from 0.")
@click.option("--head", type=int, metavar="N", help="Only this head of each layer, from 0.")
@click.option("--tokens", type=Tokens(), default=64, show_default=True, metavar="N", help="Tokens to show.")
@click.option(
    "--sample",
    type=Tokens(),
    default=4096,
    show_default=True,
    metavar="N",
    help="Tokens to judge experts on; heads are judged on the first rows of them.",
)
@click.option("--role", "roles", multiple=True, metavar="NAME=SCORE", help="From which score on a head has a role.")
@click.option("--step", type=int, metavar="N", help="The checkpoint of this step.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws random tokens, and a SPEC's weights.")
@overrides_option
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write it as a page, with all maps.")
@json_option
def command(
    *,
    target: str,
    text: Path | None,
    prompt: str | None,
    source: str | None,
    layer: int | None,
    head: int | None,
    tokens: int,
    sample: int,
    roles: tuple[str, ...],
    step: int | None,
    seed: int,
    overrides: tuple[str, ...],
    html: Path | None,
    as_json: bool,
) -> None:
    """Load the model, look, print, and write the page."""
    if html is not None:
        _ensure_writable(html)
    read, origin = _text(text, prompt)
    from vitruvius.evals.inspecting import Ask, Thresholds, inspect, subject_of

    ask = Ask(
        text=read,
        origin=origin,
        source=source,
        layer=layer,
        head=head,
        tokens=tokens,
        sample=sample,
        thresholds=Thresholds.parse(_settings(roles)),
        seed=seed,
    )
    document = inspect(subject_of(target, step=step, seed=seed, overrides=overrides), ask)
    if as_json:
        emit_json(document)
    else:
        from vitruvius.report.inspect_text import inspect_text

        emit(clean(inspect_text(document)))
    if html is not None:
        from vitruvius.report.inspect_page import inspect_page
        from vitruvius.runs.files import write_atomically

        write_atomically(html, inspect_page(document).encode("utf-8", "backslashreplace"))
        say(f"wrote {clean_line(str(html))}")
    again = path_argument(target)
    if html is None:
        next_step(f"vitruvius inspect {again} --html inside.html")
    elif document["run"] is not None:
        next_step(f"vitruvius generate {again} --prompt TEXT")
    else:
        next_step(f"vitruvius train {again} --data DIR --out RUN --steps 500")


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    from vitruvius.errors import UsageError

    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise UsageError(f"--role {clean_line(pair)!r} has no value", fix="write NAME=SCORE, e.g. previous=0.4")
        found[name.strip()] = value.strip()
    return found


def _text(text: Path | None, prompt: str | None) -> tuple[str | None, str]:
    """The text to read and where it is from, or None for the run's own."""
    from vitruvius.errors import UsageError

    if prompt is not None:
        if text is not None:
            raise UsageError("--text and --prompt both say what to read", fix="give one of them")
        return prompt, "the text of --prompt"
    if text is None:
        return None, ""
    name = clean_line(str(text))
    # What can be read will do, also a pipe: `--text <(git log)`.
    if text.is_dir() or not text.exists():
        what = "this is a folder" if text.is_dir() else "there is no such file"
        raise UsageError(what, where=f"--text {name}", fix="name a text file")
    with text.open("rb") as file:
        raw = file.read(_MOST_BYTES + 1)
    whole = len(raw) <= _MOST_BYTES
    try:
        read = raw[:_MOST_BYTES].decode("utf-8-sig", "strict" if whole else "ignore")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the file is not UTF-8 (byte {error.start})", where=f"--text {name}", fix="convert it"
        ) from None
    return read, f"the text of {name}" + ("" if whole else " (its first 4 MiB)")


def _ensure_writable(place: Path) -> None:
    """Say now what writing would say after the work. Raises UsageError."""
    from vitruvius.errors import UsageError

    name = clean_line(str(place))
    if place.exists() and not place.is_file():
        raise UsageError("there is something that is no file", where=f"--html {name}", fix="choose another name")
    if not place.parent.is_dir():
        raise UsageError(
            f"there is no folder {clean_line(str(place.parent))}", where=f"--html {name}", fix="make it first"
        )
    if not os.access(place.parent, os.W_OK):
        raise UsageError("the folder cannot be written", where=f"--html {name}", fix="choose another place")
