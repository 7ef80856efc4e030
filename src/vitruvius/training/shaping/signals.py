"""What a schedule waits for: a signal in the rows of a run, and whether it has come. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum, isfinite
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.training.config import TrainConfig
    from vitruvius.training.settings.shape import Signal

UNSTEADY = ("tokens_per_second", "forward_seconds")
"""What the machine decides: a run that waits for it would not repeat."""
OF_VALIDATION = ("val_loss", "val_bits_per_byte", "val_tokens")
OF_WATCH = ("attention_entropy", "attention_distance", "sink_mass", "stream_rms", "output_lse")
OF_WATCH += ("gate_mean", "gate_std", "update_ratio")
OF_EVERY_ROW = ("loss", "grad_norm", "lr", "tokens", "aux_loss", "router_entropy", "router_logit_norm")
OF_EVERY_ROW += ("router_bias_max", "expert_load_max_over_mean", "expert_load_cv", "dead_experts")
OF_EVERY_ROW += ("dropped_fraction", "unrouted_fraction", "mtp_loss")
KNOWN = OF_EVERY_ROW + OF_VALIDATION + OF_WATCH
"""Signals by name, for whoever writes one wrong; a row may have others."""


def waits_for_watch(config: TrainConfig) -> bool:
    """Whether a schedule waits for what `train.watch` measures, which then decides what is learned.

    A name that nobody knows may be in its rows too.
    """
    awaited = [schedule.when.signal.partition("/")[0] for schedule in config.shape if schedule.when is not None]
    return any(stem not in OF_EVERY_ROW + OF_VALIDATION for stem in awaited)


def value_in(row: Mapping[str, Any], name: str) -> float | None:
    """The signal in a row: its number, or the mean over its places; None where the row has none that is finite."""
    number = row.get(name)
    numbers = [number] if number is not None else [row[key] for key in row if key.startswith(f"{name}/")]
    finite = [float(n) for n in numbers if isinstance(n, (int, float)) and isfinite(n)]
    return fsum(finite) / len(finite) if finite else None


@final
@dataclass(slots=True, kw_only=True)
class Waiting:
    """How far a schedule is that waits for a signal. All of it is in a checkpoint."""

    signal: Signal
    changes: int
    """How often it may happen."""
    fired: int = 0
    """How often it has."""
    recent: list[float] = field(default_factory=list[float])
    """The newest values, at most `over`."""
    lowest: float | None = None
    """Of the means since the last change."""
    waited: int = 0
    """Rows since the lowest."""
    seen: int = 0
    """Rows that had the signal."""

    def look(self, value: float | None) -> str | None:
        """Take the signal of one more row; why the field changes now, or None."""
        if value is None or self.fired == self.changes:
            return None
        self.seen += 1
        self.recent = [*self.recent, value][-self.signal.over :]
        if len(self.recent) < self.signal.over:
            return None
        why = self._why(fsum(self.recent) / len(self.recent))
        if why is not None:
            self.fired += 1
            self.recent, self.lowest, self.waited = [], None, 0
        return why

    def _why(self, mean: float) -> str | None:
        signal, plateau = self.signal, self.signal.plateau
        if plateau is not None:
            if self.lowest is None or mean < self.lowest - plateau.min_change:
                self.lowest, self.waited = mean, 0
                return None
            self.waited += 1
            if self.waited < plateau.patience:
                return None
            return f"{signal.signal} has not fallen below {self.lowest:.6g} for {self.waited} rows"
        for limits, name in ((signal.below, "below"), (signal.above, "above")):
            if limits is not None:
                limit = limits[self.fired] if isinstance(limits, tuple) else limits
                if mean < limit if name == "below" else mean > limit:
                    return f"{signal.signal} {mean:.6g} is {name} {limit:.6g}"
        return None

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON data."""
        return {
            "fired": self.fired,
            "recent": self.recent,
            "lowest": self.lowest,
            "waited": self.waited,
            "seen": self.seen,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises ValueError when that is not what it can have given."""
        counts, recent, lowest = [state.get(name) for name in _COUNTS], state.get("recent"), state.get("lowest")
        sound = all(type(count) is int and count >= 0 for count in counts) and set(state) == _NAMES
        sound = sound and isinstance(recent, list) and len(recent) <= self.signal.over
        if not sound or not all(_is_number(n) for n in (*(recent or ()), 0.0 if lowest is None else lowest)):
            raise ValueError(f"this is no state of a signal: {dict(state)!r:.80}")
        if state["fired"] > self.changes:
            raise ValueError(f"{state['fired']} changes, and there are {self.changes}")
        self.fired, self.waited, self.seen = state["fired"], state["waited"], state["seen"]
        self.recent, self.lowest = [float(n) for n in recent or ()], None if lowest is None else float(lowest)


_COUNTS = ("fired", "waited", "seen")
_NAMES = {*_COUNTS, "recent", "lowest"}


def _is_number(value: object) -> bool:
    return type(value) in {int, float} and isfinite(float(str(value)))
