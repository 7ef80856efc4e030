"""How a run is spread over devices, as text. From its plain data alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.report.tables import columns
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_REFUSED = 10
_PARTS = ("weights", "gradients", "optimizer", "gathered", "activations", "margin")


def placing_text(found: Mapping[str, Any]) -> str:
    """The choice with its memory, the settings to paste, the command, and why each alternative was not chosen.

    `found` has the schema `vitruvius.train-placing/1`.
    """
    head = f"{found['name']} on {found['count']} x {found['device']}: batch {found['batch']} of "
    head += f"{found['context_tokens']:,} tokens"
    head += "" if found["kind"] is None else f", kind: {found['kind']} as named"
    chosen = found["chosen"]
    lines = [head]
    if chosen is None:
        lines += ["  nothing fits that can be run here", f"  {found['way_out']}"]
    else:
        memory = chosen["memory"]
        share = memory["total_bytes"] / memory["available_bytes"]
        parts = ", ".join(
            f"{name} {format_bytes(memory[f'{name}_bytes'])}" for name in _PARTS if memory[f"{name}_bytes"]
        )
        total, has = format_bytes(memory["total_bytes"]), format_bytes(memory["available_bytes"])
        many = "micro-batch" if chosen["micro_batches"] == 1 else "micro-batches"
        pieces = f"{chosen['micro_batches']} {many} of {chosen['micro_batch']} on each data rank"
        pace = f"{chosen['step_seconds']:.3g} s an update expected, {chosen['tokens_per_second']:,.0f} tokens/s"
        lines += [
            f"  chosen   {chosen['name']}: {pieces}, checkpointing {chosen['checkpointing']}",
            f"  memory   {total} of {has} on a device ({share:.0%}): {parts}",
            f"  time     {pace} (an estimate: docs/plan.md)",
            "",
            "# for the run file",
            found["yaml"],
            "",
            "# to start it",
            found["command"],
        ]
    if found["others"]:
        lines += ["", "not chosen, though it fits:"]
        rows = [
            (
                f"  {option['name']}",
                f"{option['step_seconds']:.3g} s",
                format_bytes(option["memory"]["total_bytes"]),
                option["why_not"] or "",
            )
            for option in found["others"]
        ]
        lines += columns(rows, align="<>><")
    if found["refused"]:
        lines += ["", "not possible:"]
        refused = found["refused"]
        lines += columns([(f"  {each['what']}", each["why"]) for each in refused[:MOST_REFUSED]], align="<<")
        if len(refused) > MOST_REFUSED:
            lines.append(f"  and {len(refused) - MOST_REFUSED} more")
    return "\n".join(lines)
