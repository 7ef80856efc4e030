"""`vitruvius data prepare`: turn documents into token shards."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitruvius.cli.output import clean_line, emit, emit_json, next_step, say
from vitruvius.cli.progress import progress_of
from vitruvius.cli.verbs import ExampleCommand
from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vitruvius.data.job.cluster import SlurmOptions
    from vitruvius.data.job.job import Job
    from vitruvius.data.job.plan import Plan
    from vitruvius.data.job.stage import Stage
    from vitruvius.data.options import PrepareOptions
    from vitruvius.data.prepare import Prepared
    from vitruvius.data.progress import Progress

    Execute = Callable[[Job, Sequence[Stage]], None]

SCHEMA = "vitruvius.data-prepare/2"
KINDS = ("auto", "text", "jsonl", "html", "source", "parquet", "arrow")
EXECUTORS = ("local", "datatrove", "slurm", "external")


@click.command(
    "prepare",
    cls=ExampleCommand,
    help="""Read, clean, filter, deduplicate, tokenize and pack documents.

    IN is a file, a folder, hf:NAME of a Hugging Face data set, or python-stdlib: the source of Python's standard
    library, which is on every machine. What --recipe does to documents, and each of its thresholds, is in its YAML;
    the default, plain, keeps every readable document as it is. Every document that does not come out is listed in
    OUT/quarantine.jsonl with its place and the reason. A run that was stopped goes on with the same command.""",
    examples=[
        "vitruvius data prepare python-stdlib --out data --vocab 1024",
        "vitruvius data prepare pages/*.jsonl.zst --recipe web --out web --workers 8",
        "vitruvius data prepare src/ --kind source --ext .py --ext .c --tokenizer tokenizer.json --out data",
        "vitruvius data prepare --sources sources.yaml --out mixed --dry-run",
    ],
)
@click.argument("inputs", metavar="[IN...]", nargs=-1)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for the result; replaces earlier data."
)
@click.option("--recipe", default="plain", show_default=True, help="plain, web, docs, code, or a YAML file.")
@click.option(
    "--sources", type=click.Path(path_type=Path), help="YAML file of named parts of the corpus, with weights."
)
@click.option("--vocab", default=8192, show_default=True, help="Largest vocabulary of the tokenizer to train.")
@click.option(
    "--tokenizer-kind",
    type=click.Choice(("bpe", "wordpiece", "unigram")),
    default="bpe",
    show_default=True,
    help="What to train.",
)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A tokenizer.json or GGUF file to use instead.")
@click.option("--eos", help="The document separator of --tokenizer, if its name is unusual.")
@click.option("--max-bad-rate", default=0.001, show_default=True, help="Stop, exit 3, when more documents are bad.")
@click.option("--held-out", default=0.05, show_default=True, help="Share of documents for validation.")
@click.option("--kind", type=click.Choice(KINDS), default="auto", show_default=True, help="How to read files.")
@click.option("--field", default="text", show_default=True, help="Key or column of the text.")
@click.option("--url-field", default="url", show_default=True, help="Key or column of the address.")
@click.option(
    "--markup", type=click.Choice(("plain", "html")), default="plain", show_default=True, help="What the texts are."
)
@click.option("--ext", "extensions", multiple=True, default=(".py",), show_default=True, help="Suffix of source files.")
@click.option(
    "--document-bytes",
    default=16 * 2**20,
    show_default=True,
    help="Cut longer text files, at line ends, into documents of this size.",
)
@click.option("--line-bytes", default=16 * 2**20, show_default=True, help="Quarantine longer lines and pages unread.")
@click.option("--shard-tokens", default=100_000_000, show_default=True, help="Tokens after which a shard is closed.")
@click.option("--seed", default=0, show_default=True, help="Another seed holds out other documents.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; as many as there are cores by default.")
@click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="local",
    show_default=True,
    help="Who runs the tasks: this machine; datatrove, here or through Slurm; or whoever calls `data work`.",
)
@click.option(
    "--slurm", multiple=True, metavar="KEY=VALUE", help="partition=NAME, time=20:00:00, account=... of sbatch."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, without progress.")
def command(
    inputs: tuple[str, ...],
    *,
    out: Path,
    workers: int | None,
    executor: str,
    slurm: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Plan, do and tell."""
    from vitruvius.data.prepare import plan_of, prepare

    options = _options(given)
    if not inputs and not options.sources:
        raise click.UsageError("Missing argument 'IN...'.")
    workers = workers or len(os.sched_getaffinity(0))
    if dry_run:
        plan = plan_of(inputs, out, options)
        if as_json:
            emit_json(_plan_json(plan))
        else:
            _tell_plan(plan)
        return 0
    with _stopped_by_sigterm(), progress_of("quiet" if as_json else "lines") as progress:
        prepared = prepare(
            inputs,
            out,
            options,
            workers=workers,
            progress=progress,
            execute=_executor(executor, workers, slurm, progress),
        )
    if as_json:
        emit_json(_json(prepared))
        return 0
    _tell(prepared, options)
    shown = shlex.quote(clean_line(str(out)))
    next_step(f"vitruvius train SPEC --data {shown} --out RUN; vitruvius data stats {shown} shows what is in it")
    return 0


