"""A run while it goes, in the terminal: how far it is, how it does, what happened last."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from vitruvius.report.curve import Series, curve_text
from vitruvius.report.run_history import BAD, event_text, finite
from vitruvius.report.run_samples import sample_line
from vitruvius.report.runs_text import number, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LIVE_SCHEMA = "vitruvius.runs-watch/1"
RECENT = 32
"""Updates that medians are over."""
_SHOWN_EVENTS = 4
_FAMILIES = {
    "attention_entropy": "attention entropy",
    "sink_mass": "sink mass",
    "stream_rms": "stream rms",
    "update_ratio": "update/weights",
}


@dataclass(slots=True, kw_only=True)
class Live:
    """What is known of a run that another process writes."""

    name: str
    architecture: str | None
    steps: int | None
    """Updates that it is to have."""
    losses: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    step: int = 0
    last: Mapping[str, Any] = field(default_factory=dict[str, Any])
    validation: Mapping[str, Any] | None = None
    """The last row with a validation."""
    watched: Mapping[str, Any] | None = None
    """The last row of a sampled update."""
    alarmed: Mapping[str, Any] | None = None
    """The last row in which detectors of the guard were read."""
    sample: Mapping[str, Any] | None = None
    """The text that the model wrote last."""
    events: deque[Mapping[str, Any]] = field(default_factory=lambda: deque[Any](maxlen=_SHOWN_EVENTS))
    bad_events: int = 0
    last_bad: Mapping[str, Any] | None = None
    """The last event of something that went wrong."""
    _seconds: deque[float] = field(default_factory=lambda: deque[float](maxlen=RECENT))
    _speeds: deque[float] = field(default_factory=lambda: deque[float](maxlen=RECENT))
    _tokens: int = 0

    def anew(self) -> None:
        """The rows are void: the run was rewound or resumed, and its log written again."""
        self.losses.clear()
        self._seconds.clear()
        self._speeds.clear()
        self.step, self._tokens, self.last, self.validation, self.watched = 0, 0, {}, None, None
        self.alarmed = None

    def add_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in rows of `metrics.jsonl`; one without a step is passed over."""
        for row in rows:
            step = row.get("step")
            if type(step) is not int or not 0 <= step < 2**63:
                continue
            self.step, self.last = step, row
            loss, speed, tokens = (finite(row.get(key)) for key in ("loss", "tokens_per_second", "tokens"))
            if loss is not None:
                self.losses.append((float(step), loss))
            if speed and tokens is not None and tokens > self._tokens:
                self._speeds.append(speed)
                self._seconds.append((tokens - self._tokens) / speed)
            self._tokens = int(tokens or 0)
            if finite(row.get("val_loss")) is not None:
                self.validation = row
            if "watch_seconds" in row:
                self.watched = row
            if finite(row.get("alarms")) is not None:
                self.alarmed = row

    def add_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in rows of `events.jsonl`."""
        for event in events:
            self.events.append(event)
            if str(event.get("kind")) in BAD:
                self.bad_events, self.last_bad = self.bad_events + 1, event

    @property
    def loss(self) -> float | None:
        """Median of the last updates."""
        return median(loss for _, loss in self.losses[-RECENT:]) if self.losses else None

    @property
    def alarms(self) -> int | None:
        """How many are raised and not over; None where no detector was read yet."""
        standing = None if self.alarmed is None else finite(self.alarmed.get("alarms"))
        return None if standing is None else int(standing)

    @property
    def tokens_per_second(self) -> float | None:
        """Median of the last updates."""
        return median(self._speeds) if self._speeds else None

    @property
    def seconds_left(self) -> float | None:
        """Time of the updates that are left, at the median of the last ones; validation and checkpoints come on top."""
        if self.steps is None or not self._seconds:
            return None
        return max(0, self.steps - self.step) * median(self._seconds)

    def line(self, status: str) -> str:
        """All of it in a line."""
        parts = [
            f"step {self.step:,}" + ("" if self.steps is None else f"/{self.steps:,}"),
            f"loss {number(self.loss)}",
        ]
        if self.validation is self.last and self.validation is not None:
            parts.append(f"held out {number(finite(self.validation.get('val_loss')))}")
        parts += [f"lr {number(finite(self.last.get('lr')))}", f"{number(self.tokens_per_second)} tokens/s"]
        if self.alarms:
            parts.append(f"alarms: {self.alarms:,}")
        if self.bad_events:
            parts.append(f"bad events: {self.bad_events:,}{self._bad()}")
        left = self.seconds_left
        parts.append(f"{clock(left)} left" if status == "running" and left else status)
        return "  ".join(parts)

    def text(self, status: str, *, style: str, checkpoint: tuple[int, float] | None, width: int = 64) -> str:
        """Several lines; `checkpoint` is the newest one's step and age in seconds, `width` columns of the curve."""
        left = self.seconds_left
        share = 0.0 if not self.steps else min(1.0, self.step / self.steps)
        bar = ("█" if style == "blocks" else "#") * round(share * 24)
        of = "" if self.steps is None else f" of {self.steps:,}  [{bar:24}] {share:.0%}"
        lines = [
            f"{self.name}  {status}  {self.architecture or ''}".rstrip(),
            f"  step {self.step:,}{of}" + (f"  {clock(left)} left, validation apart" if left else ""),
            f"  loss {number(self.loss)} (median of {min(RECENT, len(self.losses))})  {self._rates()}",
        ]
        if self.validation is not None:
            scored = [finite(self.validation.get(key)) for key in ("val_loss", "val_bits_per_byte")]
            lines.append(
                f"  held-out text {number(scored[0])} nats per token, {number(scored[1])} bits per byte "
                f"(step {self.validation['step']:,})"
            )
        if self.watched is not None:
            lines.append("  " + "  ".join(self._inside()) + f"  (step {self.watched['step']:,})")
        if self.sample is not None:
            lines.append(sample_line(self.sample))
        if self.alarms:
            assert self.alarmed is not None
            lines.append(f"  alarms that are not over: {self.alarms:,} (step {self.alarmed['step']:,})")
        if checkpoint is not None:
            lines.append(f"  checkpoint of step {checkpoint[0]:,}, {clock(checkpoint[1])} ago")
        lines.append(curve_text(Series(name="loss", points=tuple(self.losses)), style=style, width=width))
        if self.bad_events:
            lines.append(f"  events of something that went wrong: {self.bad_events:,}{self._bad()}")
        lines += [f"  {_when(event)} {event.get('kind')}  {event_text(event)}"[:160].rstrip() for event in self.events]
        return "\n".join(lines)

    def _bad(self) -> str:
        """Which one was the last: ` (spike at step 97)`."""
        assert self.last_bad is not None
        step = finite(self.last_bad.get("step"))
        at = "" if step is None else f" at step {step:,.0f}"
        return f" ({one_line(str(self.last_bad.get('kind')))}{at})"

    def _rates(self) -> str:
        rate, norm = (number(finite(self.last.get(key))) for key in ("lr", "grad_norm"))
        return f"lr {rate}  gradient norm {norm}  {number(self.tokens_per_second)} tokens/s"

    def _inside(self) -> list[str]:
        """Means over layers of what was watched last."""
        assert self.watched is not None
        found: list[str] = []
        for name, told in _FAMILIES.items():
            values = [finite(value) for key, value in self.watched.items() if key.startswith(f"{name}/")]
            numbers = [value for value in values if value is not None]
            if numbers:
                found.append(f"{told} {fmean(numbers):.3g}")
        share = finite(self.watched.get("watch_share"))
        return [*found, *([] if share is None else [f"watching {share:.1%} of the time"])]

    def to_dict(self, status: str, checkpoint: tuple[int, float] | None) -> dict[str, Any]:
        """Plain data."""
        scored = self.validation or {}
        return {
            "schema": LIVE_SCHEMA,
            "run": self.name,
            "status": status,
            "architecture": self.architecture,
            "step": self.step,
            "steps": self.steps,
            "seconds_left": self.seconds_left if status == "running" else None,
            "loss": finite(self.last.get("loss")),
            "loss_median": self.loss,
            "val_loss": finite(scored.get("val_loss")),
            "val_bits_per_byte": finite(scored.get("val_bits_per_byte")),
            "tokens_per_second": self.tokens_per_second,
            "checkpoint_step": None if checkpoint is None else checkpoint[0],
            "checkpoint_age_seconds": None if checkpoint is None else checkpoint[1],
            "alarms": self.alarms,
            "bad_events": self.bad_events,
            "sample": None if self.sample is None else dict(self.sample),
            "watched": None if self.watched is None else {k: finite(v) for k, v in self.watched.items() if "/" in k},
        }


def _when(event: Mapping[str, Any]) -> str:
    return str(event.get("time", ""))[11:19]


def clock(seconds: float) -> str:
    """`2:10`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
