"""`vitruvius solve`: from what a model may cost to the shapes that cost no more."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import Count, Tokens, complete_preset, json_option
from vitruvius.cli.output import clean, emit, emit_json, next_step, say
from vitruvius.cli.verbs import ExampleCommand
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from vitruvius.sizing.solve import Problem, Solution

_TIMES = re.compile(r"(\d+(?:\.\d+)?)\s*[xX×]?", re.ASCII)


@click.command(
    cls=ExampleCommand,
    examples=[
        "vitruvius solve --parameters 7B --context 100k --memory 80GiB --decode-slowdown 2x",
        "vitruvius solve --on rtx-4090 --train-flops 1e21 --context 8k --tokens-per-second 50",
        "vitruvius solve --on h100-80gb --cost '$1000' --loss 2.6 --experts none --out designs",
        "vitruvius solve --parameters 3B --context 32k --from smollm3-3b --memory 8GB --weights nf4 --json",
    ],
)
@click.option("--parameters", type=Count(), metavar="N", help="Wanted, within 5 %; what the law makes of the budget.")
@click.option("--context", type=Tokens(), metavar="N", help="Tokens; 8,192, or those of --from, when not given.")
@click.option("--memory", metavar="BYTES", help="The most it may take, margin included: 80GiB, 24GB.")
@click.option("--decode-slowdown", metavar="Nx", help="The most that decoding at the context may slow down from 4,096.")
@click.option("--tokens-per-second", type=float, metavar="R", help="The least that decoding must reach, at best.")
@click.option("--train-flops", metavar="C", help="The most that training may take: 1e21.")
@click.option("--cost", metavar="DOLLARS", help="The most that training may cost on --on: $1000.")
@click.option("--loss", type=float, metavar="L", help="The most that the scaling law may predict, in nats a token.")
@click.option("--on", "device", metavar="HARDWARE", help="Device, e.g. h100-80gb.")
@click.option("--count", type=Count(), default=1, metavar="N", help="How many of it hold the model together.")
@click.option("--batch", type=Count(), default=1, show_default=True, metavar="B", help="Sequences at a time.")
@click.option(
    "--mode",
    type=click.Choice(["inference", "train"]),
    default="inference",
    show_default=True,
    help="What --memory is for.",
)
@click.option("--weights", default="bf16", show_default=True, metavar="FORMAT", help="Format of the weights.")
@click.option("--experts", metavar="E", help="Experts of every layer, or none; both are tried when not given.")
@click.option("--vocab", type=Count(), metavar="V", help="Words; 32,000, or those of --from, when not given.")
@click.option(
    "--from", "source", metavar="SPEC", shell_complete=complete_preset, help="Keep norms, head, init of this."
)
@click.option(
    "--train-context",
    type=Tokens(),
    metavar="N",
    help="Tokens of a training sequence; those of --context, 8,192 at most, when not given.",
)
@click.option("--law", default="chinchilla-refit", show_default=True, help="Scaling law: or hoffmann-2022.")
@click.option("--most", type=int, default=8, show_default=True, metavar="N", help="Candidates to show.")
@click.option("--out", metavar="DIR", help="Folder to write the specs into.")
@click.option("--force", is_flag=True, help="Overwrite files that are already there.")
@json_option
def command(*, out: str | None, most: int, force: bool, as_json: bool, **asked: Any) -> int:
    """Find shapes and layouts that meet every constraint, with the reason for each choice.

    Width, depth, heads, layout (full, sliding, LongContext's, latent, linear hybrids) and experts are searched; each
    candidate is a complete spec, billed as `vitruvius size` bills it. Where nothing meets them all, the answer says
    which change of one constraint is enough (exit code 1).
    """
    from vitruvius.sizing.solve import solve

    if not 1 <= most <= 64:
        raise UsageError(f"{most} candidates", where="--most", fix="use 1 to 64")
    problem = _problem(asked)
    solution = solve(problem, most=most)
    files = _write(solution, Path(out), force=force) if out is not None else None
    if as_json:
        emit_json(solution.to_dict() | {"files": None if files is None else [str(path) for path in files]})
        return 0 if solution.candidates else 1
    from vitruvius.report.solution import solution_text

    emit(clean(solution_text(solution)))
    if files:
        for path in files:
            say(f"wrote {clean(str(path))}")
        next_step(f"vitruvius size {shlex.quote(clean(str(files[0])))}")
    elif solution.candidates:
        next_step("the same command with --out DIR, which writes the specs")
    return 0 if solution.candidates else 1


def _problem(asked: dict[str, Any]) -> Problem:
    from vitruvius.sizing.formats import weight_format
    from vitruvius.sizing.hardware import device_named
    from vitruvius.sizing.laws import law_named
    from vitruvius.sizing.money import parse_dollars
    from vitruvius.sizing.solve import Problem
    from vitruvius.units import parse_bytes, parse_count

    device = None if asked["device"] is None else device_named(asked["device"])
    weight_format(asked["weights"])
    chosen: dict[str, Any] = {}
    if asked["experts"] is not None:
        chosen["experts"] = (_experts(asked["experts"]),)
    return Problem(
        style=_style(asked),
        parameters=asked["parameters"],
        memory_bytes=None if asked["memory"] is None else float(parse_bytes(asked["memory"])),
        decode_slowdown=None if asked["decode_slowdown"] is None else _times(asked["decode_slowdown"]),
        tokens_per_second=asked["tokens_per_second"],
        train_flops=None if asked["train_flops"] is None else float(parse_count(asked["train_flops"])),
        cost=None if asked["cost"] is None else parse_dollars(asked["cost"]),
        loss=asked["loss"],
        batch=asked["batch"],
        mode=asked["mode"],
        weights=asked["weights"],
        device=device,
        count=asked["count"],
        train_context=asked["train_context"],
        law=law_named(asked["law"]),
        **chosen,
    )


def _style(asked: dict[str, Any]) -> Any:
    from vitruvius.sizing.solve import Style

    if asked["source"] is not None:
        from vitruvius.sizing.solve.styles import style_of
        from vitruvius.spec.reading import read

        return style_of(read(asked["source"]), vocab_size=asked["vocab"], context=asked["context"])
    return Style(
        vocab_size=32_000 if asked["vocab"] is None else asked["vocab"],
        context=asked["context"] or 8192,
    )


def _times(text: str) -> float:
    match = _TIMES.fullmatch(text.strip()[:40])
    if match is None:
        what = f"cannot read {text[:40]!r} as a slowdown"
        raise UsageError(what, where="--decode-slowdown", fix="write how many times, such as 2x or 1.5x")
    return float(match[1])


def _experts(text: str) -> int:
    if text == "none":
        return 1
    from vitruvius.units import parse_count

    return parse_count(text)


def _write(solution: Solution, folder: Path, *, force: bool) -> list[Path]:
    """The spec of each candidate. Raises UsageError where one is already there."""
    from vitruvius.spec import write

    made = {folder / f"{each.billed.architecture.name}.yaml": each.billed.architecture for each in solution.candidates}
    for path in made:
        if (path.exists() or path.is_symlink()) and not force:
            raise UsageError(f"{path} is already there", where="--out", fix="name another folder, or add --force")
    if made:
        folder.mkdir(parents=True, exist_ok=True)
    for path, architecture in made.items():
        write(architecture, path)
    return list(made)
