"""What a run is made of, new or resumed: its data, its model, and everybody who looks at it or takes part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.data import TokenShards, read_index, use_of
from vitruvius.errors import UsageError
from vitruvius.nn import build
from vitruvius.nn.ops.compiling import compiled
from vitruvius.nn.weights import tables_that_grow
from vitruvius.spec import to_data
from vitruvius.training.checking import config_hash
from vitruvius.training.config import TrainConfig, batches_of
from vitruvius.training.evaluate import Validation
from vitruvius.training.launch import ensure_divides
from vitruvius.training.loading.wiring import LoaderKeeper, loader_of
from vitruvius.training.loop import Listener, Trainer
from vitruvius.training.numerics import notes_on, numerics_of
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import require_optimizer
from vitruvius.training.pieces import Pieces
from vitruvius.training.preprocessing import pinned
from vitruvius.training.room import ensure_room, room_here
from vitruvius.training.sampling_text import ensure_prompts
from vitruvius.training.shaping.companion import shaping_companions
from vitruvius.training.vocabulary import ensure_vocabulary
from vitruvius.training.watching import Watcher, require_sinks

if TYPE_CHECKING:
    from pathlib import Path

    from vitruvius.data import PackedBatches
    from vitruvius.nn import Model
    from vitruvius.runs import RunFolder
    from vitruvius.spec import Architecture
    from vitruvius.training.companions import Companion
    from vitruvius.training.engines import Engine
    from vitruvius.training.loading import BatchLoader
    from vitruvius.training.objectives import Objective
    from vitruvius.training.observing import Observer


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a trainer is made of, new or resumed: everything but the folder that it writes to."""

    config: TrainConfig
    model: Model
    objective: Objective
    batches: PackedBatches
    loader: BatchLoader
    validation: Validation | None
    belongs_to: str
    observers: tuple[Observer, ...]
    companions: tuple[Companion, ...]
    engine: Engine

    def trainer(self, run: RunFolder) -> Trainer:
        """The trainer, at step 0."""
        optimizer = self.engine.optimizer(self.model, self.config)
        self.engine.own(optimizer)
        return Trainer(
            config=self.config,
            model=self.model,
            optimizer=optimizer,
            objective=self.objective,
            batches=self.loader,
            validation=self.validation,
            run=run,
            device=torch.device(self.config.device),
            belongs_to=self.belongs_to,
            observers=self.observers,
            companions=self.companions,
            engine=self.engine,
        )


def parts_of(
    architecture: Architecture, config: TrainConfig, shards: TokenShards, listener: Listener, engine: Engine
) -> Parts:
    """Cut the data and build the model; whatever is wrong with either is found here, before a folder is made."""
    require_sinks(config.watch)
    require_optimizer(config)
    _require_compiler(config)
    ensure_divides(config, engine.shares)
    belongs_to = config_hash(config, to_data(architecture), shards.fingerprint)
    alike = "give every process the same command, data and version; set train.threads where machines differ"
    engine.ensure_alike(lambda: belongs_to, what="data, spec or settings", fix=alike)
    ensure_prompts(config, architecture, shards.tokenizer)
    for note in (*notes_on(config), *engine.notes(config, architecture)):
        listener.note(note)
    objective = make_objective(config)
    batches = batches_of(shards, config)
    loader = loader_of(batches, config, architecture, listener, engine)
    for line in use_of(batches, steps=config.steps).lines():
        listener.note(line)
    return Parts(
        config=config,
        batches=batches,
        loader=loader,
        validation=_validation(config, shards, objective, listener, engine),
        objective=objective,
        model=model_of(architecture, config, engine),
        belongs_to=belongs_to,
        observers=observers_of(config, listener, engine),
        companions=companions_of(config, architecture),
        engine=engine,
    )


def _require_compiler(config: TrainConfig) -> None:
    """Raises UsageError where torch.compile is asked for and a CPU has nothing that compiles."""
    if config.compile == "none" or torch.device(config.device).type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        fix = "install g++ or clang++, name one in the variable CXX, or use compile: none"
        raise UsageError("torch.compile finds no C++ compiler", where="train.compile", fix=fix) from None


def observers_of(config: TrainConfig, listener: Listener, engine: Engine) -> tuple[Observer, ...]:
    """Those who look at the run; most of them in the process that speaks, or in all where none has the whole model."""
    watches = engine.is_main or not engine.has_whole_model
    return (LoaderKeeper(), *((Watcher(config.watch, listener.note),) if watches else ()))


def companions_of(config: TrainConfig, architecture: Architecture) -> tuple[Companion, ...]:
    """Those who take part in the run, in the order in which they are asked."""
    return (Pieces(config), *shaping_companions(config, architecture), *numerics_of(config))


def model_of(architecture: Architecture, config: TrainConfig, engine: Engine) -> Model:
    """The model of a run, where its engine has it, before anything is restored or trained."""
    model = build(architecture, dtype=config.dtype, seed=config.seed)
    # Growing replaces a parameter, so tables grow before the optimizer takes hold of them.
    for table in tables_that_grow(model).values():
        table.grow(config.context)
    model = engine.place(model, torch.device(config.device))
    model.checkpointing = config.checkpointing
    if config.compile == "default":
        model.loss = compiled(model.loss)  # pyright: ignore[reportAttributeAccessIssue]
    return model


def _validation(
    config: TrainConfig, shards: TokenShards, objective: Objective, listener: Listener, engine: Engine
) -> Validation | None:
    entry = read_index(shards.directory)["splits"]["validation"]
    if entry["documents"] == 0 or entry["tokens"] < 2:
        listener.note("no text is held out, so there is no validation loss (see `data prepare --held-out`)")
        return None
    held_out = TokenShards.open(shards.directory, "validation", verify=config.data_check)
    return Validation(held_out, config, objective, torch.device(config.device), engine)


def settled(config: TrainConfig) -> TrainConfig:
    """The config with what follows from the machine written out: device and threads."""
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise UsageError(
            "this torch sees no CUDA device", where="train.device", fix="use device: cpu, or install torch for CUDA"
        )
    device = ("cuda" if has_cuda else "cpu") if config.device == "auto" else config.device
    threads = config.threads or torch.get_num_threads()
    return replace(config, device=device, threads=threads, preprocess=pinned(config.preprocess))


def open_data(data: Path | str, architecture: Architecture, config: TrainConfig, listener: Listener) -> TokenShards:
    """The prepared data. Raises DataError or UsageError where its vocabulary and the architecture's do not fit."""
    shards = TokenShards.open(data, "train", verify=config.data_check)
    ensure_vocabulary(shards, architecture, config)
    if shards.vocab_size < architecture.vocab_size:
        listener.note(
            f"the data uses {shards.vocab_size:,} of the architecture's {architecture.vocab_size:,} tokens; "
            "the rest is never seen"
        )
    return shards


def data_record(shards: TokenShards, parts: Parts) -> dict[str, Any]:
    """What `run.json` says about the data."""
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


def ensure_fits(architecture: Architecture, config: TrainConfig, listener: Listener, engine: Engine) -> None:
    """Each process has a share of the batch, and those of one machine share its memory."""
    room = room_here(config.device)
    if room is not None:
        room = replace(room, size=room.size // engine.launch.local_ranks)
    share = replace(config, batch=max(1, config.batch // engine.shares))
    note = ensure_room(architecture, share, room, parts=engine.sharing)
    if note is not None:
        listener.note(note)
