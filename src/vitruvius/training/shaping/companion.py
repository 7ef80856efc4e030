"""Those who change the architecture of a run as it goes, and the noise of its routers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from vitruvius.errors import VitruviusError
from vitruvius.nn.reshaping import Reshaping
from vitruvius.nn.updates import begin_update
from vitruvius.runs.shaped import COMPANION, VALUES
from vitruvius.spec import ensure
from vitruvius.training.companions import Companion
from vitruvius.training.shaping.schedule import changes_of, shaping_of
from vitruvius.training.shaping.signals import OF_VALIDATION, value_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.spec import Architecture
    from vitruvius.spec.fields import Value
    from vitruvius.training.companions import Companion as Base
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.loop import Trainer
    from vitruvius.training.shaping.schedule import Shaping
    from vitruvius.training.shaping.signals import Waiting


def shaping_companions(config: TrainConfig, architecture: Architecture) -> tuple[Base, ...]:
    """Those that the settings ask for; the noise of routers needs someone in every run."""
    shaping = shaping_of(config, architecture)
    return (UpdateKeys(config.seed), *(() if shaping is None else (ShapeCompanion(config, shaping),)))


@final
class UpdateKeys(Companion):
    """Tells modules that draw noise which update it is for; all of it follows from seed and step."""

    name = "update-keys"

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._trainer: Trainer | None = None

    def started(self, trainer: Trainer) -> None:
        """Get to know the model."""
        self._trainer = trainer

    def before(self, step: int) -> None:
        """Give the update its key."""
        if self._trainer is not None:
            begin_update(self._trainer.model, seed=self._seed, step=step)


@final
class ShapeCompanion(Companion):
    """Puts the values of `train.shape` into the model before each update, and waits for signals after it.

    Its state is the values of the last update that was done, which say what shape the weights of a checkpoint are of,
    and how far each signal is.
    """

    name = COMPANION

    def __init__(self, config: TrainConfig, shaping: Shaping) -> None:
        self._config, self._shaping = config, shaping
        self._trainer: Trainer | None = None
        self._reshaping: Reshaping | None = None
        self._waiting: dict[int, Waiting] = shaping.waiting()
        self._why: dict[int, str] = {}
        """Of each schedule that its signal moved since the last update."""
        self._done: dict[str, Value] = {}
        """Values of the last update that was done; empty before the first."""
        self._now: dict[str, Value] = shaping.resting()
        """Values that the model has."""

    def started(self, trainer: Trainer) -> None:
        """Get to know the model, and give it the shape that it had when the run was left."""
        self._trainer, self._reshaping = trainer, Reshaping(trainer.model)
        self._put(self._done or self._now)

    def before(self, step: int) -> None:
        """Put the values of this update into the model, with an event for each that is another."""
        assert self._trainer is not None
        for path, old, new in self._put(self._values(step - 1)):
            self._trainer.run.event("shape", step=step, field=path, **{"from": old, "to": new}, why=self._reason(path))
        # A change that no update came of (a stop between pieces) is told again by whoever goes on.

    def after(self, step: int, row: Mapping[str, Any]) -> Mapping[str, float]:
        """Remember the shape, look at the signals; the values stand in the rows in which they are new."""
        assert self._trainer is not None
        changed = changes_of(self._now, self._done) if self._done else [(p, None, v) for p, v in self._now.items()]
        self._done, self._why = dict(self._now), {}
        if self._waiting and row.get("applied", 1):
            self._look(step, row)
        return {f"shape/{path}": new for path, _, new in changed if isinstance(new, (int, float))}

    def _look(self, step: int, row: Mapping[str, Any]) -> None:
        """The main process alone has every signal: others measure nothing."""
        assert self._trainer is not None
        names = sorted({waiting.signal.signal for waiting in self._waiting.values()})
        found = self._trainer.engine.from_main(lambda: {name: value_in(row, name) for name in names})
        for number, waiting in self._waiting.items():
            why = waiting.look(found[waiting.signal.signal])
            if why is not None:
                self._why[number] = why
            elif waiting.seen == 0 and step == self._patience(waiting.signal.signal):
                self._trainer.run.event("shape-signal-missing", step=step, signal=waiting.signal.signal)

    def _patience(self, signal: str) -> int:
        """Updates after which a signal that no row has had is worth an event."""
        config = self._config
        if signal in OF_VALIDATION:
            return 2 * (config.eval_every or config.steps)
        return 2 * (config.watch.every or 1)

    def _values(self, done: int) -> dict[str, Value]:
        return self._shaping.values(done, {number: waiting.fired for number, waiting in self._waiting.items()})

    def _reason(self, path: str) -> str:
        for each in self._shaping.awaited:
            if path in {field.path for field in each.fields}:
                return self._why.get(each.number, "signal")
        return "step"

    def _put(self, values: dict[str, Value]) -> list[tuple[str, Value, Value]]:
        """Let the model compute with these values; what changed."""
        assert self._reshaping is not None
        before = self._shaping.values_in(self._reshaping.architecture)
        changed = list(changes_of(values, before))
        if changed:
            self._reshaping.to(self._shaping.shape(values))
        self._now = values
        return changed

    # State

    def state(self) -> dict[str, Any]:
        """The values of the last update that was done, how far each signal is, and why a field is about to change."""
        return {
            VALUES: dict(self._done),
            "signals": {str(number): waiting.state() for number, waiting in self._waiting.items()},
            "why": {str(number): why for number, why in self._why.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave, at once where the run is going on (after a rewind)."""
        if set(state) != _STATE or not all(isinstance(part, dict) for part in state.values()):
            raise ValueError(f"this is no state of a schedule: {dict(state)!r:.80}")
        waiting, values, why = self._shaping.waiting(), dict(state[VALUES]), dict(state["why"])
        numbers = {str(number) for number in waiting}
        if set(state["signals"]) != numbers or not set(why) <= numbers:
            raise ValueError("its signals are not those of train.shape")
        if values and set(values) != set(self._now):
            raise ValueError("its fields are not those of train.shape")
        for number, each in waiting.items():
            each.restore(state["signals"][str(number)])
        try:
            ensure(self._shaping.shape(values))
        except VitruviusError as error:
            raise ValueError(f"its values fit no spec: {error}") from None
        self._waiting, self._done = waiting, values
        self._why = {int(number): str(reason) for number, reason in why.items()}
        if self._reshaping is not None:
            self._put(values or self._shaping.resting())


_STATE = {VALUES, "signals", "why"}
