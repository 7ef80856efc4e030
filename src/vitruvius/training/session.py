"""A whole training run: from an architecture and a data folder to a run folder, or on from where one stopped."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.data import TokenShards, read_index, use_of
from vitruvius.errors import DataError, RunError, UsageError
from vitruvius.nn import build
from vitruvius.nn.ops import keep_freed_memory
from vitruvius.nn.weights import copy_weights, tables_that_grow
from vitruvius.runs import RunFolder, RunReader
from vitruvius.runs.checkpoints import TOKENIZER_FILE
from vitruvius.runs.files import sync_file
from vitruvius.spec import ensure as ensure_architecture
from vitruvius.spec import from_plain, to_data, to_yaml
from vitruvius.training.config import TrainConfig, batches_of, config_hash, ensure, to_plain
from vitruvius.training.config import from_plain as config_from_plain
from vitruvius.training.determinism import deterministic
from vitruvius.training.engines import held, joined
from vitruvius.training.evaluate import Validation
from vitruvius.training.going_on import note_changes, restore_newest
from vitruvius.training.launch import as_launched, ensure_divides
from vitruvius.training.loop import Listener, Trainer
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import make_optimizer
from vitruvius.training.progress import Silent
from vitruvius.training.room import ensure_room, room_here
from vitruvius.training.stopping import StopRequest
from vitruvius.training.watching import Watcher, require_sinks, with_sinks

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from vitruvius.data import PackedBatches
    from vitruvius.nn import Model
    from vitruvius.runs import Checkpoint
    from vitruvius.spec import Architecture
    from vitruvius.training.engines import Engine
    from vitruvius.training.objectives import Objective
    from vitruvius.training.observing import Observer

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
        """The machine-readable summary, schema `vitruvius.train/1`."""
        return {"schema": RESULT_SCHEMA, **asdict(self), "run": str(self.run), "checkpoint": str(self.checkpoint)}


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
) -> Generator[tuple[RunFolder, _Parts]]:
    """A run folder made anew, and all else that training takes; whatever is wrong with it is found before."""
    ensure_architecture(architecture)
    config = _settled(ensure(config or TrainConfig(), architecture))
    with joined(config.engine, device=config.device) as engine:
        listener = _heard(listener, engine)
        engine.on_main(lambda: _refuse_existing(Path(out)))
        _ensure_room(architecture, config, listener, engine)
        shards = _open_data(data, architecture, config, listener)
        with deterministic(seed=config.seed, threads=config.threads):
            parts = _parts(architecture, config, shards, listener, engine)
            with held(
                engine,
                out,
                lambda: RunFolder.create(
                    out,
                    command=command,
                    config={"train": to_plain(config)},
                    spec_text=to_yaml(architecture) if spec_text is None else spec_text,
                    spec=to_data(architecture),
                    data=_data_record(shards, parts),
                ),
            ) as run:
                engine.on_main(lambda: _copy_tokenizer(shards, run.path))
                yield run, parts


def resume(
    run: Path | str,
    *,
    data: Path | str | None = None,
    listener: Listener | None = None,
    stop: StopRequest | None = None,
) -> TrainResult:
    """Go on with a run from its newest whole checkpoint, to the same bits as if it had never stopped.

    `data` is where the data lies now, when it was moved; it must be the same data. A damaged checkpoint is set aside
    with a warning and the one before it is taken. Raises RunError when the folder is no run, its record was changed or
    the data differs, CorruptCheckpointError when no checkpoint is whole, RunLockedError when someone is writing to it.
    """
    reader = RunReader(run)
    record = reader.record()
    architecture = from_plain(_recorded(reader, record, "spec", "data"))
    config = config_from_plain(_recorded(reader, record, "config", "train"))
    if config.context is None or config.device == "auto":
        raise RunError(
            "run.json's config.train lacks its context or device, so this run cannot be resumed",
            where=str(reader.path),
            fix="restore run.json from a copy",
        )
    with (
        joined(as_launched(config.engine), device=config.device) as engine,
        held(engine, run, lambda: RunFolder.open(run)) as folder,
    ):
        listener = _heard(listener or Silent(), engine)
        _ensure_room(architecture, config, listener, engine)
        known = _recorded(reader, record, "data", "fingerprint")
        shards = _open_data(data or str(_recorded(reader, record, "data", "path")), architecture, config, listener)
        if shards.fingerprint != known:
            raise RunError(
                "the data is not the data that this run was trained on (fingerprint)",
                where=str(shards.directory),
                fix="name the right folder with --data, or train on this data into a new folder",
            )
        note_changes(record["environment"], listener)
        with deterministic(seed=config.seed, threads=config.threads):
            trainer = _parts(architecture, config, shards, listener, engine).trainer(folder)
            restore_newest(folder, trainer, listener)
            folder.truncate_metrics(after_step=trainer.state.step)
            folder.resume()
            return _run(folder, trainer, listener, stop or StopRequest())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a trainer is made of, new or resumed: everything but the folder that it writes to."""

    config: TrainConfig
    model: Model
    objective: Objective
    batches: PackedBatches
    validation: Validation | None
    belongs_to: str
    observers: tuple[Observer, ...]
    engine: Engine

    def trainer(self, run: RunFolder) -> Trainer:
        """The trainer, at step 0."""
        return Trainer(
            config=self.config,
            model=self.model,
            optimizer=make_optimizer(self.model, self.config),
            objective=self.objective,
            batches=self.batches,
            validation=self.validation,
            run=run,
            device=torch.device(self.config.device),
            belongs_to=self.belongs_to,
            observers=self.observers,
            engine=self.engine,
        )


