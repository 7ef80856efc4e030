"""Where rows are told to besides `metrics.jsonl`: TensorBoard's event files, Weights & Biases offline."""

from __future__ import annotations

import importlib.util
import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, final

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vitruvius.runs import Checkpoint, RunFolder
    from vitruvius.training.loop import Listener
    from vitruvius.training.settings import Watch


class RowSink(Protocol):
    """Takes the rows of a run."""

    def row(self, step: int, numbers: dict[str, float]) -> None:
        """The finite numbers of one update."""
        ...

    def close(self) -> None:
        """No row follows."""
        ...


@final
class TensorBoardSink:
    """Event files in `RUN/tensorboard`; those of updates that a resumed run does again are marked as gone."""

    def __init__(self, run: RunFolder, step: int, writer: Callable[..., Any] | None = None) -> None:
        if writer is None:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter
        self._writer = writer(log_dir=str(run.path / "tensorboard"), purge_step=step + 1)

    def row(self, step: int, numbers: dict[str, float]) -> None:
        """A scalar for each number."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


@final
class WandbSink:
    """A run of Weights & Biases in `RUN/wandb`, offline: nothing leaves the machine until `wandb sync` is called."""

    def __init__(self, run: RunFolder, step: int, module: Any = None) -> None:
        if module is None:
            # Else the package reports its own errors to its makers, offline or not.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            import wandb as module  # pyright: ignore[reportMissingImports]
        del step
        record = run.reader.record()
        self._run: Any = module.init(
            project="vitruvius",
            name=run.path.resolve().name,
            dir=str(run.path),
            mode="offline",
            config={"train": record["config"].get("train"), "spec": record["spec"].get("data")},
        )

    def row(self, step: int, numbers: dict[str, float]) -> None:
        """One step of the history."""
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


SINKS: dict[str, tuple[str, Callable[[RunFolder, int], RowSink]]] = {
    "tensorboard": ("tensorboard", TensorBoardSink),
    "wandb": ("wandb", WandbSink),
}
"""Name in `train.watch.sinks` -> the package that it needs, and what makes it for a run at a step."""


def require_sinks(watch: Watch) -> None:
    """Raise UsageError where a package that a sink needs is not installed."""
    for name in watch.sinks:
        package, _ = SINKS[name]
        spec = importlib.util.find_spec(package)
        # Earlier runs leave folders of these names: such a folder can be imported too, and has no origin.
        if spec is None or spec.origin is None:
            raise UsageError(
                f"the sink {name} needs a package that is not installed: {package}",
                where="train.watch.sinks",
                fix=f"pip install {package}, or leave {name} out; metrics.jsonl is written either way",
            )


@contextmanager
def with_sinks(listener: Listener, watch: Watch, run: RunFolder, *, step: int) -> Iterator[Listener]:
    """The listener to give to a run at `step`: it tells everything on, and rows to the sinks.

    Without sinks it is the listener itself. A sink that fails is closed and named, and the run goes on without it.
    """
    if not watch.sinks:
        yield listener
        return
    told = Told(listener)
    for name in watch.sinks:
        _, make = SINKS[name]
        told.add(name, lambda make=make: make(run, step))
    try:
        yield told
    finally:
        told.close()


@final
class Told:
    """A listener that tells another one everything, and sinks the rows."""

    def __init__(self, listener: Listener, sinks: Sequence[tuple[str, RowSink]] = ()) -> None:
        self.listener = listener
        self.sinks = dict(sinks)

    def add(self, name: str, make: Callable[[], RowSink]) -> None:
        """Open one more."""
        try:
            self.sinks[name] = make()
        except Exception as error:  # noqa: BLE001 (somebody else's package must not end a run)
            self._failed(name, error)

    def started(self, *, step: int, steps: int) -> None:
        """Tell it on."""
        self.listener.started(step=step, steps=steps)

    def row(self, row: dict[str, Any]) -> None:
        """Tell it on, and its numbers to every sink."""
        self.listener.row(row)
        numbers = {
            name: float(value)
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float) and math.isfinite(value)
        }
        for name, sink in list(self.sinks.items()):
            try:
                sink.row(row["step"], numbers)
            except Exception as error:  # noqa: BLE001
                del self.sinks[name]
                self._failed(name, error)

    def saved(self, checkpoint: Checkpoint) -> None:
        """Tell it on."""
        self.listener.saved(checkpoint)

    def note(self, text: str) -> None:
        """Tell it on."""
        self.listener.note(text)

    def ended(self) -> None:
        """Tell it on."""
        self.listener.ended()

    def close(self) -> None:
        """Close every sink."""
        for name, sink in self.sinks.items():
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001
                self._failed(name, error)
        self.sinks.clear()

    def _failed(self, name: str, error: Exception) -> None:
        what = f"{type(error).__name__}: {error}"
        self.note(f"warning: the sink {name} failed and gets no more rows ({what[:200]}); metrics.jsonl goes on")
