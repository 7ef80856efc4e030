"""The loader of a run: made from its settings, looked at before the run starts, closed when it ends. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from vitruvius.training.loading.loader import BatchLoader
from vitruvius.training.observing import Observer
from vitruvius.training.preprocessing.checking import check_hooks

if TYPE_CHECKING:
    from pathlib import Path

    from vitruvius.data import PackedBatches
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines import Engine
    from vitruvius.training.loop import Listener, Trainer

HOOKS_FOLDER = "hooks"
"""Where a run folder keeps the sources of its hooks, to be read and never to be run."""


def loader_of(
    batches: PackedBatches, config: TrainConfig, architecture: Architecture, listener: Listener, engine: Engine
) -> BatchLoader:
    """The loader, whose hooks were tried on the first batch; a process reads its own share of each batch.

    Raises UsageError or RunError where a hook is not what it should be.
    """
    shared = engine.shares > 1
    only = engine.places(config.batch, config.accumulate).tolist() if shared else None
    loader = BatchLoader(batches, config, vocab_size=architecture.vocab_size, only=only)
    if loader.reader.hooks.hooks:
        for line in check_hooks(loader.reader, loader.recipe):
            listener.note(line)
    return loader


def keep_sources(loader: BatchLoader, run: Path) -> None:
    """Put a copy of each hook's source into the run folder, under its name and hash."""
    from vitruvius.runs.files import write_atomically

    for hook in loader.reader.hooks.hooks:
        if hook.source is not None and hook.sha256 is not None:
            folder = run / HOOKS_FOLDER
            folder.mkdir(exist_ok=True)
            write_atomically(folder / f"{hook.name}-{hook.sha256[:16]}.py", hook.source)


@final
class LoaderKeeper(Observer):
    """Tells the loader which step is at hand, and closes it when the loop is over."""

    def __init__(self) -> None:
        self._loader: BatchLoader | None = None

    def started(self, trainer: Trainer) -> None:
        """Take hold of the run's loader."""
        self._loader = trainer.batches
        self._loader.step = lambda: trainer.state.step + 1

    def ended(self) -> None:
        """End the workers."""
        if self._loader is not None:
            self._loader.close()