def _parts(
    architecture: Architecture, config: TrainConfig, shards: TokenShards, listener: Listener, engine: Engine
) -> _Parts:
    """Cut the data and build the model; whatever is wrong with either is found here, before a folder is made."""
    require_sinks(config.watch)
    ensure_divides(config, engine.ranks)
    belongs_to = config_hash(config, to_data(architecture), shards.fingerprint)
    alike = "give every process the same command, data and version; set train.threads where machines differ"
    engine.ensure_alike(lambda: belongs_to, what="data, spec or settings", fix=alike)
    objective = make_objective(config)
    batches = batches_of(shards, config)
    for line in use_of(batches, steps=config.steps).lines():
        listener.note(line)
    return _Parts(
        config=config,
        batches=batches,
        validation=_validation(config, shards, objective, listener, engine),
        objective=objective,
        model=_model(architecture, config),
        belongs_to=belongs_to,
        observers=(Watcher(config.watch, listener.note),) if engine.is_main else (),
        engine=engine,
    )


def _validation(
    config: TrainConfig, shards: TokenShards, objective: Objective, listener: Listener, engine: Engine
) -> Validation | None:
    entry = read_index(shards.directory)["splits"]["validation"]
    if entry["documents"] == 0 or entry["tokens"] < 2:
        listener.note("no text is held out, so there is no validation loss (see `data prepare --held-out`)")
        return None
    held_out = TokenShards.open(shards.directory, "validation", verify=config.data_check)
    return Validation(held_out, config, objective, torch.device(config.device), engine)


def _run(run: RunFolder, trainer: Trainer, listener: Listener, stop: StopRequest) -> TrainResult:
    """The loop, and how it ended in the run's record."""
    keep_freed_memory()
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
    summary = {key: value for key, value in result.to_dict().items() if key not in {"schema", "run", "status"}}
    if score is not None:
        summary |= {"val_tokens": score.tokens, "val_text_bytes": score.text_bytes, "val_whole_split": score.whole}
    run.event(result.status, step=state.step, signal=None if stop.signal is None else stop.signal.name)
    run.finish("finished" if finished else "stopped", **summary)
    return result