def _options(given: dict[str, Any]) -> PrepareOptions:
    from vitruvius.data.cleaning.recipe import read_recipe
    from vitruvius.data.options import PrepareOptions
    from vitruvius.data.sources import read_sources

    chosen = click.get_current_context()
    explicit = {name for name in given if chosen.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
    if given["tokenizer"] is not None and explicit & {"vocab", "tokenizer_kind"}:
        raise click.UsageError("--vocab and --tokenizer exclude each other: a tokenizer brings its vocabulary")
    if given["eos"] is not None and given["tokenizer"] is None:
        raise click.UsageError("--eos belongs to --tokenizer")
    sources = given.pop("sources")
    beside = explicit & {"recipe", "kind", "field", "url_field", "markup", "extensions", "document_bytes", "line_bytes"}
    if sources is not None and beside:
        flag = f"--{min(beside).replace('_', '-')}".replace("--extensions", "--ext")
        raise click.UsageError(f"{flag} and --sources exclude each other: each source says how it is read")
    recipe = read_recipe(given.pop("recipe"))
    return PrepareOptions(recipe=recipe, sources=() if sources is None else read_sources(sources), **given)


def _executor(name: str, workers: int, slurm: tuple[str, ...], progress: Progress) -> Execute | None:
    """Who runs the stages, where it is not this machine's own pool of workers."""
    if slurm and name != "slurm":
        raise click.UsageError("--slurm belongs to --executor slurm")
    if name == "local":
        return None
    if name == "external":
        from vitruvius.data.job.ranks import wait_for_ranks

        return functools.partial(wait_for_ranks, progress=progress)
    from vitruvius.data.job.cluster import run_on_slurm, run_with_datatrove

    if name == "datatrove":
        return functools.partial(run_with_datatrove, workers=workers, progress=progress)
    return functools.partial(run_on_slurm, workers=workers, slurm=_slurm_options(slurm), progress=progress)


def _slurm_options(given: tuple[str, ...]) -> SlurmOptions:
    """What `--slurm KEY=VALUE` says; keys that are not ours are sbatch's."""
    from vitruvius.data.job.cluster import SlurmOptions

    ours: dict[str, Any] = {}
    sbatch: dict[str, str] = {}
    for entry in given:
        key, equals, value = entry.partition("=")
        if not key or not equals:
            raise UsageError(f"{entry!r} is no KEY=VALUE", where="--slurm", fix="--slurm partition=cpu")
        name = key.replace("-", "_")
        if name in {"cpus_per_task", "mem_per_cpu_gb", "max_array_size"}:
            if not value.isascii() or not value.isdigit() or int(value) < 1:
                raise UsageError(f"{key} is {value!r}", where="--slurm", fix="use a whole number from 1 on")
            ours[name] = int(value)
        elif name in {"partition", "time", "qos", "venv_path", "env_command"}:
            ours[name] = value
        else:
            sbatch[key] = value
    if "partition" not in ours:
        raise UsageError("a partition is missing", where="--slurm", fix="--slurm partition=cpu")
    return SlurmOptions(**ours, sbatch_args=sbatch)


class _StoppedError(BaseException):
    """SIGTERM came. No `except Exception` on the way may take it for a failure."""


@contextlib.contextmanager
def _stopped_by_sigterm() -> Generator[None]:
    """Leave with code 75 on SIGTERM: the tasks that are done stay done."""

    def leave(number: int, frame: object) -> None:
        del number, frame
        # What there is to say is said outside: the signal may have come in the middle of a line.
        raise _StoppedError

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except _StoppedError:
        say("stopped by SIGTERM; the same command goes on from here")
        raise SystemExit(75) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _json(prepared: Prepared) -> dict[str, object]:
    index = prepared.index
    return {
        "schema": SCHEMA,
        "out": str(prepared.directory),
        "files": prepared.files,
        "files_passed_over": prepared.passed_over,
        "documents_in": prepared.counts["documents_in"],
        "documents_out": prepared.counts["documents_out"],
        "dropped": prepared.counts["dropped"],
        "changed": prepared.counts["changed"],
        "bad_rate": prepared.counts["bad_rate"],
        "sources": prepared.counts["sources"],
        "splits": prepared.counts["splits"],
        "vocab_size": index["vocab_size"],
        "eos": index["eos"],
        "eos_id": index["eos_id"],
        "fingerprint": index["fingerprint"],
        "tasks_resumed": prepared.resumed,
    }


def _tell(prepared: Prepared, options: PrepareOptions) -> None:
    """The counts as a table, and what may surprise, on stderr."""
    from vitruvius.data.reading.reasons import DAMAGE

    counts, index = prepared.counts, prepared.index
    splits = counts["splits"]
    say(f"{'':12}{'documents':>14}{'tokens':>16}{'text bytes':>18}")
    for name, split in splits.items():
        say(f"{name:12}{split['documents']:>14,}{split['tokens']:>16,}{split['text_bytes']:>18,}")
    for reason, count in counts["dropped"].items():
        say(f"{'dropped':12}{count:>14,}  {reason}{' (damage)' if reason in DAMAGE else ''}")
    say(f"{'in':12}{counts['documents_in']:>14,}  = out + dropped, from {prepared.files:,} files")
    if len(counts["sources"]) > 1:
        for name, part in counts["sources"].items():
            say(f"{'source':12}{part['documents_out']:>14,} of {part['documents_in']:,}  {name}")
    for what, count in counts["changed"].items():
        say(f"{'changed':12}{count:>14,}  {what}")
    if prepared.passed_over:
        most = sorted(prepared.passed_over.items(), key=lambda item: -item[1])[:5]
        say("passed over: " + ", ".join(f"{count:,} {clean_line(suffix)}" for suffix, count in most))
    asked = f" (asked for {options.vocab:,}: the text has no more pairs to merge)"
    short = options.tokenizer is None and index["vocab_size"] < options.vocab
    say(f"vocabulary {index['vocab_size']:,}{asked if short else ''}, fingerprint {index['fingerprint'][:16]}")
    if prepared.resumed:
        say(f"went on from an earlier run: {prepared.resumed:,} tasks were done")
    if options.held_out > 0 and splits["validation"]["documents"] == 0:
        say("note: one document leaves nothing to hold out; --document-bytes 65536 cuts a text file into many")
    if not options.sources and not options.recipe.steps[1:] and options.recipe.name == "plain":
        say("note: nothing was filtered or deduplicated; --recipe web, docs or code does")


def _plan_json(plan: Plan) -> dict[str, object]:
    options = plan.options
    return {
        "schema": "vitruvius.data-plan/1",
        "out": plan.out,
        "files": len(plan.files),
        "bytes": sum(file.size_bytes for file in plan.files),
        "files_passed_over": plan.passed_over,
        "units": len(plan.units),
        "stages": [stage.name for stage in _stages(options)],
        "sources": [part.as_json() for part in options.parts],
    }


def _stages(options: PrepareOptions) -> Sequence[Stage]:
    from vitruvius.data.job.stages import stages_of

    return stages_of(options)


def _tell_plan(plan: Plan) -> None:
    """What would be done: inputs, steps with their settings, stages."""
    from vitruvius.data.cleaning.settings import settings_as_plain
    from vitruvius.units import format_bytes

    options = plan.options
    total = sum(file.size_bytes for file in plan.files)
    units = f"{len(plan.units):,} units of work"
    emit(f"{len(plan.files):,} files, {format_bytes(total)}, in {units}, to {clean_line(plan.out)}")
    for part in options.parts:
        weight = "" if part.weight is None else f", weight {part.weight:g}"
        files = [file for file in plan.files if file.source == part.name]
        size = format_bytes(sum(file.size_bytes for file in files))
        emit(f"source {part.name}: {len(files):,} files, {size}, recipe {part.recipe.name}{weight}")
        for step in part.recipe.steps:
            shown = ", ".join(f"{key} {value}" for key, value in settings_as_plain(step).items())
            emit(f"  {step.kind}: {clean_line(shown)}")
        twins = part.recipe.deduplicate
        emit(f"  exact duplicates: {twins.exact}")
        emit(f"  near duplicates: {'off' if twins.near is None else twins.near.describe()}")
    emit("stages: " + ", ".join(stage.verb for stage in _stages(options)))
