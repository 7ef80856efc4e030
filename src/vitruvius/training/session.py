"""A whole training run: from an architecture and a data folder to a run folder, or on from where one stopped."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.data import TokenShards, read_index
from vitruvius.errors import RunError
from vitruvius.nn.ops import hold_reserve, keep_freed_memory
from vitruvius.nn.weights import copy_weights
from vitruvius.runs import RunFolder, RunReader
from vitruvius.runs.checkpoints import TOKENIZER_FILE
from vitruvius.runs.files import write_atomically
from vitruvius.runs.shortage import is_out_of_memory
from vitruvius.spec import ensure as ensure_architecture
from vitruvius.spec import from_plain, to_data, to_yaml
from vitruvius.training.changing import ensure_changeable
from vitruvius.training.checking import ensure
from vitruvius.training.checking import from_plain as config_from_plain
from vitruvius.training.config import TrainConfig, to_plain
from vitruvius.training.determinism import deterministic
from vitruvius.training.engines import held, joined
from vitruvius.training.going_on import note_changes, note_missing_rows, restore_newest
from vitruvius.training.launch import as_launched
from vitruvius.training.loading.wiring import keep_sources
from vitruvius.training.parts import Parts, data_record, ensure_fits, open_data, parts_of, settled
from vitruvius.training.pieces import Shortage, ended_by, halvings_of, smallest_yet
from vitruvius.training.progress import Silent
from vitruvius.training.sampling_text import with_samples
from vitruvius.training.stopping import StopRequest
from vitruvius.training.watching import with_sinks

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from vitruvius.nn import Model
    from vitruvius.runs import Checkpoint
    from vitruvius.spec import Architecture
    from vitruvius.training.engines import Engine
    from vitruvius.training.loop import Listener, Trainer

RESULT_SCHEMA = "vitruvius.train/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    run: Path
    """The run folder."""
    status: str
    """`finished`, or `stopped` with a checkpoint to go on from."""
    exit_code: int
    """0, 75 after SIGTERM, 130 after Ctrl-C."""
    step: int
    """Updates done."""
    steps: int
    """Updates the run is to have."""
    tokens: int
    """Tokens read in training, over the whole run."""
    loss: float | None
    """Training loss of the last update in nats per token; None when there was none in this process."""
    val_loss: float | None
    """Nats per token on held-out text after the last step; None when not finished or nothing is held out."""
    val_bits_per_byte: float | None
    """The same in bits per byte of text."""
    tokens_per_second: float | None
    """Training tokens over wall time of this process, validation and checkpoints included."""
    seconds: float
    """Wall time of this process's loop."""
    objective: str
    """What was learned."""
    checkpoint: Path
    """The newest checkpoint."""

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable summary, schema `vitruvius.train/1`; a number that is not finite is null."""
        return {
            "schema": RESULT_SCHEMA,
            **{key: None if _is_odd(value) else value for key, value in asdict(self).items()},
            "run": str(self.run),
            "checkpoint": str(self.checkpoint),
        }


def train(
    architecture: Architecture,
    *,
    data: Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    spec_text: str | None = None,
    command: Sequence[str] = (),
    listener: Listener | None = None,
    stop: StopRequest | None = None,
) -> TrainResult:
    """Train an architecture on prepared data into a new run folder.

    `stop` is looked at between updates: `stop_on_signals` gives one that Ctrl-C and SIGTERM fill in. Raises SpecError
    when architecture or config do not fit together, DataError when the data is damaged or its vocabulary is larger
    than the architecture's, RunError when `out` holds a run already, a loss is not finite or a checkpoint does not fit.
    """
    listener = listener or Silent()
    with _new_run(architecture, config, data, out, spec_text, command, listener) as (run, parts):
        return _run(run, parts.trainer(run), listener, stop or StopRequest())


def begin(
    model: Model,
    *,
    data: Path | str,
    out: Path | str,
    made_from: str,
    config: TrainConfig | None = None,
    spec_text: str | None = None,
    command: Sequence[str] = (),
    listener: Listener | None = None,
) -> Checkpoint:
    """A new run folder that starts with a model's weights instead of drawn ones: its checkpoint at step 0.

    `resume` trains it. made_from: what the weights come from, in words, for the record. Raises as `train` does.
    """
    listener = listener or Silent()
    with _new_run(model.architecture, config, data, out, spec_text, command, listener) as (run, parts):
        copy_weights(model, parts.model)
        checkpoint = parts.trainer(run).save()
        run.event("begun", made_from=made_from)
        run.finish("stopped", step=0, steps=parts.config.steps, made_from=made_from)
        listener.saved(checkpoint)
        return checkpoint


@contextlib.contextmanager
def _new_run(
    architecture: Architecture,
    config: TrainConfig | None,
    data: Path | str,
    out: Path | str,
    spec_text: str | None,
    command: Sequence[str],
    listener: Listener,
) -> Generator[tuple[RunFolder, Parts]]:
    """A run folder made anew, and all else that training takes; whatever is wrong with it is found before."""
    ensure_architecture(architecture)
    config = settled(ensure(config or TrainConfig(), architecture))
    with joined(config.engine, device=config.device) as engine:
        listener = _heard(listener, engine)
        engine.on_main(lambda: _refuse_existing(Path(out)))
        ensure_fits(architecture, config, listener, engine)
        shards = open_data(data, architecture, config, listener)
        with deterministic(seed=config.seed, threads=config.threads):
            parts = parts_of(architecture, config, shards, listener, engine)
            with held(
                engine,
                out,
                lambda: RunFolder.create(
                    out,
                    command=command,
                    config={"train": to_plain(config)},
                    spec_text=to_yaml(architecture) if spec_text is None else spec_text,
                    spec=to_data(architecture),
                    data=data_record(shards, parts),
                ),
            ) as run:
                engine.on_main(lambda: _keep_sources(shards, parts, run.path))
                yield run, parts


def resume(
    run: Path | str,
    *,
    data: Path | str | None = None,
    changes: Mapping[str, Any] | None = None,
    listener: Listener | None = None,
    stop: StopRequest | None = None,
) -> TrainResult:
    """Go on with a run from its newest whole checkpoint, to the same bits as if it had never stopped.

    `data` is where the data lies now, when it was moved; it must be the same data. `changes` has settings by name, such
    as `loader` or `engine`, that take the place of those that the run was started with, this time; they are such that
    no bits change beyond what docs/distributed.md says, and the launch decides where `engine` does not fit it. A
    damaged checkpoint is set aside with a warning and the one before it is taken.

    Raises RunError when the folder is no run, its record was changed or the data differs, CorruptCheckpointError when
    no checkpoint is whole, RunLockedError when someone is writing to it, UsageError when a change is none that may be,
    SpecError when it does not go together with the rest.
    """
    reader = RunReader(run)
    record = reader.record()
    architecture = from_plain(_recorded(reader, record, "spec", "data"))
    config = config_from_plain(_recorded(reader, record, "config", "train"))
    ensure_changeable(changes := dict(changes or {}), config)
    config = replace(config, **changes)
    config = replace(config, engine=as_launched(config.engine))
    if changes:
        ensure(config, architecture)
    if config.context is None or config.device == "auto":
        raise RunError(
            "run.json's config.train lacks its context or device, so this run cannot be resumed",
            where=str(reader.path),
            fix="restore run.json from a copy",
        )
    with (
        joined(config.engine, device=config.device) as joint,
        held(joint, run, lambda: RunFolder.open(run)) as folder,
    ):
        listener = _heard(listener or Silent(), joint)
        halvings = joint.from_main(lambda: halvings_of(reader))
        ensure_fits(architecture, smallest_yet(config, map(tuple, halvings), joint), listener, joint)
        where = _same_data(reader, record, data)
        shards = open_data(where, architecture, config, listener)
        note_changes(record["environment"], listener)
        with deterministic(seed=config.seed, threads=config.threads):
            parts = parts_of(architecture, config, shards, listener, joint)
            joint.on_main(lambda: _keep_sources(shards, parts, folder.path))
            trainer = parts.trainer(folder)
            restore_newest(folder, trainer, listener)
            folder.truncate_metrics(after_step=trainer.state.step)
            note_missing_rows(reader, trainer.state.step, listener)
            folder.resume()
            if changes:
                folder.event("settings", **{name: to_plain(config)[name] for name in changes})
            return _run(folder, trainer, listener, stop or StopRequest())


def _same_data(reader: RunReader, record: dict[str, Any], data: Path | str | None) -> Path:
    """Where the run's data lies. Raises RunError where what lies there is other data."""
    where = Path(data or str(_recorded(reader, record, "data", "path")))
    # Before it is opened: what may not fit in other data (its vocabulary, its sources) is beside the point.
    if read_index(where)["fingerprint"] != _recorded(reader, record, "data", "fingerprint"):
        raise RunError(
            "the data is not the data that this run was trained on (fingerprint)",
            where=str(where),
            fix="name the right folder with --data, or train on this data into a new folder",
        )
    return where