@contextlib.contextmanager
def _recording_failure(run: RunFolder, trainer: Trainer) -> Generator[None]:
    """Write an error into the record before it goes on its way; a second Ctrl-C leaves without a word."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(OSError):  # the disk may be what failed
            run.event("failed", step=trainer.state.step, error=f"{type(error).__name__}: {error}")
            run.finish("failed", step=trainer.state.step, error=str(error))
        raise


def _settled(config: TrainConfig) -> TrainConfig:
    """The config with what follows from the machine written out: device and threads."""
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise UsageError(
            "this torch sees no CUDA device", where="train.device", fix="use device: cpu, or install torch for CUDA"
        )
    device = ("cuda" if has_cuda else "cpu") if config.device == "auto" else config.device
    return replace(config, device=device, threads=config.threads or torch.get_num_threads())


def _model(architecture: Architecture, config: TrainConfig) -> Model:
    model = build(architecture, dtype=config.dtype, seed=config.seed)
    # Growing replaces a parameter, so tables grow before the optimizer takes hold of them.
    for table in tables_that_grow(model).values():
        table.grow(config.context)
    model = model.to(torch.device(config.device))
    model.checkpointing = config.checkpointing
    if config.compile == "default":
        model.loss = torch.compile(model.loss)  # pyright: ignore[reportAttributeAccessIssue]
    return model


def _open_data(data: Path | str, architecture: Architecture, config: TrainConfig, listener: Listener) -> TokenShards:
    shards = TokenShards.open(data, "train", verify=config.data_check)
    if shards.vocab_size > architecture.vocab_size:
        raise DataError(
            f"the data's vocabulary has {shards.vocab_size:,} tokens, the architecture's vocab_size is "
            f"{architecture.vocab_size:,}",
            where=str(data),
            fix=f"--set vocab_size={shards.vocab_size}, or prepare the data with --vocab {architecture.vocab_size}",
        )
    mask = config.mask_token
    if config.objective == "masked-lm" and mask is not None and mask < shards.vocab_size:
        raise UsageError(
            f"id {mask:,} is to hide tokens, and stands for one in the data (ids 0 to {shards.vocab_size - 1:,})",
            where="train.mask_token",
            fix=f"--set vocab_size={shards.vocab_size + 1}, so that one id is free",
        )
    if shards.vocab_size < architecture.vocab_size:
        listener.note(
            f"the data uses {shards.vocab_size:,} of the architecture's {architecture.vocab_size:,} tokens; "
            "the rest is never seen"
        )
    return shards


def _data_record(shards: TokenShards, parts: _Parts) -> dict[str, Any]:
    return {
        "path": str(shards.directory.resolve()),
        "fingerprint": shards.fingerprint,
        "vocab_size": shards.vocab_size,
        "eos": read_index(shards.directory)["eos"],
        "eos_id": shards.eos_id,
        "tokens": shards.tokens,
        "documents": shards.documents,
        "use": use_of(parts.batches, steps=parts.config.steps).to_dict(),
    }


def _copy_tokenizer(shards: TokenShards, run: Path) -> None:
    shards.tokenizer()  # raises where the file is not the one in the index
    source = shards.directory / read_index(shards.directory)["tokenizer"]["file"]
    shutil.copyfile(source, run / TOKENIZER_FILE)
    sync_file(run / TOKENIZER_FILE)


def _heard(listener: Listener, engine: Engine) -> Listener:
    """One of several processes speaks."""
    return listener if engine.is_main else Silent()


def _ensure_room(architecture: Architecture, config: TrainConfig, listener: Listener, engine: Engine) -> None:
    """Each process has a share of the batch, and those of one machine share its memory."""
    room = room_here(config.device)
    if room is not None:
        room = replace(room, size=room.size // engine.launch.local_ranks)
    note = ensure_room(architecture, replace(config, batch=max(1, config.batch // engine.ranks)), room)
    if note is not None:
        listener.note(note)


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
