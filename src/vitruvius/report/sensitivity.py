"""Which field moves the bill most, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.report.tables import columns

if TYPE_CHECKING:
    from vitruvius.sizing.sensitivity import Effect, Sensitivity

_SHOWN = 20


def sensitivity_text(found: Sensitivity, *, most: int = _SHOWN) -> str:
    """A row for each field, the strongest first, with the values it was tried at and its four elasticities."""
    head = ("field", "value", "tried", "parameters", "memory", "decode speed", "training FLOPs")
    rows = [_row(effect) for effect in found.effects[:most]]
    lines = [
        f"{found.name}: what one percent more of a field does to the bill, in percent",
        "",
        *columns([head, *rows], align="<>>>>>>"),
    ]
    if len(found.effects) > most:
        lines += ["", f"{len(found.effects) - most} more fields matter less; --json has them all"]
    if found.inert:
        lines += ["", f"without effect on the bill: {', '.join(found.inert)}"]
    if found.fixed:
        lines += ["", f"fixed by other fields: {', '.join(found.fixed)}"]
    return "\n".join(lines)


def _row(effect: Effect) -> tuple[str, ...]:
    ends = [_number(value) for value in (effect.smaller, effect.larger) if value is not None]
    speed = "" if effect.decode_speed is None else _slope(effect.decode_speed)
    slopes = (_slope(effect.parameters), _slope(effect.memory), speed, _slope(effect.training_cost))
    return (effect.field, _number(effect.value), " to ".join(ends), *slopes)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _slope(value: float) -> str:
    return "0" if abs(value) < 5e-4 else f"{value:+.3f}" if abs(value) < 0.1 else f"{value:+.2f}"