def _run(run: RunFolder, trainer: Trainer, listener: Listener, stop: StopRequest) -> TrainResult:
    """The loop, and how it ended in the run's record."""
    keep_freed_memory()
    hold_reserve()
    engine = trainer.engine
    listener, stop = _heard(listener, engine), engine.agreed(stop)
    if engine.ranks > 1:
        run.event("launched", engine=trainer.config.engine.kind, processes=engine.ranks)
    began, tokens_before = time.perf_counter(), trainer.state.tokens
    with (
        _recording_failure(run, trainer),
        engine.contact(),
        with_sinks(listener, trainer.config.watch, run, step=trainer.state.step)
        if engine.is_main
        else contextlib.nullcontext(listener) as told,
        with_samples(told, trainer, stop) as told,
    ):
        finished = trainer.train(stop, told)
    seconds = time.perf_counter() - began
    score, state = trainer.final_score, trainer.state
    result = TrainResult(
        run=run.path,
        status="finished" if finished else "stopped",
        exit_code=0 if finished else stop.exit_code,
        step=state.step,
        steps=trainer.config.steps,
        tokens=state.tokens,
        loss=trainer.last_loss,
        val_loss=None if score is None else score.loss,
        val_bits_per_byte=None if score is None else score.bits_per_byte,
        tokens_per_second=(state.tokens - tokens_before) / seconds if trainer.last_row else None,
        seconds=seconds,
        objective=str(trainer.config.objective),
        checkpoint=run.path / "checkpoints" / f"step-{state.step}",
    )
    summary = asdict(result) | {"checkpoint": str(result.checkpoint)}
    del summary["run"], summary["status"]
    if score is not None:
        summary |= {"val_tokens": score.tokens, "val_text_bytes": score.text_bytes, "val_whole_split": score.whole}
        summary |= {f"val_{name}": value for name, value in score.metrics.items()}
    run.event(result.status, step=state.step, signal=None if stop.signal is None else stop.signal.name)
    run.finish("finished" if finished else "stopped", **summary)
    return result


