"""`vitruvius find-batch`: how many samples to compute at a time, from real updates of each size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.arguments import Count, Tokens, complete_preset, json_option, say_findings
from vitruvius.cli.output import clean, emit, emit_json, next_step, path_argument, say
from vitruvius.cli.verbs import ExampleCommand

if TYPE_CHECKING:
    from pathlib import Path

    from vitruvius.training.finding_batch import Answer
    from vitruvius.training.request import Request

EXAMPLES = (
    "vitruvius find-batch tiny-llama",
    "vitruvius find-batch run.yaml --data data/books",
    "vitruvius find-batch my-arch.yaml --batch 64 --context 1k --within 2 --set train.checkpointing=layers",
)
_NOTHING_FITS, _INTERRUPTED = 1, 130
_NOWHERE = "-"


@click.command(
    cls=ExampleCommand,
    examples=EXAMPLES,
    help="Try batch sizes 8, 16, 32 and beyond on SPEC (a file, a preset, or a run file), a process for each, and name "
    "the smallest that is within some percent of the fastest and fits into memory with a margin. A batch that the run "
    "names stays as it is: then sizes are pieces of it.",
    epilog="Exit code 1 where no size fits, 130 after Ctrl-C (what was measured so far is printed). "
    "Next: docs/training/memory.md.",
)
@click.argument("spec", metavar="SPEC", shell_complete=complete_preset)
@click.option("--data", metavar="DIR", help="Prepared data; random tokens when neither this nor the run file names it.")
@click.option("--batch", type=int, help="Samples per step of the run, which stay: sizes divide it.")
@click.option("--context", type=Tokens(), metavar="N", help="Tokens per sample: 4096, 128k.")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change the spec, or train.NAME.")
@click.option("--min", "least", type=Count(), metavar="N", help="The smallest size to try [8, or less where needed].")
@click.option("--max", "most", type=Count(), default="1024", metavar="N", help="The largest size to try [1024].")
@click.option("--within", type=float, default=5.0, metavar="PERCENT", help="How much slower is as good [5].")
@click.option("--margin", type=float, default=10.0, metavar="PERCENT", help="Memory that is to stay free [10].")
@click.option("--memory", metavar="SIZE", help="Memory that may be taken, e.g. 16GB; what there is when not given.")
@click.option("--rounds", type=int, default=2, metavar="N", help="Times that each size is measured, in turns [2].")
@click.option("--seconds", type=float, default=5.0, metavar="S", help="Updates of a size go on so long [5].")
@json_option
def command(
    *,
    spec: str,
    data: str | None,
    batch: int | None,
    context: int | None,
    settings: tuple[str, ...],
    least: int | None,
    most: int,
    within: float,
    margin: float,
    memory: str | None,
    rounds: int,
    seconds: float,
    as_json: bool,
) -> int:
    """Measure, print a table and the settings; 0, or 1 where nothing fits, or 130 after Ctrl-C."""
    from vitruvius.training.finding_batch import Question, find_batch
    from vitruvius.units import parse_bytes

    request, folder = _asked(spec, data, {"batch": batch, "context": context}, settings)
    say_findings(request.reading.findings)
    named = isinstance(request.section.value, dict) and "batch" in request.section.value
    question = Question(
        architecture=request.reading.architecture,
        config=request.config,
        data=folder,
        whole=request.config.batch if named else None,
        least=least,
        most=most,
        within=within / 100,
        margin=margin / 100,
        memory=None if memory is None else parse_bytes(memory),
        rounds=rounds,
        seconds=seconds,
    )
    answer = find_batch(question, lambda text: say(clean(text)))
    return _report(answer, spec, as_json=as_json)


def _asked(
    spec: str, data: str | None, flags: dict[str, Any], settings: tuple[str, ...]
) -> tuple[Request, Path | None]:
    """The run that is meant, and its data, where it has any: none is needed."""
    from vitruvius.data import read_index
    from vitruvius.spec.reading import locate
    from vitruvius.spec.source import load
    from vitruvius.training.request import is_run_file, read_request

    has_data = data is not None
    if not has_data and is_run_file(spec):
        sections = load(locate(spec)).value
        has_data = isinstance(sections, dict) and "data" in sections
    request = read_request(spec, data=data if has_data else _NOWHERE, out=_NOWHERE, flags=flags, settings=settings)
    if not has_data:
        return request, None
    read_index(request.data)  # said before anything is started
    return request, request.data


def _report(answer: Answer, spec: str, *, as_json: bool) -> int:
    from vitruvius.report.batch_text import batch_text

    told = answer.to_dict()
    if as_json:
        emit_json(told)
    else:
        emit(clean(batch_text(told)))
    measured = [size for size in told["sizes"] if size["tokens_per_second"] is not None]
    if len(measured) > 1 and told["noise"] >= told["difference"]:
        say(
            f"warning: times of one size differ by {told['noise']:.1%}, and sizes by {told['difference']:.1%}: this "
            "machine is too busy, or any of them will do (--rounds 4 says more)"
        )
    if answer.chosen is not None and answer.question.whole is None:
        say(
            "note: no batch was named, so the size becomes the batch; another batch is another run, and may want "
            "another learning rate (--batch N keeps N)"
        )
    if answer.interrupted:
        return _INTERRUPTED
    if answer.settings is None:
        next_step(f"vitruvius train {path_argument(spec)} --set train.checkpointing=layers --dry-run ...")
        return _NOTHING_FITS
    settings = " ".join(f"--set {name}={value}" for name, value in answer.settings.items())
    next_step(f"vitruvius train {path_argument(spec)} {settings} ...")
    return 0
