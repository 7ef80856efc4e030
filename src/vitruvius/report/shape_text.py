"""How the architecture of a run changed on the way, out of its events: a line for each field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST = 6
"""Values of one field that are shown, the last ones."""
_LONGEST = 60


def shape_lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """`FIELD  32 -> 64 (step 51) -> 128 (step 101)` for each field that a schedule changed; nothing without schedules.

    Updates that a rewind or a resumed run did again tell their changes again; of equal ones the last counts.
    """
    changes: dict[str, dict[int, tuple[object, object]]] = {}
    for event in events:
        step, field = event.get("step"), event.get("field")
        if event.get("kind") == "shape" and isinstance(field, str) and type(step) is int:
            of_field = changes.setdefault(field, {})
            for later in [known for known in of_field if known >= step]:
                del of_field[later]
            of_field[step] = (event.get("from"), event.get("to"))
    lines: list[str] = []
    for field, steps in changes.items():
        shown = list(steps.items())[-MOST:]
        first = "..." if len(shown) < len(steps) else _short(shown[0][1][0])
        lines.append(f"{field}  {first}" + "".join(f" -> {_short(to)} (step {step:,})" for step, (_, to) in shown))
    return lines


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