@contextlib.contextmanager
def _recording_failure(run: RunFolder, trainer: Trainer) -> Generator[None]:
    """Write an error into the record before it goes on its way; a second Ctrl-C leaves without a word."""
    try:
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            short = Shortage.of(error, process=trainer.engine.rank)
            raise ended_by(short, trainer, f"after step {trainer.state.step:,}") from None
    except Exception as error:
        with contextlib.suppress(OSError, RunError):  # the disk may be what failed
            run.event("failed", step=trainer.state.step, error=f"{type(error).__name__}: {error}")
            run.finish("failed", step=trainer.state.step, error=str(error))
        raise


def _keep_sources(shards: TokenShards, parts: Parts, run: Path) -> None:
    """Copies of the tokenizer and of hooks in the run folder; of a run that was killed before, once more."""
    shards.tokenizer()  # raises where the file is not the one in the index
    content = (shards.directory / read_index(shards.directory)["tokenizer"]["file"]).read_bytes()
    copy = run / TOKENIZER_FILE
    if not copy.exists() or copy.read_bytes() != content:
        write_atomically(copy, content)
    keep_sources(parts.loader, run)


def _is_odd(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _heard(listener: Listener, engine: Engine) -> Listener:
    """One of several processes speaks."""
    return listener if engine.is_main else Silent()


def _refuse_existing(out: Path) -> None:
    """Say early what `RunFolder.create` would say after the model is built."""
    if (out / "run.json").exists():
        raise RunError(
            "this folder already holds a run",
            where=str(out),
            fix=f"go on with it: vitruvius train --resume {out}; or choose another --out",
        )


def _recorded(folder: RunReader, record: dict[str, Any], section: str, key: str) -> Any:
    value = (record.get(section) or {}).get(key)
    if value is None:
        raise RunError(
            f"run.json has no {section}.{key}, so this run cannot be resumed",
            where=str(folder.path),
            fix="name a folder that `vitruvius train` wrote",
        )
    return value


def is_finished(run: Path | str) -> bool:
    """Whether a run has nothing left to do.

    Raises RunError when the folder is no run.
    """
    return RunReader(run).record()["status"] == "finished"
