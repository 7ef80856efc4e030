"""What a run costs whose architecture changes on the way. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.sizing import size
from vitruvius.spec.fields import fields_at
from vitruvius.training.shaping.schedule import shaping_of
from vitruvius.training.workload import tokens_read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec import Architecture
    from vitruvius.spec.fields import Value
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.shaping.schedule import Shaping


def costly_shapes(architecture: Architecture, config: TrainConfig) -> Iterator[Architecture]:
    """The architectures of a run that differ in what a step costs; the spec's own where no schedule changes that."""
    shaping = shaping_of(config, architecture)
    if shaping is None:
        yield architecture
        return
    seen: set[str] = set()
    for values in shaping.meetings():
        told = _costly(shaping, values)
        if repr(told) not in seen:
            seen.add(repr(told))
            yield shaping.shape(told)


def flops_of_run(architecture: Architecture, config: TrainConfig) -> float:
    """Useful FLOPs of all updates, forward and backward; `config` is resolved.

    Of a schedule that waits for a signal, the value is counted all along with which a step costs most: nobody knows
    beforehand when it comes, so that this is a bound then.
    """
    per_step = config.batch * tokens_read(config)
    shaping = shaping_of(config, architecture)
    if shaping is None:
        return _per_token(architecture, config) * per_step * config.steps
    known: dict[str, float] = {}

    def per_token(values: Mapping[str, Value]) -> float:
        told = _costly(shaping, values)
        if repr(told) not in known:
            known[repr(told)] = _per_token(shaping.shape(told), config)
        return known[repr(told)]

    resting: dict[str, Value] = {}
    for each in shaping.awaited:
        ways = [each.values(fired) for fired in range(len(each.then) + 1)]
        resting |= max(ways, key=per_token)
    return sum(per_token(resting | values) * per_step * updates for updates, values in shaping.segments())


def schedule_lines(architecture: Architecture, config: TrainConfig) -> list[str]:
    """What changes when, a line for each field, for people."""
    shaping = shaping_of(config, architecture)
    if shaping is None:
        return []
    lines: list[str] = []
    for timeline in shaping.timelines:
        given = ", ".join(f"{value} from {start:,}" for start, value in timeline.given if start < config.steps)
        lines.append(f"{timeline.path}: {given}" + ("" if timeline.between == "step" else f" ({timeline.between})"))
    for each in shaping.awaited:
        then = ", ".join(map(str, each.then))
        lines += [f"{field.path}: {field.value}, then {then}, by {each.signal.signal}" for field in each.fields]
    return lines


def _costly(shaping: Shaping, values: Mapping[str, Value]) -> dict[str, Value]:
    """Those values on which the cost of a step depends."""
    fields = {path: fields_at(shaping.architecture, path)[0] for path in values}
    return {path: value for path, value in values.items() if fields[path].mark.bears_on == "cost"}


def _per_token(architecture: Architecture, config: TrainConfig) -> float:
    return size(architecture, context=tokens_read(config), mode="train", dtype=config.dtype).train_flops_per_token
