"""`train.guard`: what is looked for in every update, and what happens when it is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from vitruvius.errors import Finding
from vitruvius.training.settings.alarms import DEFAULT_RULES, Detector, Rule
from vitruvius.training.settings.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig

Action = Literal["note", "skip", "lower-lr", "rewind", "stop"]
ACTIONS: dict[Action, str] = {
    "note": "the update is applied, and an event says what was seen",
    "skip": "the update is not applied, and the run goes on with the next batch",
    "lower-lr": "the update is not applied, and the learning rate is multiplied by `lr_cut` from here on",
    "rewind": "the run goes back to its newest whole checkpoint, and on with the batches after this one",
    "stop": "the run ends with an error, the state before the update in a checkpoint",
}
"""What can be done about an update, from the mildest to the hardest."""


LEAST_WINDOW = 8
"""Updates; the deviations of fewer say too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard(Section):
    """What is looked for in every update, and what happens when it is found."""

    effect: ClassVar[Literal["bits", "none"]] = "bits"

    not_finite: Literal["skip", "lower-lr", "rewind", "stop"] = "stop"
    """What happens when the loss or a gradient is infinite or NaN; such an update is never applied."""
    spike: Action = "note"
    """What happens when the loss or the gradients' norm is a spike: `note`, `skip`, `lower-lr`, `rewind` or `stop`."""
    loss_z: Annotated[float, Gt(0.0), Le(1e6)] | None = 6.0
    """A loss so many deviations above the median of the last `window` updates is a spike; null: none is."""
    grad_z: Annotated[float, Gt(0.0), Le(1e6)] | None = 12.0
    """The same for the gradients' norm, in its logarithm."""
    window: Annotated[int, Ge(LEAST_WINDOW), Le(10_000)] = 64
    """Updates that a spike is measured against; while there are fewer, nothing is one."""
    lr_cut: Annotated[float, Gt(0.0), Lt(1.0)] = 0.5
    """What `lower-lr` multiplies the learning rate by."""
    retries: Annotated[int, Ge(0), Le(1000)] = 8
    """How often one run may skip, lower or rewind before it stops instead."""

    every: Annotated[int, Ge(1), Le(2**31 - 1)] | None = 50
    """Updates between readings of the [detectors](training/guard.md) inside the model; null: none are taken."""
    alarm: Action = "note"
    """What happens when a detector's reading breaks its rule: `note`, `lower-lr`, `rewind` or `stop`."""
    alarms: dict[Detector, Rule | None] | None = None
    """Rules in the place of the default ones, by detector: `{attention-logit: {above: 50}}`; null switches one off."""
    baseline: Annotated[int, Ge(1), Le(1000)] = 8
    """Readings at the start of a run that `growth` is measured against."""
    history: Annotated[int, Ge(8), Le(1000)] = 32
    """Readings that the `z` of an alarm is measured against; while there are fewer than 8, it says nothing."""
    rows: Annotated[int, Ge(1), Le(1024)] = 1
    """Samples of the batch that detectors read, of each process."""
    tokens: Annotated[int, Ge(1), Le(2**20)] = 512
    """They read at most so many tokens of each; attention maps grow with their square."""

    keep: Literal["nothing", "samples", "checkpoint"] = "checkpoint"
    """What `anomalies/step-N` of the run holds: the batch as text, and with `checkpoint` the state before it too, where
    the update was not applied."""
    keep_newest: Annotated[int, Ge(1), Le(1000)] = 3
    """Folders of anomalies that stay, the newest."""

    def rules(self) -> dict[Detector, Rule]:
        """What holds: the rules given here, and the default ones of the other detectors."""
        given = self.alarms or {}
        rules: dict[Detector, Rule] = {}
        for name, default in DEFAULT_RULES.items():
            rule = given.get(name, default)
            if rule is not None:
                rules[name] = rule
        return rules

    def findings(self, config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
        """Lookouts that nothing would come of."""
        del architecture
        if self.loss_z is None and self.grad_z is None and self.spike != "note":
            what = f"spike: {self.spike} can never happen: loss_z and grad_z are null"
            yield Finding(path="train.guard.spike", what=what, fix="set loss_z: 6, or leave spike out")
        if self.window >= config.steps > 1 and self.spike != "note":
            what = f"spikes are measured against {self.window} updates, and the run has {config.steps}"
            most = config.steps // 2
            fix = f"use at most {most}" if most >= LEAST_WINDOW else "leave spike out, or take more steps"
            yield Finding(path="train.guard.window", what=what, fix=fix)
        yield from self._alarm_findings(config)

    def _alarm_findings(self, config: TrainConfig) -> Iterator[Finding]:
        if self.alarm == "skip":
            what = "an alarm is about the weights, which skipping one update leaves as they are"
            yield Finding(path="train.guard.alarm", what=what, fix="use lower-lr, rewind or stop")
        if self.alarm in {"note", "skip"}:
            pass
        elif self.every is None:
            what = f"alarm: {self.alarm} can never happen: every is null, so that nothing is read"
            yield Finding(path="train.guard.alarm", what=what, fix="set every: 50, or leave alarm out")
        elif self.every > config.steps:
            what = f"detectors are read every {self.every:,} updates, and the run has {config.steps:,}"
            yield Finding(path="train.guard.every", what=what, fix=f"use at most {max(1, config.steps // 4):,}")
        for name, rule in (self.alarms or {}).items():
            if rule is not None and not rule.says_something:
                what = "the rule has no limit that a reading could break"
                fix = f"write above, below, growth or z; or {name}: null to switch it off"
                yield Finding(path=f"train.guard.alarms.{name}", what=what, fix=fix)
